r"""
The entropy catalog
===================

An f-divergence is one convex function of the density ratio :math:`p=d\rho/d\nu`. Training sees it through the conjugate
:math:`f^*(u)=\sup_{p\ge0}\,(pu-f(p))`, and the slope :math:`(f^*)'(u)` is the weight of a data point in the critic's
gradient: the density ratio that the critic's value stands for. The last plot therefore says most about how a training
behaves.
"""

import matplotlib.pyplot as plt
import torch

from wgflow import FUNCTIONALS, FDivergence, StandardNormal, entropy

names = [name for name in FUNCTIONALS if issubclass(FUNCTIONALS[name], FDivergence)]
print(", ".join(names))

# %%
# Drawn
# -----
# ``kl_dv`` is KL with another estimate of the same divergence, ``chi2_tight`` likewise for chi-squared; ``kl_uncentred``
# shifts the critic by one, and ``chi2_signed`` differs below :math:`u=-2` only. The first two are left out, the last two
# dotted.

STYLE = {
    "identity": ("0.5", "-"),
    "kl": ("C3", "-"),
    "kl_uncentred": ("C3", ":"),
    "chi2": ("C1", "-"),
    "chi2_signed": ("C1", ":"),
    "softplus": ("C0", "-"),
    "js_exact": ("C2", "-"),
    "js_nonsat": ("C4", "-"),
}
p, u = torch.linspace(0, 3.2, 401), torch.linspace(-4, 2, 601)
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
for name, (colour, line) in STYLE.items():
    F = entropy(name, StandardNormal(1))
    style = {"color": colour, "linestyle": line, "linewidth": 1.6}
    if name == "identity":
        left.plot([1, 1], [0, 3], **style)  # zero at 1, infinite elsewhere
    elif name != "chi2_signed":  # the same f
        left.plot(p, F.f(p), **style)
    middle.plot(u, F.f_star(u), label=name, **style)
    slope = F.ratio(u) if name != "js_exact" else torch.where(u < 0.69, F.ratio(u), torch.nan)
    right.plot(u, slope, **style)
left.set(title="$f(p)$", xlabel="$p$, density ratio", ylim=(-0.45, 3))
middle.set(title="$f^*(u)$", xlabel="$u$, potential", ylim=(-3, 4))
right.set(title="$(f^*)'(u)$", xlabel="$u$, potential", ylim=(-0.6, 4))
for ax in (left, middle, right):
    ax.axhline(0, color="0.85", linewidth=0.8, zorder=0)
    ax.axvline(1 if ax is left else 0, color="0.85", linewidth=0.8, zorder=0)
    ax.spines[["top", "right"]].set_visible(False)
figure.legend(loc="outside lower center", ncols=8, frameon=False)
plt.show()

# %%
# What to read off
# ----------------
# * All centered entropies touch :math:`u` at 0 with slope 1: a critic that is constant weighs every data point alike.
# * ``kl`` grows exponentially. One data point that the critic misranks (:math:`u` large) outweighs the batch. In
#   ``wgflow`` the exponential goes on along its tangent above :math:`u=20`.
# * ``softplus`` cannot weigh a point by more than 2, and so imposes :math:`d\rho/d\nu\le2`.
# * ``chi2`` has slope 0 below :math:`u=-2` and ``js_nonsat`` below :math:`-\log2`: such data points get no gradient.
#   ``chi2_signed`` pushes them back instead.
# * ``js_exact`` ends at :math:`u=\log2`, so its critic is a logit that is mapped below it.
