"""A set of images as a probability measure."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from wgflow.core.errors import BadInput
from wgflow.core.fields import Whole, checked
from wgflow.core.labels import check_labels, members
from wgflow.generative.data._images import check_images, to_unit
from wgflow.measures.base import Measure
from wgflow.measures.particles import Particles


@dataclass(frozen=True, eq=False)
class ImageData(Measure):
    r"""The uniform measure :math:`\frac1n \sum_i \delta_{x_i}` on images that stay on their device as uint8.

    Keeping all of them there (CIFAR-10: 154 MB) and indexing with the generator of the run leaves no data
    loader whose position a checkpoint would have to store.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, c, height, width)
        The images; not copied.
    flip : bool
        Mirror each drawn image left to right with probability 1/2: the measure is then the equal mixture of
        the images and their mirror images.
    labels : Tensor, int64, shape (n,), optional
        Classes of the images, from 0; on their device. A draw does not show them: :class:`wgflow.measures.Labelled` does.

    Raises
    ------
    BadInput
        When ``images`` is not a non-empty uint8 tensor with four axes, or ``labels`` not one whole number an image.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative import ImageData
    >>> data = ImageData(torch.full((10, 1, 8, 8), 255, dtype=torch.uint8))
    >>> data.draw(3, torch.Generator()).x.unique()
    tensor([1.])
    """

    images: Tensor = field(repr=False)
    flip: bool = False
    labels: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_images(self.images)
        if self.labels is not None:
            check_labels(self.labels, len(self), "an image")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def event_shape(self) -> torch.Size:  # type: ignore[override]
        """Shape (c, h, w) of one image."""
        return self.images.shape[1:]

    @property
    def device(self) -> torch.device:
        """Where the images, and so the draws, live."""
        return self.images.device

    @property
    def num_atoms(self) -> int:
        """Number of the images, mirrored ones not counted."""
        return len(self)

    def take(self, index: Tensor, rng: torch.Generator) -> Particles:
        """Return the images of these numbers, in float32 in [-1, 1], mirrored as in a draw."""
        x = self._gather(index)
        if self.flip:
            mirrored = torch.rand(len(index), generator=rng, device=rng.device) < 0.5
            x = torch.where(self._here(mirrored)[:, None, None, None], x.flip(-1), x)
        return Particles(to_unit(x))

    def draw(self, n: int, rng: torch.Generator) -> Particles:
        """Return ``n`` images, drawn with replacement, in float32 in [-1, 1] (see :func:`to_unit`).

        The device of ``rng``, which is best that of the images, draws ``n`` indices and then, for ``flip``,
        ``n`` uniform numbers.
        """
        return self.take(torch.randint(len(self), (n,), generator=rng, device=rng.device), rng)

    @checked
    def subset(self, n: int, rng: torch.Generator) -> Tensor:
        """Return ``n`` distinct images (n, c, h, w) in [-1, 1], never mirrored, in random order: for metrics.

        Raises
        ------
        BadInput
            When there are not so many.
        """
        if not 1 <= n <= len(self):
            raise BadInput(f"asked for {n} distinct images of a set of {len(self)}")
        return to_unit(self._gather(torch.randperm(len(self), generator=rng, device=rng.device)[:n]))

    @checked
    def of_class(self, label: Whole) -> "ImageData":
        """Return the measure on the images of one class; raises ``BadInput`` where there are none."""
        return ImageData(self.images[members(self.labels, label, "this ImageData")], self.flip)

    def _gather(self, index: Tensor) -> Tensor:
        return self.images.index_select(0, self._here(index))

    def _here(self, t: Tensor) -> Tensor:
        # Towards a GPU the copy need not wait; from it, an asynchronous copy could be read before it arrives.
        return t.to(self.device, non_blocking=self.device.type == "cuda")
