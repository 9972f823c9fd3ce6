"""The flow of a network's vector field: a continuous normalizing flow."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, Unsupported
from wgflow.core.fields import Count, Positive, checked
from wgflow.core.typing import Points
from wgflow.maps.base import TransportMap, evaluate, inverted, jacobian, rademacher, register_map, start_at_zero


@register_map("neural_ode")
class NeuralODE(TransportMap):
    r"""The time-1 map of :math:`\dot x=v(x)` with a network :math:`v` whose output layer starts at zero.

    .. math:: \log\det\nabla T(x_0)=\int_0^1\operatorname{div}v(x_t)\,dt.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point.
    net : nn.Module
        :math:`v`, from (n, \*event) to the same shape, every point by itself and smooth. It is used as it is, not
        copied; its last layer is set to zero.
    trace : {"exact", "hutchinson"}
        The divergence: from the whole Jacobian (d backward passes at once), or, while training, from one random sign
        vector that is kept through the solve (one forward-mode pass; unbiased, FFJORD).
    method : str
        A method of torchdiffeq: fixed-step (``"rk4"``, ``"midpoint"``, ``"euler"``) or adaptive (``"dopri5"``).
    steps : int
        Steps of a fixed-step method.
    rtol, atol : float
        Tolerances of an adaptive one.

    Raises
    ------
    BadInput
        For a network without a layer, or one that normalizes over the batch.

    Notes
    -----
    The inverse integrates backwards; both directions have the error of the solver, :math:`O(\text{steps}^{-4})` for
    ``rk4``, and so has the log-determinant, an integral of the divergence beside that of the points.
    Cost: 4 ``steps`` evaluations of the net and its trace, all of whose graphs are kept for the gradient.
    Sources: Chen et al. (2018); Grathwohl et al. (2019); Xu, Cheng and Xie (2023).

    Examples
    --------
    >>> T = NeuralODE(2, net=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)))
    >>> y, logdet = T.with_logdet(torch.ones(1, 2))
    """

    has_logdet = True
    invertible = True

    @checked
    def __init__(
        self,
        *event_shape: Count,
        net: nn.Module,
        trace: Literal["exact", "hutchinson"] = "exact",
        method: str = "rk4",
        steps: Count = 4,
        rtol: Positive = 1e-6,
        atol: Positive = 1e-6,
    ) -> None:
        super().__init__(*event_shape)
        start_at_zero(net, "NeuralODE")
        self.net, self.trace, self.method, self.steps, self.rtol, self.atol = net, trace, method, steps, rtol, atol

    def _velocity(self, x: Points) -> Points:
        return evaluate(self.net, x)

    def _solve(self, field: Any, start: Any, backwards: bool) -> Any:
        from torchdiffeq import odeint
        from torchdiffeq._impl.odeint import SOLVERS

        x = start[0] if isinstance(start, tuple) else start
        if self.method not in SOLVERS:
            raise BadInput(f"NeuralODE(method={self.method!r}): torchdiffeq has {', '.join(sorted(SOLVERS))}")
        fixed = self.method in ("euler", "midpoint", "heun2", "heun3", "rk4")
        ends = torch.tensor([1.0, 0.0] if backwards else [0.0, 1.0], dtype=x.dtype, device=x.device)
        options = {"step_size": 1 / self.steps} if fixed else None
        try:
            path = odeint(field, start, ends, rtol=self.rtol, atol=self.atol, method=self.method, options=options)
        except AssertionError as error:
            raise Unsupported(
                f"torchdiffeq gave up on a NeuralODE: {error}. Its field is stiff, explodes or is not smooth. Use "
                "method='rk4' with more steps, or a smaller learning rate"
            ) from error
        return tuple(p[-1] for p in path) if isinstance(path, tuple) else path[-1]

    @classmethod
    def example(cls) -> "NeuralODE":
        """Return a tiny instance, whose steps are short enough for its log-determinant to be that of the steps."""
        return cls(2, net=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)), steps=16)

    def forward(self, x: Points) -> Points:
        """Return the points at time 1."""
        self.flat(x)
        return self._solve(lambda t, x: self._velocity(x), x, backwards=False)

    def with_logdet(self, x: Points, rng: torch.Generator | None = None) -> tuple[Points, Tensor]:
        """Return the points at time 1 and the integral of the divergence."""
        return self._augmented(x, rng, backwards=False)

    def _augmented(self, x: Points, rng: torch.Generator | None, backwards: bool) -> tuple[Points, Tensor]:
        self.flat(x)
        probe = rademacher(x, rng) if self.trace == "hutchinson" and rng is not None else None

        def field(t: Tensor, state: tuple[Points, Tensor]) -> tuple[Points, Tensor]:
            if probe is None:
                v, jac = jacobian(self.net, state[0])
                return v, jac.diagonal(dim1=1, dim2=2).sum(1)
            v, slope = torch.func.jvp(self._velocity, (state[0],), (probe,))  # type: ignore[misc]
            return v, (slope * probe).flatten(1).sum(1)

        return self._solve(field, (x, x.new_zeros(len(x))), backwards)

    @torch.no_grad()
    def inverse(self, y: Points) -> Points:
        """Return where the points at time 1 came from."""
        self.flat(y)
        return inverted(self._solve(lambda t, x: self._velocity(x), y, backwards=True), y, "NeuralODE")

    @torch.no_grad()
    def inverse_with_logdet(self, y: Points) -> tuple[Points, Tensor]:
        """Return where the points came from and the integral of the divergence on the way, in one solve."""
        x, minus = self._augmented(y, None, backwards=True)
        return inverted(x, y, "NeuralODE"), -minus
