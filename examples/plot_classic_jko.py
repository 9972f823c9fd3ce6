r"""
The classic neural JKO scheme
=============================

One convex network a step. From a Gaussian to three modes, by

.. math::

   \rho_{k+1}=\operatorname*{argmin}_\rho\ \mathrm{KL}(\rho|\pi)+\frac{W_2^2(\rho_k,\rho)}{2h},\qquad
   \rho_{k+1}=(\nabla\psi_k)_\#\rho_k,

where :math:`\psi_k` is convex: by Brenier's theorem every such step has this form. Gradients of convex networks are
invertible and know their log-determinant, so the chain of them has an exact density at every point, and no critic is
needed (Mokrov et al. 2021).
"""

import itertools

import matplotlib.pyplot as plt
import torch

from wgflow import (
    JKO,
    KL,
    LBFGS,
    Chain,
    EqualMovement,
    Gaussian,
    GaussianMixture,
    Save,
    StandardNormal,
    StopAt,
    solve,
)
from wgflow.maps import ICNNGradient

angles = torch.tensor([0.5, 2.6, 4.7])
target = GaussianMixture(1.5 * torch.stack([angles.cos(), angles.sin()], 1), 0.6, torch.tensor([0.4, 0.3, 0.3]))

# %%
# The flow
# --------
# The chain keeps 1000 points and pushes them through every new map, so a step costs the same at every :math:`k`. The
# objective is then a smooth function of the network's weights without noise, and L-BFGS takes a whole step in one update.

POINTS = 1000
start = Chain(StandardNormal(2), lambda: ICNNGradient(2, width=24, depth=3, scale=1.0), cached=POINTS)
solver = JKO(optim=LBFGS(max_iter=100, tolerance=1e-4), iters=1, batch=POINTS)
TIME, STEPS = 0.6, 5

# %%
# A certificate for every step
# ----------------------------
# At the minimum :math:`(x-T(x))/h` is the gradient of the first variation at :math:`T(x)`. Its mean square says that the
# dissipation of the *new* law, the relative Fisher information
#
# .. math:: I(\rho_{k+1}|\pi)=E_{\rho_{k+1}}\bigl|\nabla\log\tfrac{\rho_{k+1}}\pi\bigr|^2,\qquad\text{is}\qquad
#    W_2^2(\rho_k,\rho_{k+1})/h^2.
#
# Both sides can be computed, on fresh points and with the exact density: a step that was not minimized, or whose map
# cannot be the right one, gives itself away.


def certificate(state, target):
    """Return time, KL, the relative Fisher information and the mean square of the last step, on fresh points."""
    p = start.base.draw(4000, torch.Generator().manual_seed(1))
    first = p.x.requires_grad_()
    x, y, log_rho = first, first, start.base.log_prob(first)
    for T in state.measure.maps:
        x = y
        y, logdet = T.with_logdet(x)
        log_rho = log_rho - logdet
    # The gradient in the first point is that in the last one times the Jacobian, transposed.
    jacobian = torch.stack([torch.autograd.grad(y[:, i].sum(), first, retain_graph=True)[0] for i in range(2)], 1)
    ratio = log_rho - target.log_prob(y)
    (gradient,) = torch.autograd.grad(ratio.sum(), first)
    score = torch.linalg.solve(jacobian.mT, gradient)
    return {
        "t": state.t,
        "KL": ratio.mean().item(),
        "dissipation": score.square().sum(1).mean().item(),
        "moved²": (y - x).square().sum(1).mean().item(),
    }


def run(target, step_size, num_steps, *callbacks):
    """Return the solution, and the certificates with the step sizes."""
    save = Save(fn=lambda state: certificate(state, target))
    solution = solve(
        KL(target), solver, start, step_size=step_size, num_steps=num_steps, callbacks=callbacks, save=save
    )
    rows = solution.saved
    for before, after in itertools.pairwise(rows):
        after["h"] = after["t"] - before["t"]
        after["speed²"] = after["moved²"] / after["h"] ** 2
    return solution, rows


constant, steps = run(target, TIME / STEPS, STEPS)

