"""The regression sets of the UCI repository with the splits of Hernández-Lobato and Adams, and published results on them."""

import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCES = {
    "dropout": "Gal and Ghahramani 2016, one hidden layer of 50 units, the same 20 splits: the 2018 results in the authors' repository "
    "(github.com/yaringal/DropoutUncertaintyExps, grid search), RMSE and log-likelihood with their standard errors",
    "splitting": "Han, Osher and Li 2025: three runs in a log of the authors' repository (github.com/fq-han/BRWP-splitting), RMSE",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "energy": {
        "dropout": {"rmse": (0.54, 0.06), "log_likelihood": (-1.21, 0.01)},
        "splitting": {
            "BRWP splitting": (2.86, 4.28, 2.90),
            "BRWP": (10.24, 9.92, None),
            "Langevin": (None, 9.83, None),
            "SVGD": (5.11, 7.49, 3.14),
        },
    },
    "concrete": {"dropout": {"rmse": (4.82, 0.16), "log_likelihood": (-2.93, 0.01)}},
    "yacht": {"dropout": {"rmse": (0.67, 0.05), "log_likelihood": (-1.25, 0.01)}},
}


@dataclass(frozen=True)
class Regression:
    """Inputs (n, d) and outputs (n,), for training and for testing, in units of the training data; ``unit`` is that of the outputs."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    unit: float

    def validation(self, share: float = 0.1) -> "Regression":
        """Return the training data divided once more: its last ones, in a random order, are what is tested on."""
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))
        few = max(1, round(share * len(order)))
        seen, held = order[few:], order[:few]
        return Regression(self.x[seen], self.y[seen], self.x[held], self.y[held], self.unit)


def split(folder: Path, name: str, number: int) -> Regression:
    """Read split ``number`` of ``NAME.npz.xz``, standardized by its training data: ``x``, ``y`` and the test rows of every split."""
    with lzma.open(folder / f"{name}.npz.xz") as packed, np.load(packed) as file:
        x, y, rows = torch.from_numpy(file["x"]), torch.from_numpy(file["y"]), file["test"][number].astype(np.int64)
    test = torch.zeros(len(x), dtype=torch.bool)
    test[torch.from_numpy(rows)] = True
    std, mean = torch.std_mean(x[~test], 0)
    unit, middle = torch.std_mean(y[~test])
    x, y = torch.where(std > 0, (x - mean) / std.clamp(min=1e-12), 0.0), (y - middle) / unit
    return Regression(x[~test], y[~test], x[test], y[test], float(unit))
