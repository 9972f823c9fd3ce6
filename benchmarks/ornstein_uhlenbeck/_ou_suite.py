"""The Ornstein–Uhlenbeck suite of Mokrov et al. (2021): its targets, exact rows, published numbers, and scores.

From N(0, I) towards N(b, S), 15 targets a dimension, JKO steps of 0.05; the score is the mean over targets of log10 of the
symmetric KL to the exact law at a time. Everything is Gaussian, so the score of the exact JKO iterates, which is the best that any
solver of its steps can have, is a formula. No density is estimated with kernels here: a chain of maps knows its own.
"""

import math
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from wgflow import BadInput, Gaussian
from wgflow.measures.chain import Chain
from wgflow.reference import Moments, OrnsteinUhlenbeck, symmetric_kl, symmetric_kl_floor

H, TIMES, TARGETS = 0.05, (0.5, 0.9), 15
PUBLISHED = {
    # Result files of github.com/PetrMokrov/Large-Scale-Wasserstein-Gradient-Flows (MIT), averaged. EM: 50,000 particles, scored
    # there with a kernel density estimate, whose error it is (it does not change with t).
    "ICNN-JKO (published)": {
        0.5: {1: -3.13, 2: -2.57, 4: -2.11, 6: -1.77, 8: -1.77, 10: -1.75, 12: -1.60},
        0.9: {1: -3.46, 2: -2.45, 4: -2.17, 6: -1.98, 10: -1.86, 12: -1.75},
    },
    "Euler–Maruyama with KDE (published)": {
        0.5: {1: -3.23, 2: -2.16, 4: -0.98, 6: -0.30, 8: 0.12, 10: 0.39, 12: 0.58},
        0.9: {1: -3.28, 2: -2.19, 4: -0.98, 6: -0.30, 10: 0.39, 12: 0.58},
    },
    "dual JKO (published)": {
        0.5: {1: -3.00, 2: -1.18, 4: -0.11, 6: 0.10, 8: 0.47, 10: 0.42, 12: 0.58},
        0.9: {1: -2.60, 2: -1.03, 4: -0.61, 6: -0.36, 10: 0.17, 12: 0.27},
    },
    # Choi et al. (2024), tables 6 and 7.
    "S-JKO (published)": {
        0.5: {2: -2.3, 4: -0.9, 6: -1.8, 10: -0.1},
        0.9: {2: -2.4, 4: -1.2, 6: -0.8, 10: -0.1},
    },
}


def target(d: int, number: int) -> Gaussian:
    """Return target ``number`` in dimension ``d``, from the seeds of the published experiments.

    S is what scikit-learn's ``make_spd_matrix`` returns. It goes through singular vectors, whose signs are LAPACK's choice.
    """
    rng = np.random.RandomState(zlib.crc32(f"abacaba@{d}@{number}numpy".encode()))
    X = rng.uniform(size=(d, d))
    U, _, Vh = np.linalg.svd(X.T @ X)
    S = U @ (1.0 + np.diag(rng.uniform(size=d))) @ Vh
    return Gaussian(torch.from_numpy(rng.randn(d)), torch.from_numpy((S + S.T) / 2))


def start(d: int) -> Moments:
    return Moments(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64))


def score(law: Moments, flow: OrnsteinUhlenbeck, t: float) -> float:
    """Return log10 of the symmetric KL between a Gaussian and the exact law."""
    return math.log10(float(symmetric_kl(law, flow.exact(start(len(law.mean)), t))))


def recursion(
    d: int,
    step: Callable[[OrnsteinUhlenbeck, Moments, float], Moments],
    h: float,
    targets: Iterable[int] = range(TARGETS),
) -> dict[str, float | None]:
    """Return the mean score of a recursion for moments at every time; None where a target has diverged or collapsed."""
    found: dict[str, list[float]] = {f"{t:g}": [] for t in TIMES}
    for number in targets:
        flow, law, reached = OrnsteinUhlenbeck.towards(target(d, number)), start(d), dict.fromkeys(found, math.nan)
        with suppress(BadInput):  # a covariance that rounding cannot tell from a singular one
            for k in range(1, round(max(TIMES) / h) + 1):
                law = step(flow, law, h)
                for t in TIMES:
                    if k == round(t / h):
                        reached[f"{t:g}"] = score(law, flow, t)
        for t, value in reached.items():
            found[t].append(value)
    means = {t: float(np.mean(v)) for t, v in found.items()}
    return {t: mean if math.isfinite(mean) else None for t, mean in means.items()}


def exact_rows(d: int) -> list[dict]:
    """Return the rows that are formulas, and the published ones."""
    rows = [
        ("exact JKO, h = 0.05: the floor", recursion(d, OrnsteinUhlenbeck.jko, H)),
        ("forward Euler with the exact score, h = 0.05", recursion(d, OrnsteinUhlenbeck.forward_euler, H)),
        ("forward-backward, exact, h = 0.05", recursion(d, OrnsteinUhlenbeck.forward_backward, H)),
        ("Langevin, h = 0.001, infinitely many particles", recursion(d, OrnsteinUhlenbeck.langevin, 1e-3)),
    ]
    sampling = math.log10(symmetric_kl_floor(d, 50000))
    rows.append(("a Gaussian fit to 50,000 exact draws", {f"{t:g}": sampling for t in TIMES}))
    for label, table in PUBLISHED.items():
        rows.append((label, {f"{t:g}": table[t][d] for t in TIMES if d in table[t]}))
    return [{"label": label, "log10_symkl": values} for label, values in rows]


@torch.no_grad()
def symmetric_kl_by_density(chain: Chain, law: Gaussian, n: int, rng: torch.Generator) -> float:
    r"""Return :math:`\mathrm{KL}(\rho|p)+\mathrm{KL}(p|\rho)` from fresh draws of both and the densities.

    :math:`\mathrm{KL}(\rho|p)=E_\rho[\ell+e^{-\ell}-1]` with :math:`\ell=\log\rho/p`: nonnegative, with a relative error of about
    :math:`n^{-1/2}`, where the mean of :math:`\ell` alone has :math:`(2/n\,\mathrm{KL})^{1/2}`.
    """
    p = chain.inference().draw(n, rng)
    assert p.log_rho is not None
    y: Tensor = law.draw(n, rng).x
    ratios = (p.log_rho - law.log_prob(p.x), law.log_prob(y) - chain.log_prob(y))
    return sum(float((r + torch.expm1(-r)).mean()) for r in ratios)
