r"""Residual perceptrons for low-dimensional problems (25 Gaussians, two circles).

Both have the same body: a linear layer to ``width`` features, then three residual blocks
:math:`h \leftarrow (h + B(h))/\sqrt2` with :math:`B` = (linear, SiLU) three times.

Reference: the toy networks of Choi, Choi and Kang, "Scalable Wasserstein Gradient Flow for Generative
Modeling through Unbalanced Optimal Transport", ICML 2024.
"""

import math

from torch import Tensor, nn

from wgflow.generative.nets import _precise
from wgflow.generative.nets._common import check_batch, check_sizes


class ToyGenerator(nn.Module):
    r"""Generator :math:`T(x, z)` on vectors: ``head(body(x) + branch(z))``.

    The output is not residual: :math:`T(x, z)` is not written as :math:`x` plus a correction, so an untrained
    generator is far from the identity, which is the law's reference before the first step
    (:meth:`reference`).

    Parameters
    ----------
    dim : int
        Dimension of the source and of the data.
    noise_dim : int
        Dimension of the auxiliary noise ``z``.
    width : int
        Features of every hidden layer. The defaults have 182,658 parameters.

    Raises
    ------
    BadInput
        When a size is not a positive integer.

    Examples
    --------
    >>> import torch
    >>> net = ToyGenerator(dim=2, noise_dim=3)
    >>> net(torch.zeros(5, 2), torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, *, dim: int = 2, noise_dim: int = 2, width: int = 128) -> None:
        super().__init__()
        check_sizes(dim=dim, noise_dim=noise_dim, width=width)
        self.source_shape = (dim,)
        self.noise_shape = (noise_dim,)
        self.body = _Body(dim, width)
        self.branch = nn.Sequential(nn.Linear(noise_dim, width), nn.SiLU(), nn.Linear(width, width))
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), _precise.Linear(width, dim))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Map ``x`` (n, dim) and noise ``z`` (n, noise_dim) to points (n, dim); BadInput on other shapes."""
        check_batch("x", x, self.source_shape)
        check_batch("z", z, self.noise_shape)
        return self.head(self.body(x) + self.branch(z))

    def reference(self) -> nn.Module:
        """Return the identity: the flow starts at the source itself."""
        return nn.Identity()


class ToyCritic(nn.Module):
    r"""Critic :math:`v(y)` on vectors: body, linear, SiLU, linear to one value.

    Smooth (SiLU throughout), so every derivative exists.

    Parameters
    ----------
    dim : int
        Dimension of the data.
    width : int
        Features of every hidden layer. The defaults have 165,633 parameters.
    outputs : int
        Values of a point: one for a critic, several for the features of a learned kernel.

    Raises
    ------
    BadInput
        When a size is not a positive integer.

    Examples
    --------
    >>> import torch
    >>> ToyCritic(dim=2)(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(self, *, dim: int = 2, width: int = 128, outputs: int = 1) -> None:
        super().__init__()
        check_sizes(dim=dim, width=width, outputs=outputs)
        self.data_shape = (dim,)
        self.body = _Body(dim, width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), _precise.Linear(width, outputs))

    def forward(self, y: Tensor) -> Tensor:
        """Map points ``y`` (n, dim) to values (n,), or (n, outputs); BadInput on other shapes."""
        check_batch("y", y, self.data_shape)
        return self.head(self.body(y)).squeeze(-1)


class _Body(nn.Module):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.lift = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_stack(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x)
        for block in self.blocks:
            h = (h + block(h)) / math.sqrt(2)  # keeps the variance of two independent summands
        return h


def _stack(width: int) -> nn.Sequential:
    return nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(width, width), nn.SiLU())))
