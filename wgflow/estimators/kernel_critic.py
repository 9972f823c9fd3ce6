"""A critic that is a kernel between features of a point and what is behind it."""

from torch import Tensor, nn

from wgflow.core.behind import parted
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, checked
from wgflow.core.networks import copied
from wgflow.kernels.features import RadialKernel


class KernelCritic(nn.Module):
    r"""The critic :math:`v(y,z)=k(z,h(y))` of points with a latent behind them: large where features of a point are its latent.

    On a :class:`~wgflow.measures.Paired` target the latent is independent of the point, and behind what a generator makes it is the
    one that it was made of. With ``Identity(target)`` the critic makes the features of data look like latents and those of the model
    unlike their own (the conditional-kernel MMD of Caucheteux et al. 2026).

    Parameters
    ----------
    net : nn.Module
        The features :math:`h`, (n, \*event) to (n, m) with m the dimension of the latent; copied.
    kernel : Kernel
        :math:`k`.
    event_shape : tuple of int
        Shape of a point.

    Raises
    ------
    BadInput
        For a network that cannot be copied.

    Examples
    --------
    >>> import torch
    >>> from wgflow.kernels import RBF
    >>> v = KernelCritic(torch.nn.Identity(), RBF(1.0), (1,))
    >>> v(torch.tensor([[3.0, 3.0], [3.0, 5.0]]))  # points 3 and 3 with 3 and 5 behind them
    tensor([1.0000, 0.1353])
    """

    @checked
    def __init__(self, net: nn.Module, kernel: RadialKernel, event_shape: tuple[Count, ...]) -> None:
        super().__init__()
        self.net, self.kernel, self.event_shape = copied(net), kernel, event_shape

    def forward(self, points: Tensor) -> Tensor:
        """Map points with latents (n, d + m) to values (n,)."""
        y, z = parted(points, self.event_shape)
        h = self.net(y)
        if h.shape != z.shape:
            raise BadInput(
                f"the features of a point must be as many as its latent has coordinates, {z.shape[1]}, got {tuple(h.shape)}"
            )
        return self.kernel.profile((z - h).square().sum(1))
