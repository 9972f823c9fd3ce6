"""Mean and spread of a measure."""

import math
from dataclasses import dataclass

import torch

from wgflow.core.errors import BadInput
from wgflow.core.fields import Checked, Count, checked
from wgflow.core.finite import first_nonfinite_index
from wgflow.measures.base import Measure
from wgflow.measures.weighed import distinct


@dataclass(frozen=True)
class Moments(Checked):
    r"""Size of the mean and of the spread, for toy problems.

    =============  ==================================================================================
    ``mean_norm``  :math:`|m|`, :math:`m=\sum_i w_i x_i`
    ``std_mean``   :math:`\sqrt{\mathrm{tr}\,C/d}`, :math:`C=\sum_i w_i (x_i-m)(x_i-m)^\top`
    ``std_min``    root of the smallest eigenvalue of C: a collapsed direction shows here
    ``std_max``    root of the largest
    =============  ==================================================================================

    There is no n/(n-1) correction.

    Parameters
    ----------
    n : int
        Points drawn; ``std_min`` means something only when n is well above the dimension d.

    Raises
    ------
    BadInput
        In a call, for points that are not finite or weights that are no numbers.

    Examples
    --------
    >>> import torch
    >>> from wgflow.measures import Particles
    >>> square = Particles(torch.tensor([[0.0, 1.0], [0.0, -1.0], [2.0, 1.0], [2.0, -1.0]]))
    >>> {k: round(v, 6) for k, v in Moments()(square, torch.Generator()).items()}
    {'mean_norm': 1.0, 'std_mean': 1.0, 'std_min': 1.0, 'std_max': 1.0}
    """

    n: Count = 1000

    @checked
    @torch.no_grad()
    def __call__(self, rho: Measure, rng: torch.Generator) -> dict[str, float]:
        """Return the four numbers for ``rho``."""
        p = distinct(rho, self.n, rng)
        x, w = p.x.flatten(1).double(), p.w.double()
        if not bool(torch.isfinite(x).all()):
            point = first_nonfinite_index(x)[0]
            raise BadInput(f"the measure has points that are not finite: the first is number {point} of {len(x)} drawn")
        mean, d = w @ x, x.shape[1]
        std = torch.linalg.svdvals(w.sqrt()[:, None] * (x - mean))  # roots of the eigenvalues of C
        return {
            "mean_norm": float(mean.norm()),
            "std_mean": float(std.norm()) / math.sqrt(d),
            "std_min": float(std[-1]) if len(std) == d else 0.0,
            "std_max": float(std[0]),
        }
