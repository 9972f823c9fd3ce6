"""The transport cost of an implicit step."""

from typing import Literal

from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.typing import Points


def transport_cost(x: Points, y: Points, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    r"""Return :math:`\tfrac12\lVert x_i-y_i\rVert^2`, shape (n,), summed or averaged over the coordinates of a point.

    Parameters
    ----------
    x, y : Tensor, shape (n, \*event)
        Points before and after a step, in pairs.
    reduction : {"sum", "mean"}
        Over the coordinates of a point.

    Returns
    -------
    Tensor, shape (n,)
        The cost of every pair.

    Raises
    ------
    BadInput
        When the shapes differ (they would broadcast) or the reduction is unknown.

    Examples
    --------
    >>> import torch
    >>> import wgflow as wg
    >>> wg.transport_cost(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))  # 25 / 2
    tensor([12.5000])
    """
    if x.shape != y.shape:
        raise BadInput(f"the transport cost pairs points one to one: got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    squares = (x - y).square().flatten(1)
    if reduction == "sum":
        return squares.sum(1) / 2
    if reduction == "mean":
        return squares.mean(1) / 2
    raise BadInput(f"reduction={reduction!r}: expected 'sum' or 'mean'")
