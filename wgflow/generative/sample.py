"""Drawing images: one seed an image, so that neither the batch size nor the count changes any of them."""

from pathlib import Path

import torch
from torch import Tensor

from wgflow._imports import require
from wgflow._rng import generator
from wgflow.errors import BadInput
from wgflow.measures import Measure, Pushforward


def sample(measure: Pushforward, n: int, *, seed: int = 0, first: int = 0, batch: int = 256) -> Tensor:
    r"""Return images number ``first`` to ``first + n - 1`` of a seed, float (n, \*event) on the CPU.

    Image ``i`` is a function of the weights, ``seed`` and ``i`` alone (and of the kind of device, whose generators
    differ).

    Parameters
    ----------
    measure : Pushforward
        A trained generator in evaluation mode (``Pushforward.inference()``).
    n, first, batch : int
        Count, number of the first image, images in one pass.
    seed : int
        Of the whole set.
    """
    if n < 1 or batch < 1 or first < 0:
        raise BadInput(f"expected n >= 1, batch >= 1 and first >= 0, got {n}, {batch}, {first}")
    images = []
    with torch.no_grad():
        for begin in range(first, first + n, batch):
            numbers = range(begin, min(begin + batch, first + n))
            x = _seeded_draws(measure.latent, seed, numbers, stream=0)
            inputs = (x,) if measure.noise is None else (x, _seeded_draws(measure.noise, seed, numbers, stream=1))
            images.append(measure.apply(inputs).cpu())
    return torch.cat(images)


def _seeded_draws(latent: Measure, seed: int, numbers: range, stream: int) -> Tensor:
    # Seeds of consecutive numbers are far apart; one generator is enough to draw them all.
    rng = generator(0, latent.device)
    draws = []
    for i in numbers:
        rng.manual_seed(((seed * 2 + stream) * 0x9E3779B97F4A7C15 + i * 0xBF58476D1CE4E5B9) % 2**62)
        draws.append(latent.draw(1, rng).x)
    return torch.cat(draws)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Write images (n, c, h, w) in [-1, 1] as one picture, about square unless ``columns`` is given."""
    utils = require("torchvision.utils", extra="image")
    nrow = columns or max(1, round(len(images) ** 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = max(1, 512 // (nrow * (images.shape[-1] + 2)))
    big = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    utils.save_image(big.clamp(-1, 1) * 0.5 + 0.5, path, nrow=nrow, padding=2 * scale, pad_value=1.0)
