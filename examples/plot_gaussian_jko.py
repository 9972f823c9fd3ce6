r"""
S-JKO against the closed form
=============================

Between Gaussians every JKO step of the Kullback–Leibler divergence is known exactly. With the target
:math:`\nu=N(0,1)` and the current law :math:`N(m,s^2)`, the minimizer of :math:`W_2^2/(2h)+\mathrm{KL}(\cdot|\nu)` is the
Gaussian with

.. math::

   m^+=\frac{m}{1+h},\qquad
   s^+=\frac{s/h+\sqrt{(s/h)^2+4(1/h+1)}}{2(1/h+1)},

and the potential that the critic should find is :math:`v^*=-\log(\rho^+/\nu)`, a parabola. So an affine generator and a
quadratic critic contain the exact answer, and whatever differs from it below is the noise of minibatches.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from wgflow import JKO, KL, SGD, Critic, Pushforward, Save, StandardNormal, solve

MEAN, STD = 2.0, 0.5

# %%
# The two networks
# ----------------
# Any ``nn.Module`` will do. A generator maps latents (n, 1) to points (n, 1), a critic maps points to values (n,).


class Affine(nn.Module):
    """x -> m + s x, so that the law of the output is N(m, s²)."""

    def __init__(self):
        super().__init__()
        self.m, self.s = nn.Parameter(torch.tensor(MEAN)), nn.Parameter(torch.tensor(STD))

    def forward(self, x):
        return self.m + self.s * x


class Quadratic(nn.Module):
    """y -> a + b y + c y²/2."""

    def __init__(self):
        super().__init__()
        self.abc = nn.Parameter(torch.zeros(3))

    def forward(self, y):
        y = y[:, 0]
        return torch.stack([torch.ones_like(y), y, y.square() / 2], 1) @ self.abc


# %%
# The flow
# --------
# The combination is: JKO in time, a critic for the first variation, a pushforward for the measure. ``cost="sum"`` (the default)
# makes ``step_size`` the :math:`h` of the formulas above.


def s_jko(h, num_steps):
    """Return (m, s) after every step, and the critic's coefficients."""
    solver = JKO(Critic(Quadratic, SGD(0.05)), optim=SGD(0.05), iters=500, batch=1000)
    solution = solve(
        KL(StandardNormal(1), batch=1000),
        solver,
        Pushforward(StandardNormal(1), Affine),
        step_size=h,
        num_steps=num_steps,
        save=Save(
            fn=lambda state: (state.measure.net.m.item(), state.measure.net.s.item(), state.estimator.net.abc.tolist())
        ),
    )
    return solution.saved


def closed_form(h, num_steps):
    """Return (m, s) after every step."""
    m, s, a = MEAN, STD, 1 / h + 1
    steps = [(m, s)]
    for _ in range(num_steps):
        m, s = m / (1 + h), (s / h + math.sqrt((s / h) ** 2 + 4 * a)) / (2 * a)
        steps.append((m, s))
    return steps


STEPS = {0.5: 6, 2.0: 3}
learned = {h: s_jko(h, k) for h, k in STEPS.items()}
exact = {h: closed_form(h, k) for h, k in STEPS.items()}

for h in STEPS:
    print(f"h = {h}:   learned m, s         exact m, s")
    for (m, s, _), (m_exact, s_exact) in zip(learned[h], exact[h], strict=True):
        print(f"         {m:7.3f} {s:7.3f}     {m_exact:7.3f} {s_exact:7.3f}")

# %%
# What happened
# -------------
# Left: the laws :math:`\rho_0,\rho_1,\dots` on their way to the target (gray). Middle: mean and standard deviation against
# time; the dots are the trained networks, the lines through them the closed form, and dashed is the continuous flow
# :math:`m(t)=m e^{-t}`, :math:`s^2(t)=1+(s^2-1)e^{-2t}`, which implicit Euler lags behind, the more the larger :math:`h`.
# Right: the critic of the first three steps against :math:`v^*`.

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
y = torch.linspace(-3, 4, 300)


def density(m, s):
    return torch.exp(-((y - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi))


left.fill_between(y, density(0, 1), color="0.88", label="target")
colours = plt.cm.viridis(torch.linspace(0, 0.9, STEPS[0.5] + 1).tolist())
for k, (m, s, _) in enumerate(learned[0.5]):
    left.plot(y, density(m, s), color=colours[k], label=f"k = {k}" if k in (0, 1, STEPS[0.5]) else None)
left.set(title="laws of the S-JKO steps, h = 0.5", xlabel="y", ylim=(0, None))
left.legend(frameon=False)

t = torch.linspace(0, 6.2, 200)
middle.plot(t, MEAN * torch.exp(-t), "--", color="0.6")
middle.plot(t, (1 + (STD**2 - 1) * torch.exp(-2 * t)).sqrt(), "--", color="0.6", label="continuous flow")
for colour, h in zip(("C0", "C3"), STEPS, strict=True):
    times = [h * k for k in range(STEPS[h] + 1)]
    for j in (0, 1):
        middle.plot(times, [e[j] for e in exact[h]], color=colour, linewidth=1)
        middle.plot(times, [e[j] for e in learned[h]], "o", color=colour, markersize=4, label=None if j else f"h = {h}")
middle.text(0.35, 1.85, "mean")
middle.text(3.1, 1.06, "standard deviation")
middle.set(title="dots: networks, lines: closed form", xlabel="t")
middle.legend(frameon=False)

for k in (1, 2, 3):
    m, s = exact[0.5][k]
    a, b, c = learned[0.5][k][2]
    right.plot(y, math.log(s) + (y - m) ** 2 / (2 * s**2) - y**2 / 2, color="0.75", linewidth=4)
    right.plot(y, a + b * y + c * y**2 / 2, color=colours[k], label=f"k = {k}")
right.set(title="critic, gray: exact potential", xlabel="y")
right.legend(frameon=False)
for ax in (left, middle, right):
    ax.spines[["top", "right"]].set_visible(False)
plt.show()
