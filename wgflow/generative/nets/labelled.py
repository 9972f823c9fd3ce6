"""Networks that take labels, made of those that take none: they map points with a one-hot label behind them.

Such points come from :class:`wgflow.measures.Labelled` data and a :class:`wgflow.measures.LabelledLatent`.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.behind import Keeping, joined, parted
from wgflow.core.errors import BadInput
from wgflow.generative.nets._common import check_batch, check_sizes


class LabelledGenerator(nn.Module):
    r"""Generator :math:`(x,c)\mapsto(G(x,c),c)` of labeled points, which keeps the label behind what it makes.

    The label enters as C more coordinates of the dense input of a generator: of its auxiliary noise where it takes any, else of
    its latent.

    Parameters
    ----------
    make : callable
        The generator without labels, a class such as ``ConvGenerator``: called with ``sizes``, and with ``latent_dim`` or
        ``noise_dim`` enlarged by C.
    classes : int
        Number of classes C.
    **sizes
        Sizes of the network; its defaults otherwise.

    Raises
    ------
    BadInput
        When ``classes`` is not a positive integer, or the sizes are refused.

    Examples
    --------
    >>> import torch
    >>> from wgflow import LabelledLatent, StandardNormal
    >>> from wgflow.generative.nets import ConvGenerator
    >>> net = LabelledGenerator(ConvGenerator, 10, image_shape=(1, 28, 28), channels=8)
    >>> z = LabelledLatent(StandardNormal(*net.source_shape), 10).draw(5, torch.Generator())
    >>> net(z.x).shape  # 784 pixels and the label
    torch.Size([5, 794])
    """

    def __init__(self, make: Callable[..., nn.Module], classes: int, **sizes: Any) -> None:
        super().__init__()
        check_sizes(classes=classes)
        outline: Any = make(**sizes)
        self.classes, self._make, self._sizes = classes, make, sizes
        self.source_shape: tuple[int, ...] = tuple(outline.source_shape)
        self.noise_shape: tuple[int, ...] | None = outline.noise_shape
        self.data_shape: tuple[int, ...] = tuple(getattr(outline, "data_shape", self.source_shape))
        dense = self.source_shape if self.noise_shape is None else self.noise_shape
        where = "latent_dim" if self.noise_shape is None else "noise_dim"
        self.net = make(**(sizes | {where: dense[0] + classes}))

    def forward(self, points: Tensor, *noise: Tensor) -> Tensor:
        r"""Map latents with labels (n, d + C), and noise (n, \*noise_shape) if it takes any, to data with the same labels."""
        check_batch("points", points, (math.prod(self.source_shape) + self.classes,))
        x, label = parted(points, self.source_shape)
        dense = torch.cat([*(noise or (x,)), label], 1)
        return joined(self.net(x, dense) if noise else self.net(dense), label)

    def reference(self) -> nn.Module:
        """Return the map before the first step: that of the generator without labels, which keeps the label too."""
        outline: Any = self._make(**self._sizes)
        return Keeping(outline.reference(), self.source_shape)


class LabelledCritic(nn.Module):
    r"""Critic :math:`v(y,c)` on points with a one-hot label behind them, or features of them.

    The label enters as C more channels of an image, constant over it, or as C more coordinates of a vector. The value has no
    slope in the label: gradient penalties look at the points, and nothing that descends the critic changes a class.

    Parameters
    ----------
    make : callable
        The critic without labels, a class such as ``ConvCritic``: called with ``sizes``, with more channels or coordinates.
    classes : int
        Number of classes C.
    **sizes
        Sizes of the network, ``image_shape`` or ``dim`` among them being those of the data.

    Raises
    ------
    BadInput
        For sizes without those of the data.

    Examples
    --------
    >>> import torch
    >>> from wgflow.generative.nets import ConvCritic
    >>> LabelledCritic(ConvCritic, 10, image_shape=(1, 28, 28), channels=8)(torch.zeros(5, 794)).shape
    torch.Size([5])
    """

    def __init__(self, make: Callable[..., nn.Module], classes: int, **sizes: Any) -> None:
        super().__init__()
        check_sizes(classes=classes)
        outline: Any = make(**sizes)
        self.classes, self.data_shape = classes, tuple(outline.data_shape)
        first, *others = self.data_shape
        if len(others) not in (0, 2):
            raise BadInput(f"a critic with labels is one of vectors or images, this one maps points {self.data_shape}")
        larger = {"image_shape": (first + classes, *others)} if others else {"dim": first + classes}
        self.net = make(**(sizes | larger))

    def forward(self, points: Tensor) -> Tensor:
        """Map points with labels (n, d + C) to values (n,)."""
        check_batch("points", points, (math.prod(self.data_shape) + self.classes,))
        y, label = parted(points, self.data_shape)
        return self.net(torch.cat([y, _spread(label, self.data_shape[1:])], 1))


class WithoutLabels(nn.Module):
    """A generator of labeled points as one of the points alone, for who looks at them."""

    def __init__(self, net: nn.Module, data_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net, self.data_shape = net, data_shape

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the points that the network makes."""
        return parted(self.net(*inputs), self.data_shape)[0]


def _spread(label: Tensor, sides: tuple[int, ...]) -> Tensor:
    """Return labels (n, C) as constant planes (n, C, *sides)."""
    return label.view(*label.shape, *[1] * len(sides)).expand(*label.shape, *sides)
