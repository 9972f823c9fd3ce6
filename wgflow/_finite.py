"""Where the numbers stop."""

import torch
from torch import Tensor


def first_nonfinite_index(x: Tensor) -> tuple[int, ...]:
    """Return the index of the first entry of ``x`` that is NaN or infinite; there must be one. Waits for the device."""
    flat = int((~torch.isfinite(x)).flatten().int().argmax())
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), x.shape))
