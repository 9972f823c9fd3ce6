r"""
Compare discretizations
=======================

The choice of a scheme depends on the accuracy that is needed and on the cost of a step. This example compares six schemes for the flow
of KL to a Gaussian in the plane, whose law is known at every time.
"""

import matplotlib.pyplot as plt

import wgflow as wg

# %%
# The problem
# -----------
# A problem is a functional, a start, and the exact flow. This ready one has particles with exactly the moments of the start, and the
# entropy of the Gaussian with their moments, so that a scheme without noise has no error but that in time.

problem = wg.bench.ornstein_uhlenbeck(d=2, n=2000)
jko = wg.JKO(optim=wg.LBFGS(), iters=1)
methods = {
    "forward Euler": wg.ForwardEuler(),
    "JKO": wg.bench.Method(jko, seeds=1),  # a long step without noise need not be repeated
    "Heun": wg.Heun(),
    "RK4": wg.RK4(),
    "Langevin": wg.Langevin(),
    "closed form of W1": wg.Proximal(),
}
result = wg.bench.compare(problem, methods, step_sizes=[0.2, 0.1, 0.05, 0.025], seeds=3, progress=False)

# %%
# What it says
# ------------
# Orders are as they should be; behind ± is how far slopes between neighboring step sizes are from them. A JKO step is some ten
# times the work of an Euler step for the same order: what it buys is not accuracy but stability. Noise has a floor, the error of
# 2000 draws of the exact law itself. Langevin is near it for all of these steps, and gets no order. What cannot serve the functional
# is refused, with what to use instead.

print(result.table(width=100))

# %%
# At equal cost
# -------------
# On the left errors against step size, whose slopes are the orders; on the right the same errors against what they cost.

result.plot(figure=plt.figure(figsize=(8.4, 3.9), layout="constrained"))
plt.show()
