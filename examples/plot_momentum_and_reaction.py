r"""
Momentum and reactions
======================

A gradient flow can be slow for two reasons. In a narrow valley the gradient along the valley is small, and momentum helps. Between two
modes mass must cross a barrier. A reaction (Wasserstein–Fisher–Rao) decreases mass in one place and increases it in another instead.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    KL,
    RBF,
    Accelerated,
    BirthDeath,
    Blob,
    ForwardEuler,
    GaussianMixture,
    KernelDensity,
    Particles,
    PotentialEnergy,
    Reweight,
    WithReaction,
    plotting,
    solve,
)

rng = torch.Generator().manual_seed(1)

# %%
# A narrow valley
# ---------------
# :math:`V=\tfrac12(x_1^2+0.01\,x_2^2)`. The flow needs a time of :math:`1/0.01` for the second coordinate, the damped Hamiltonian one of
# :math:`1/\sqrt{0.01}`. Both are known: :math:`x_j(t)=e^{-\lambda_jt}x_j(0)`, and with momentum from rest the solution of
# :math:`\ddot x+\gamma\dot x+\lambda x=0`, here with :math:`\gamma=2\sqrt{0.01}`, critical for the slow coordinate.

LAMBDA, FRICTION = (1.0, 0.01), 0.2
valley = PotentialEnergy(lambda x: 0.5 * (x.square() @ x.new_tensor(LAMBDA)))
cloud = Particles(torch.tensor([3.0, 6.0]) + torch.randn(200, 2, generator=rng))
flows = {
    "gradient flow": solve(valley, ForwardEuler(), cloud, step_size=0.2, num_steps=500),
    "with momentum": solve(valley, Accelerated(friction=FRICTION), cloud, step_size=0.2, num_steps=500),
}


def oscillator(lam, t):
    """The solution of the damped oscillator that starts at 1 from rest."""
    rate = FRICTION / 2
    if math.isclose(lam, rate**2):
        return (1 + rate * t) * math.exp(-rate * t)
    omega = math.sqrt(lam - rate**2)
    return math.exp(-rate * t) * (math.cos(omega * t) + rate / omega * math.sin(omega * t))


start = cloud.x.square().mean(0).tolist()
EXACT = {"gradient flow": lambda lam, t: math.exp(-lam * t), "with momentum": oscillator}
figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.3), layout="constrained", width_ratios=(2, 3))
for (name, flow), colour in zip(flows.items(), ("#0072B2", "#D55E00"), strict=True):
    plotting.trajectories(flow, valley.potential, count=8, color=colour, limits=[(-6, 6), (-4, 9)], ax=left)
    energies = [
        0.5 * sum(lam * m * EXACT[name](lam, t) ** 2 for lam, m in zip(LAMBDA, start, strict=True)) for t in flow.times
    ]
    right.plot(flow.times, energies, color="0.85", linewidth=4.5, label="exact" if name == "gradient flow" else None)
plotting.energy(flows, valley, ax=right)
right.set(ylim=(1e-7, 20))
plt.show()

# %%
# Two modes
# ---------
# Target masses 0.3 and 0.7, at distance 4; start with 0.7 and 0.3. Transport alone keeps what each mode has: KL between
# separate modes has a flat direction that transport cannot follow. A reaction of rate 1 can. While both modes are in
# equilibrium within, the log-odds of the masses relax exactly like :math:`e^{-t}`.

means, masses = torch.tensor([[-2.0], [2.0]], dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
target = GaussianMixture(means, 0.5, masses)
normal = torch.special.ndtri((torch.arange(100, dtype=torch.float64) + 0.5) / 100)
quantiles = torch.cat([-2 + 0.5 * normal, 2 + 0.5 * normal])[:, None]
weighted = Particles(quantiles, torch.tensor([0.7] * 100 + [0.3] * 100, dtype=torch.float64).log())
equal = Particles(GaussianMixture(means, 0.5, masses.flip(0)).draw(300, rng).x)

F, blob = KL(target), Blob(KernelDensity(RBF(0.2)))
transport = ForwardEuler(blob)
modes = {
    "transport alone": solve(F, transport, weighted, step_size=0.05, num_steps=120),
    "weights": solve(F, WithReaction(transport, Reweight(1.0)), weighted, step_size=0.05, num_steps=120),
    "birth and death": solve(
        F, WithReaction(transport, BirthDeath(1.0, jitter=0.05)), equal, step_size=0.05, num_steps=120
    ),
}


def left_mass(rho):
    return rho.mean((rho.x[:, 0] < 0).double())


def exact_mass(t):
    odds = math.log(0.3 / 0.7) + math.exp(-t) * (math.log(0.7 / 0.3) - math.log(0.3 / 0.7))
    return 1 / (1 + math.exp(-odds))


figure, axes = plt.subplots(1, 4, figsize=(11.5, 2.7), layout="constrained")
for ax, (name, solution) in zip(axes, modes.items(), strict=False):
    plotting.particles(solution, over=target, limits=[(-4, 4)], ax=ax)
    ax.set_title(name)
plotting.energy(modes, left_mass, exact=exact_mass, ylabel="mass on the left", ax=axes[-1])
plt.show()

for name, solution in modes.items():
    print(
        f"{name:16} mass on the left at t = 1: {left_mass(solution.saved[20]):.3f}, at the end {left_mass(solution.measure):.3f}"
    )
print(f"{'exact':16} mass on the left at t = 1: {exact_mass(1.0):.3f}, at the end {exact_mass(6.0):.3f}")