# %%
# A control: on the way to a Gaussian the step is an affine map, which the networks contain.

simple = Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([[0.6, 0.2], [0.2, 0.5]]))
_, control = run(simple, TIME / STEPS, 2)

# %%
# Equal movement
# --------------
# With a constant step the first steps carry most of the way. ``EqualMovement`` chooses the next step size from what the
# last step has moved, so that each moves by about the same distance. It is a step size and a callback at once.

pace = EqualMovement(0.05, distance=0.1, largest=0.2)
_, paced = run(target, pace, 12, pace, StopAt(TIME))

print(f"{'':>16}     t      h      KL   I(rho|pi)   W2²/h²   moved")
for name, rows in (("constant h", steps), ("equal movement", paced), ("control", control)):
    for r in rows[1:]:
        numbers = f"{r['t']:6.2f} {r['h']:6.3f} {r['KL']:7.3f} {r['dissipation']:11.3f} {r['speed²']:8.3f}"
        print(f"{name:>16}{numbers} {r['moved²'] ** 0.5:7.3f}")

# %%
# The laws on the way
# -------------------
# Log densities, not histograms: every pixel is taken back through all maps, and the Jacobians are counted on the way. Below,
# fresh samples: new points of the base, through the same maps.

side = torch.linspace(-4, 4, 70)
pixels = torch.cartesian_prod(side, side)
shown = [0, 1, 2, STEPS]
figure, axes = plt.subplots(2, 5, figsize=(12, 5.1), sharex=True, sharey=True, layout="constrained")


def panel(column, title, log_density, points):
    above, below = axes[:, column]
    levels = torch.arange(-9, 0.1, 1).tolist()
    picture = above.contourf(side, side, log_density.view(70, 70).T.clamp(min=-9), levels, cmap="viridis")
    below.scatter(*points.T, s=1.5, color="C0", linewidths=0)
    above.set(title=title, aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
    below.set(aspect="equal")
    return picture


rng = torch.Generator().manual_seed(2)
base = start.base.draw(1500, rng).x
for column, k in enumerate(shown):
    maps = constant.measure.maps[:k]
    x, logdets, points = pixels, torch.zeros(len(pixels)), base
    with torch.no_grad():
        for T in maps:
            points = T(points)
        for T in reversed(maps):
            x, logdet = T.inverse_with_logdet(x)
            logdets = logdets + logdet
    panel(column, f"k = {k}, t = {steps[k]['t']:.2f}", start.base.log_prob(x) - logdets, points)
picture = panel(4, "target", target.log_prob(pixels), target.draw(1500, rng).x)
figure.colorbar(picture, ax=axes, label="log density", shrink=0.8)
plt.show()

# %%
# What the certificate says
# -------------------------
# Left: KL falls, and both choices of steps follow one curve. Middle: the dissipation of each new law against what its step has
# moved. The control lies on the diagonal. Toward three modes all points lie above it, the slow late steps the most: networks
# of this size, fitted to 1000 points, leave a roughness in the density, which KL hardly notices but its gradient does. Wider
# networks and more points come closer, at a price. Right: how far each step moves.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
for name, rows, colour in (("constant h", steps, "C0"), ("equal movement", paced, "C3"), ("control", control, "0.4")):
    speeds = [r["speed²"] for r in rows[1:]]
    middle.loglog(speeds, [r["dissipation"] for r in rows[1:]], "o", color=colour, markersize=4, label=name)
    if rows is not control:
        left.semilogy([r["t"] for r in rows], [r["KL"] for r in rows], "o-", color=colour, markersize=4)
        right.plot(range(1, len(rows)), [r["moved²"] ** 0.5 for r in rows[1:]], "o-", color=colour, markersize=4)
ends = middle.get_xlim()
middle.loglog(ends, ends, color="0.7", linewidth=1, zorder=0)
left.set(title="KL to three modes", xlabel="t")
middle.set(title="one point a step", xlabel="W2² / h²", ylabel="relative Fisher information")
middle.legend(frameon=False)
right.set(title="root mean square movement", xlabel="k", ylim=(0, None))
for ax in (left, middle, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
