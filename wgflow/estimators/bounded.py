"""Networks whose slope is bounded by construction: alternatives to a penalty on a critic."""

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from wgflow.core.errors import BadInput
from wgflow.core.fields import Positive, checked
from wgflow.core.networks import copied

_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class Clipped(nn.Module):
    r"""A network whose parameters are brought back into :math:`[-c,c]` after every update (weight clipping).

    Its slope is then bounded by a constant that nobody knows: with the critic of ``W1`` the flow is that of a multiple of the
    distance, and time runs at another pace. Use ``Critic(Clipped(net), penalty="none")``. Source: Arjovsky, Chintala and Bottou (2017).

    Parameters
    ----------
    net : nn.Module
        The network; copied.
    bound : float
        :math:`c`.

    Raises
    ------
    BadInput
        For a network that cannot be copied.

    Examples
    --------
    >>> import torch
    >>> net = Clipped(torch.nn.Linear(1, 1, bias=False), bound=0.01)
    >>> _ = torch.nn.init.constant_(net.net.weight, 5.0)
    >>> net(torch.ones(1, 1)).item()
    0.009999999776482582
    """

    @checked
    def __init__(self, net: nn.Module, bound: Positive = 0.01) -> None:
        super().__init__()
        self.net, self.bound = copied(net), bound

    def forward(self, *inputs: Tensor) -> Tensor:
        """Clip what the last update has left, then evaluate."""
        for p in self.net.parameters():
            p.data.clamp_(-self.bound, self.bound)  # no new version: a second evaluation in one loss changes nothing
        return self.net(*inputs)


@checked
def spectral_norm(net: nn.Module) -> nn.Module:
    """Return a copy whose linear and convolutional layers have spectral norm 1, by one power iteration an evaluation.

    With activations of slope at most 1 (ReLU, leaky ReLU, tanh, softplus) a network of linear layers then has slopes of at most 1, as the
    dual of ``W1`` asks: use ``Critic(spectral_norm(net), penalty="none")``. Of a convolution the kernel is normalized as a matrix, which
    bounds its slope by another constant. Slopes tend to be well below the bound. Source: Miyato, Kataoka, Koyama and Yoshida (2018).

    Parameters
    ----------
    net : nn.Module
        The network; it is copied.

    Returns
    -------
    nn.Module
        The copy.

    Raises
    ------
    BadInput
        For a network without such layers.

    Examples
    --------
    A slope of 5 becomes 1:

    >>> import torch
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(net.weight, 5.0)
    >>> spectral_norm(net)(torch.ones(1, 1)).item()
    1.0
    """
    net = copied(net)
    layers = [m for m in net.modules() if isinstance(m, _LINEAR)]
    if not layers:
        raise BadInput(f"{type(net).__name__} has no linear or convolutional layers to normalize")
    for layer in layers:
        parametrizations.spectral_norm(layer)
    return net
