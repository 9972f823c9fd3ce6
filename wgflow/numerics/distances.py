r"""Squared distances between two clouds, block by block, each right to its own size.

As a product of lifted matrices a block costs one product in any dimension, with a rounding error of some
:math:`\varepsilon(|x|^2+|y|^2)`: nothing for most pairs, everything for two points that are near each other and far from the
center. Rows that hold such a pair are seen by their least distance and formed again from differences, which do not cancel.
"""

import math
import threading
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput
from wgflow.core.typing import Points
from wgflow.numerics.pair_clock import timed

# Entries of one block: on a CPU it and its temporaries stay in the cache of a core; a GPU wants large ones.
BLOCK_CPU, BLOCK_CUDA = 2**18, 2**25
# Entries from which on an allocator hands a block back to the system, so that every new page costs.
LARGE = 2**14
# Up to this many coordinates all distances come from differences, for functions that are smooth at 0 and for others.
DIRECT_SMOOTH, DIRECT = 2, 4
# Up to this many coordinates differences beat a product in double precision.
FEW = 16
# Two points are near when their squared distance is below this part of that from the centre. In few coordinates the part
# is less, 2^(-40/d) and 2^(-30/d): of ordinary clouds few rows hold such a pair.
NEAR_SMOOTH, NEAR = 2.0**-10, 2.0**-5
# The centre of a cloud is the median of about so many points.
CENTRED_ON = 64
# Squared sizes of clouds for which single precision will do: squares of much less than the size must not vanish either.
SMALLEST, LARGEST = 1e-20, 1e34


def tiles(n: int, m: int, device: torch.device, symmetric: bool = False) -> Iterator[tuple[slice, slice]]:
    """Cut an (n, m) rectangle into blocks of bounded size; of a square its upper half only, if asked. Holds TF32 off."""
    with full_precision(device):
        yield from timed(_blocks(n, m, device, symmetric), n, m, symmetric)


