"""The sets of Bayesian logistic regression: files, features as the published numbers have them, and splits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Sets of more than two classes: the one that is told from the rest.
POSITIVE = {"splice": 2, "covertype15k": 2}


@dataclass(frozen=True)
class Table:
    """Features (n, d) and labels of -1 and 1 of a set; ``standardise`` when the training data are to centre and scale them."""

    x: Tensor
    y: Tensor
    standardise: bool = True


@dataclass(frozen=True)
class Split:
    """Features and labels, for training and for testing."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


def by_range(data: Table) -> Table:
    """Map every feature to [-1, 1] by its least and largest value, as in LIBSVM's ``diabetes_scale``.

    Without an intercept the zero of a feature matters: about that of its range a model predicts better than about its mean.
    """
    low, high = data.x.amin(0), data.x.amax(0)
    return Table(2 * (data.x - low) / (high - low) - 1, data.y, standardise=False)


def ring(data: Table) -> Table:
    r"""Take standardised features back to Breiman's, as in Delve: N(0, 4I) for labels 1 and N(a1, I), a = 2/√20, for -1.

    With half of the rows each, the mean of a feature was a/2 and its variance (4 + 1)/2 + a²/4.
    """
    a = 2 / data.x.shape[1] ** 0.5
    return Table(data.x * (2.5 + a**2 / 4) ** 0.5 + a / 2, data.y, standardise=False)


def letters(data: Table) -> Table:
    """Number the letters A, G, C, T from 1 to 4 and keep distinct rows, as Rätsch's set does.

    The file numbers what occurs in a column in alphabetical order. Other letters stand for ambiguity and are rare; rows
    that hold one go.
    """
    codes, clear = torch.zeros_like(data.x), torch.ones(len(data.x), dtype=torch.bool)
    for j, column in enumerate(data.x.T):
        found, counts = column.unique(return_counts=True)
        common = found[counts.argsort(descending=True)[:4]].sort().values
        hits = column[:, None] == common
        clear &= hits.any(1)
        codes[:, j] = hits.float() @ torch.tensor([1.0, 3.0, 2.0, 4.0])  # A, C, G, T
    rows = torch.cat([codes, data.y[:, None]], 1)[clear]
    first = np.sort(np.unique(rows.numpy(), axis=0, return_index=True)[1])
    return Table(rows[first, :-1], rows[first, -1])


AS_PUBLISHED: dict[str, Callable[[Table], Table]] = {"diabetis": by_range, "ringnorm": ring, "splice": letters}
"""Where standardised features, or letters numbered otherwise, give another accuracy than the published one."""


def load(folder: Path, name: str) -> Table:
    """Read ``NAME.npz`` with features ``x`` and labels ``y``, as it is."""
    with np.load(folder / f"{name}.npz") as file:
        x, y = file["x"].astype(np.float32), file["y"].astype(np.int64)
    signs = 2 * (y == POSITIVE[name]) - 1 if name in POSITIVE else y
    if set(np.unique(signs)) != {-1, 1}:
        raise ValueError(f"{name}.npz: expected labels -1 and 1, got {np.unique(y)}")
    return Table(torch.from_numpy(x), torch.from_numpy(signs.astype(np.float32)))


def as_published(folder: Path, name: str) -> Table:
    """Read a set and prepare its features as the published experiments did."""
    data = load(folder, name)
    return AS_PUBLISHED[name](data) if name in AS_PUBLISHED else data


def split(data: Table, seed: int, device: torch.device | str = "cpu") -> Split:
    """Return a random 80/20 split, standardised by what is trained on where that is asked for; constant features become 0."""
    x, y = data.x, data.y
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: int(0.8 * len(x))], order[int(0.8 * len(x)) :]
    if data.standardise:
        std, mean = torch.std_mean(x[train], 0)
        x = torch.where(std > 0, (x - mean) / std.clamp(min=1e-12), 0.0)
    return Split(*(t.to(device) for t in (x[train], y[train], x[test], y[test])))
