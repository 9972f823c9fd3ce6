"""Ready-made generators and critics; any ``nn.Module`` with the same conventions works in their place.

A generator maps a batch from the source (n, *source_shape), and auxiliary noise (n, *noise_shape) where
``noise_shape`` is not None, to data; ``reference()`` is the fixed map from source to data that stands for it
before the first step. A critic maps data to values (n,).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn

from wgflow.core.docstrings import summary
from wgflow.core.registry import Named
from wgflow.generative.nets.conv import ConvCritic, ConvGenerator
from wgflow.generative.nets.fine import FineCritic, FineGenerator
from wgflow.generative.nets.labelled import LabelledCritic, LabelledGenerator
from wgflow.generative.nets.large import LargeCritic, LargeGenerator
from wgflow.generative.nets.small import SmallCritic, SmallGenerator
from wgflow.generative.nets.toy import ToyCritic, ToyGenerator

__all__ = [
    "NETWORKS",
    "ConvCritic",
    "ConvGenerator",
    "FineCritic",
    "FineGenerator",
    "LabelledCritic",
    "LabelledGenerator",
    "LargeCritic",
    "LargeGenerator",
    "NetworkPair",
    "SmallCritic",
    "SmallGenerator",
    "ToyCritic",
    "ToyGenerator",
]


class NetworkPair(NamedTuple):
    """A generator and the critic of matching size, as classes; their sizes are keyword arguments.

    Attributes
    ----------
    generator : callable
        The class of the generator.
    critic : callable
        The class of the critic.

    Examples
    --------
    >>> from wgflow.generative.nets import NETWORKS
    >>> NETWORKS["small"].generator.__name__, NETWORKS["small"].critic.__name__
    ('SmallGenerator', 'SmallCritic')
    """

    generator: Callable[..., nn.Module]
    critic: Callable[..., nn.Module]

    def labelled(self, classes: int) -> "NetworkPair":
        """Return the pair for points with one of ``classes`` labels behind them."""
        return NetworkPair(
            partial(LabelledGenerator, self.generator, classes), partial(LabelledCritic, self.critic, classes)
        )


class _Pairs(Named):
    def about(self, name: str) -> str:
        return summary(self[name].generator)


NETWORKS: dict[str, NetworkPair] = _Pairs(
    "network",
    {
        "toy": NetworkPair(generator=ToyGenerator, critic=ToyCritic),
        "conv": NetworkPair(generator=ConvGenerator, critic=ConvCritic),
        "fine": NetworkPair(generator=FineGenerator, critic=FineCritic),
        "small": NetworkPair(generator=SmallGenerator, critic=SmallCritic),
        "large": NetworkPair(generator=LargeGenerator, critic=LargeCritic),
    },
)