def _blocks(n: int, m: int, device: torch.device, symmetric: bool) -> Iterator[tuple[slice, slice]]:
    block = BLOCK_CUDA if device.type == "cuda" else BLOCK_CPU
    side = max(1, int(block**0.5))
    rows = min(n, side)
    columns = rows if symmetric else max(side, block // rows)
    for i in range(0, n, rows):
        for j in range(i if symmetric else 0, m, columns):
            yield slice(i, min(i + rows, n)), slice(j, min(j + columns, m))


def readable(t: Tensor) -> bool:
    """Whether reading a number waits for no device."""
    return type(t) is Tensor and t.is_cpu


def middle(points: Tensor) -> Tensor:
    """Return a center of points (..., n, d), shape (..., d): a mean would follow one far point away from all others."""
    return points[..., :: -(-points.shape[-2] // CENTRED_ON), :].median(-2)[0]


class Cloud:
    r"""Points (n, d) prepared for distances.

    Lifted, :math:`|x-y|^2` is ``[x, |x|^2, 1]`` times ``[-2y, 1, |y|^2]``, with the origin at ``centre``.
    """

    def __init__(self, points: Tensor, centre: Tensor) -> None:
        self.points, self.centre = points, centre
        self.x = points - centre
        """Points from the center."""

    @cached_property
    def squares(self) -> Tensor:
        """Squared lengths, shape (n, 1)."""
        return self.x.square().sum(1, keepdim=True)

    def in_range(self) -> bool:
        """Whether single precision holds the squares."""
        least, most = map(float, self.x.aminmax())  # the norm of this name takes many times as long
        largest = max(-least, most)
        # All points may be at one place, and what is not finite stays so.
        return SMALLEST < largest**2 < LARGEST / self.x.shape[1] or largest == 0 or not math.isfinite(largest)

    @cached_property
    def one(self) -> Tensor:
        """A column of ones."""
        return torch.ones_like(self.x[:, :1])

    @cached_property
    def rows(self) -> Tensor:
        """Left factor, as the first of two clouds."""
        return torch.cat([self.x, self.squares, self.one], 1)

    @cached_property
    def columns(self) -> Tensor:
        """Right factor, as the second."""
        n, d = self.x.shape
        columns = self.x.new_empty(d + 2, n)  # written once: to transpose what has been put together takes far longer
        torch.mul(self.x.T, -2, out=columns[:d])
        columns[d] = 1
        columns[d + 1] = self.squares[:, 0]
        return columns

    @cached_property
    def coordinates(self) -> tuple[Tensor, ...]:
        """The points' own coordinates, each of shape (n, 1)."""
        return self.points.T.contiguous().unsqueeze(2).unbind()

    @cached_property
    def coordinates_across(self) -> tuple[Tensor, ...]:
        """The same, each of shape (1, n)."""
        return tuple(c.T for c in self.coordinates)

    @cached_property
    def double(self) -> "Cloud":
        """The same in double precision."""
        return self if self.points.dtype == torch.float64 else Cloud(self.points.double(), self.centre.double())


def check_same_points(x: Points, y: Points) -> None:
    """Refuse two clouds of other event shapes, dtypes or devices."""
    if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype or x.device != y.device:
        ours, theirs = (f"{tuple(p.shape[1:])} {p.dtype} {p.device}" for p in (x, y))
        raise BadInput(f"two clouds must agree in the shape of a point, dtype and device: got {ours} and {theirs}")


class _Places(threading.local):
    def __init__(self) -> None:
        self.held: dict[tuple[int, torch.dtype], Tensor] = {}


_places = _Places()


def _place(k: int, column: Tensor, row: Tensor) -> Tensor | None:
    """Return the k-th place for a block of the shape of their sum, in use until it is asked for again; None to allocate.

    On a CPU a large one stays with the thread.
    """
    n, m = column.shape[0], row.shape[1]
    size = n * m
    if not LARGE <= size <= BLOCK_CPU or not readable(column):
        return None
    place = _places.held.get((k, column.dtype))
    if place is None or place.numel() < size:
        with torch.inference_mode(False):  # what is made there cannot be written to elsewhere
            place = torch.empty(BLOCK_CPU, dtype=column.dtype, device="cpu")
        _places.held[k, column.dtype] = place
    return place.as_strided((n, m), (m, 1))


def _same_memory(x: Tensor, y: Tensor) -> bool:
    return type(x) is type(y) is Tensor and (x.data_ptr(), x.shape, x.stride()) == (y.data_ptr(), y.shape, y.stride())


class Distances:
    r"""Squared distances between two sets of points, block by block.

    Parameters
    ----------
    x, y : Tensor, shapes (n, \*event) and (m, \*event)
        The same tensor twice is one cloud. Coincident points are at distance 0 exactly.
    smooth : bool
        For a function that is smooth at 0: relative errors of the least distances may be some ``eps / NEAR_SMOOTH``, of
        others ``eps / NEAR``.

    Raises
    ------
    BadInput
        When the points differ in shape, dtype or device.

    Notes
    -----
    Where reading a number would wait for a device, no row is looked at. Products for functions that are not smooth are
    then in double precision, and what is below their rounding error counts as 0; those for smooth ones keep an error of
    some :math:`\varepsilon(|x|^2+|y|^2)`.
    """

    def __init__(self, x: Points, y: Points, smooth: bool) -> None:
        check_same_points(x, y)
        flat = x.detach().flatten(1)
        d = flat.shape[1]
        self.direct = d <= (DIRECT_SMOOTH if smooth else DIRECT)
        self.near = min(NEAR_SMOOTH, 2.0 ** (-40 / d)) if smooth else min(NEAR, 2.0 ** (-30 / d))
        self.one, self.looks = y is x or _same_memory(x, y), readable(flat)
        centre = middle(flat)
        self.x = Cloud(flat, centre)
        self.y = self.x if self.one else Cloud(y.detach().flatten(1), centre)
        if self.looks and flat.dtype == torch.float32 and not (self.x.in_range() and (self.one or self.y.in_range())):
            self.x = self.x.double
            self.y = self.x if self.one else self.y.double
        self.dtype = self.x.points.dtype
        # Where nothing can be looked at.
        self.exact = not (smooth or self.direct or self.looks)

    @cached_property
    def factors(self) -> tuple[Tensor, Tensor]:
        """Lifted clouds; in double precision with what may be rounding error taken off, where nothing is looked at."""
        if not self.exact:
            return self.x.rows, self.y.columns
        rows, columns = self.x.double.rows.clone(), self.y.double.columns.clone()
        less = 1 - 16 * torch.finfo(torch.float64).eps
        rows[:, -2] *= less
        columns[-1] *= less
        return rows, columns

    @cached_property
    def bound(self) -> Tensor:
        """What the squared distances of each row must exceed, shape (n,); of two near points one is as far out as the other."""
        return self.x.squares[:, 0] * self.near

    def block(self, i: slice, j: slice) -> Tensor:
        """Return a block (rows, columns) that the caller may overwrite, valid until the next."""
        return self.differences(i, j) if self.direct else self.visit(i, j)[0]

    def visit(self, i: slice, j: slice) -> tuple[Tensor, Tensor | None]:
        """Return such a block and which of its rows hold points near each other and far from the center; None for none."""
        if self.direct:
            s = self.differences(i, j)
        else:
            rows, columns = self.factors[0][i], self.factors[1][:, j]
            s = torch.mm(rows, columns, out=_place(0, rows[:, :1], columns[:1]))
        itself = self.itself(s, i, j)
        if not self.looks:
            if not self.direct:
                s.clamp_(min=0)
                if itself is not None:
                    itself.zero_()
            return s.to(self.dtype), None
        if itself is not None:
            itself.fill_(torch.inf)
        clear = s.amin(1) >= self.bound[i]
        if itself is not None:
            itself.zero_()
        if clear.all():
            return s, None
        near = clear.logical_not_().nonzero()[:, 0]
        if not self.direct:
            s[near] = self._formed_again(near + i.start, j)
        return s, near

    def itself(self, block: Tensor, i: slice, j: slice) -> Tensor | None:
        """Return the entries of a block that belong to a point and itself, a view; None for none."""
        return block.diagonal(i.start - j.start) if self.one and i.start < j.stop and j.start < i.stop else None

    def differences(self, i: slice | Tensor, j: slice) -> Tensor:
        """Return a block from squared differences, coordinate by coordinate."""
        x, y = self.x.coordinates, self.y.coordinates_across
        first = 0 if isinstance(i, slice) else 2
        p, q = x[0][i], y[0][:, j]
        s = torch.sub(p, q, out=_place(first, p, q)).square_()
        place = _place(first + 1, p, q) if len(x) > 1 else None
        for c, other in zip(x[1:], y[1:], strict=True):
            difference = torch.sub(c[i], other[:, j], out=place)
            s.addcmul_(difference, difference)
        return s

    def _formed_again(self, i: Tensor, j: slice) -> Tensor:
        """Return rows of a block to the precision of the points."""
        x, y = self.x.points, self.y.points[j]
        if x.shape[1] <= FEW:
            return self.differences(i, j)
        # In double precision the product is good for all but the very nearest, or no better, for points of its own.
        wide = self.x.double.rows[i] @ self.y.double.columns[:, j]
        least = NEAR if x.dtype == torch.float64 else 2.0**-26
        row, column = (wide < least * self.x.double.squares[i]).nonzero(as_tuple=True)
        if 8 * len(row) > wide.numel():
            return self.differences(i, j)
        s = wide.to(x.dtype)
        s[row, column] = (x[i[row]] - y[column]).square_().sum(1)
        return s


def stacked_squares(x: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`|x_{ci}-y_{cj}|^2`, shape (B, n, m), of clouds (B, n, d) and (B, m, d), all at once.

    In few coordinates from differences; in many as a product around a median of the second cloud, with its rounding error.
    """
    if x.shape[2] <= FEW:
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    centre = middle(y)[:, None]
    x, y = x - centre, y - centre
    lengths = x.square().sum(2, keepdim=True) + y.square().sum(2)[:, None]
    return torch.baddbmm(lengths, x, y.mT, alpha=-2).clamp_(min=0)
