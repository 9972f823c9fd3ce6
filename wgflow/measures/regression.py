r"""How a network follows an explicit move: least squares on moved points, with targets that persist."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from wgflow.core.fields import Checked, Count
from wgflow.core.inner import tell
from wgflow.core.networks import running_statistics_held
from wgflow.core.typing import Points, Scalar
from wgflow.measures.particles import Particles
from wgflow.optim import Descent, Optim


@dataclass(frozen=True)
class Regression(Checked):
    r"""How a pushforward follows an explicit move: by least squares on the moved points.

    ``persistent`` optimizer steps on one latent minibatch, each with the same targets :math:`\zeta_i`, down

    .. math:: \frac{1}{2n}\sum_{i=1}^n \lVert G_\theta(z_i) - \zeta_i\rVert^2 \qquad
       \text{(summed over coordinates).}

    With :math:`\zeta = G - h\nabla\varphi(G)` and one step, the gradient in :math:`\theta` is :math:`h` times that
    of the WGAN generator loss. Source: Malik and Huang (2024), arXiv 2405.16351, Section 4.

    Parameters
    ----------
    optim : Optim
        The optimizer. Its moments are kept through all steps of the flow.
    persistent : int
        Optimizer steps toward the same targets.
    batch : int
        Latent draws in one minibatch.
    control : "naive", optional
        **For comparisons only**: evaluate the field again at the present points before each of the steps, so that the targets
        recede. With a critic on ``W1`` this is WGAN with ``persistent`` generator updates against one critic ("naive persistence").

    Notes
    -----
    A flow reports ``regression/realised``, the fraction of the step that the network has made,
    :math:`1-E\lVert\zeta-G_\theta(z)\rVert^2/E\lVert\zeta-y\rVert^2` with :math:`y` the points before: 1 for the whole step, near 0 where
    the optimizer's steps are small against it, and below 0 where they overshoot, as Adam's do, whose length is the learning rate
    however near the targets are; one more forward pass. Running statistics of batch normalization see the batch
    as often as with ``persistent=1``, so that they mean the same.

    Examples
    --------
    One step of gradient descent on half of the mean square goes the share ``lr`` of the way, for a network that is its bias:

    >>> import torch
    >>> import wgflow as wg
    >>> class Bias(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.b = torch.nn.Parameter(torch.zeros(1))
    ...
    ...     def forward(self, x):
    ...         return self.b.expand_as(x)
    >>> rho = wg.Pushforward(wg.StandardNormal(1), Bias(), regression=wg.Regression(wg.SGD(0.5)))
    >>> F = wg.PotentialEnergy(lambda x: (x - 4).square().sum(1) / 2)
    >>> flow = wg.solve(F, wg.ForwardEuler(), rho, step_size=1.0, num_steps=1)
    >>> flow.measure.draw(1, torch.Generator()).x
    tensor([[2.]], requires_grad=True)
    """

    optim: Optim
    persistent: Count = 1
    batch: Count = 256
    control: Literal["naive"] | None = None

    def fit(
        self,
        net: nn.Module,
        outputs: Callable[[], Points],
        before: Particles,
        move: Callable[[Particles], Points],
        descent: Descent,
        stepped: Callable[[], None],
    ) -> None:
        """Train ``net``, whose ``outputs()`` for fixed latents are now ``before``, toward ``move(before)``.

        ``stepped`` is called after every optimizer step.
        """
        first = target = move(before).detach()

        def squares() -> Scalar:
            return _mean_squares(before, outputs() - target)

        for k in range(self.persistent):
            with running_statistics_held(net) if k else nullcontext():
                if k and self.control == "naive":
                    with torch.no_grad():
                        now = Particles(outputs(), before.log_w)
                    target = move(now).detach()
                descent.minimise(lambda: squares() / 2)
            stepped()
        with torch.no_grad(), running_statistics_held(net):
            step, left = (_mean_squares(before, end - first) for end in (before.x, outputs()))
            tell("regression/realised", torch.where(step > 0, 1 - left / step, 1.0))


def _mean_squares(p: Particles, d: Tensor) -> Scalar:
    return p.mean(d.square().flatten(1).sum(1))
