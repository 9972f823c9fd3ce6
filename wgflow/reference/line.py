"""Exact flows on the line, where W2 is the distance of quantile functions."""

from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import NonNegative, checked


@checked
def w1_flow(x: Tensor, y: Tensor, t: NonNegative) -> Tensor:
    r"""Return the quantiles at time t of the flow of :math:`W_1(\cdot,\nu)`.

    They are :math:`Q_\nu+\operatorname{sgn}(D)(|D|-t)_+` with :math:`D=Q_0-Q_\nu`.
    A JKO step of size h is the same formula with t = h, so the scheme has no error in time.

    Parameters
    ----------
    x, y : Tensor, shape (n,)
        Quantiles of the start and of :math:`\nu` at the same levels, sorted.
    t : float
        Time, 0 or more.

    Returns
    -------
    Tensor, shape (n,)
        The quantiles, sorted.

    Raises
    ------
    BadInput
        For quantiles that are not sorted, shapes that differ, or a negative time.

    Examples
    --------
    >>> import torch
    >>> w1_flow(torch.tensor([0.0, 1.0]), torch.tensor([0.2, 3.0]), 0.5)
    tensor([0.2000, 1.5000])
    """
    if x.shape != y.shape or x.dim() != 1 or t < 0:
        raise BadInput(
            f"w1_flow: expected two vectors of one length and t >= 0, got {tuple(x.shape)}, {tuple(y.shape)}, {t}"
        )
    D = x - y
    return y + D.sign() * (D.abs() - t).clamp(min=0)
