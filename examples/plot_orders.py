r"""
Orders of convergence
=====================

The order of a scheme is seen from the error at half of the step. This test also finds wrong factors that no picture shows. The
example is the flow of :math:`\mathrm{KL}(\cdot|N(0,1))` from :math:`N(2,4)` to time 1, whose exact law is
:math:`N(2e^{-1},1+3e^{-2})`.
"""

import math

import matplotlib.pyplot as plt
import torch

from wgflow import (
    JKO,
    KL,
    LBFGS,
    RK4,
    Entropy,
    ForwardEuler,
    Heun,
    Langevin,
    Particles,
    PotentialEnergy,
    Unnormalised,
    plotting,
    solve,
)
from wgflow.reference import GaussianFit

# %%
# Deterministic schemes
# ---------------------
# A Gaussian stays Gaussian, so the density is that of a Gaussian with the particles' own mean and variance
# (``GaussianFit``), and 200 particles at quantiles carry no sampling error at all: what is left is the error of the scheme.


def potential(x):
    return 0.5 * x[:, 0].square()


F = PotentialEnergy(potential) + Entropy(GaussianFit())
z = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)[:, None]
start = Particles(2 + 2 * z / z.std(correction=0))  # mean 2 and standard deviation 2, to the last digit
exact = 2 * math.exp(-1), math.sqrt(1 + 3 * math.exp(-2))


def moments(x):
    return x.mean().item(), x.std(correction=0).item()


def error(found):
    return math.dist(found, exact)


STEPS = [5, 10, 20, 40]
h = [1 / n for n in STEPS]
SOLVERS = {"forward Euler": ForwardEuler(), "JKO": JKO(optim=LBFGS(), iters=1), "Heun": Heun(), "RK4": RK4()}
ends = {
    name: [moments(solve(F, solver, start, step_size=1 / n, num_steps=n).measure.x) for n in STEPS]
    for name, solver in SOLVERS.items()
}
errors = {name: [error(end) for end in found] for name, found in ends.items()}

# %%
# Langevin, and an average
# ------------------------
# Noise has an order in law. To see it, the sampling error must be below the error of the scheme: :math:`4\cdot10^5` independent
# particles know the moments to about 0.003. (Their seed is not that of the flow, 0, or its first noise would be the start.)
#
# Forward Euler is ahead of the flow and JKO behind it, by the same amount to first order. So the plain average of their
# moments is of second order: a cheap improvement.

many = Particles(2 + 2 * torch.randn(400_000, 1, generator=torch.Generator().manual_seed(1)))
pi = KL(Unnormalised(lambda x: -potential(x), 1))
errors["Langevin"] = [
    error(moments(solve(pi, Langevin(), many, step_size=1 / n, num_steps=n).measure.x.double())) for n in STEPS
]
pairs = zip(ends["forward Euler"], ends["JKO"], strict=True)
errors["mean of Euler and JKO"] = [error(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)) for a, b in pairs]

figure, ax = plt.subplots(figsize=(5.6, 4.4), layout="constrained")
plotting.order(h, errors, slopes=(1, 2, 4), ylabel="error of (mean, standard deviation)", ax=ax)
plt.show()

print(f"{'steps':>22}" + "".join(f"{n:>10}" for n in STEPS))
for name, found in errors.items():
    print(f"{name:>22}" + "".join(f"{e:10.1e}" for e in found))
signs = {name: ends[name][-1][0] - exact[0] for name in ("forward Euler", "JKO")}
print("error of the mean at the finest step:", ", ".join(f"{name} {e:+.4f}" for name, e in signs.items()))
