"""The gradient of an input-convex network: a Brenier map, with its Hessian in closed form."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Fraction, Positive, checked
from wgflow.core.typing import Points
from wgflow.maps.base import TransportMap, newton_inverse, rademacher, register_map


@register_map("icnn_gradient")
class ICNNGradient(TransportMap):
    r"""The gradient :math:`T=\nabla\psi` of a strongly convex network.

    .. math:: \psi(x)=\tfrac12x^\top Qx+b^\top x+w^\top z_L,\quad
       z_{l+1}=\sigma(W_lz_l+A_lx+a_l),\quad z_0=0,\quad W_l,w\ge0,\quad Q=\varepsilon I+(1-\varepsilon)RR^\top,

    where :math:`\sigma` is softplus. By Brenier's theorem an implicit step of an absolutely continuous law is such a map.
    It starts at the identity with :math:`R=I`, :math:`b=0` and :math:`w=0`.

    Parameters
    ----------
    \*event_shape : int
        Shape of one point, flattened to :math:`d` numbers.
    width, depth : int
        Units in a layer and number of layers, :math:`L`.
    floor : float
        :math:`\varepsilon`, a lower bound of every eigenvalue of :math:`\nabla T`: the map is a bijection. It must allow
        the contraction that is needed.
    scale : float
        Size of the points: the units of the first layer have their kinks within about twice that distance.
    logdet : {"exact", "stochastic"}
        ``"exact"``: the Hessian and its Cholesky factor. ``"stochastic"``: while training, Lanczos quadrature of the
        value and conjugate gradients for :math:`\operatorname{tr}(H^{-1}dH)` of the gradient, both from the same Krylov
        space of one random sign vector. Unbiased when ``lanczos`` reaches d.
    lanczos : int
        Hessian-vector products of the stochastic estimate.

    Notes
    -----
    Value, gradient and Hessian of :math:`\psi` come from one forward and one backward sweep written out by hand,

    .. math:: \nabla^2\psi=Q+\sum_lP_l^\top\operatorname{diag}(g_l\,\sigma''(p_l))P_l,\qquad
       P_l=\partial p_l/\partial x,\quad g_l=\partial\psi/\partial z_l\ge0,

    so training differentiates once, not twice. Cost a point: :math:`O(L\,\text{width}^2)` for the map,
    :math:`d` times that for the Hessian, whose memory is :math:`d\,(\text{width}\cdot L+d)`; ``lanczos`` times twice
    the map for the stochastic estimate. Negative weights do not count, and :meth:`project` sets them to zero. The
    inverse is by Newton's method with the exact Hessian. Sources: Amos et al. (2017); Mokrov et al. (2021); Huang et al.
    (2021) for the stochastic log-determinant.

    Raises
    ------
    BadInput
        For sizes below 1 or a floor outside (0, 1); on loading weights that make the potential non-convex.

    Examples
    --------
    >>> T = ICNNGradient(2, width=16)
    >>> bool(torch.equal(T(torch.ones(1, 2)), torch.ones(1, 2)))
    True
    """

    has_logdet = True
    invertible = True

    @checked
    def __init__(
        self,
        *event_shape: Count,
        width: Count = 64,
        depth: Count = 2,
        floor: Fraction = 1e-3,
        scale: Positive = 2.0,
        logdet: Literal["exact", "stochastic"] = "exact",
        lanczos: Count = 10,
    ) -> None:
        super().__init__(*event_shape)
        self.floor, self.logdet, self.lanczos = floor, logdet, lanczos
        d = self.dim
        self.root = nn.Parameter(torch.eye(d))
        self.shift = nn.Parameter(torch.zeros(d))
        directions = [nnf.normalize(torch.randn(width, d), dim=1) * (2 / scale) for _ in range(depth)]
        self.inputs = nn.ParameterList(directions)
        self.offsets = nn.ParameterList(torch.empty(width).uniform_(-4, 4) for _ in range(depth))
        self.hidden = nn.ParameterList(torch.rand(width, width) * (2 / width) for _ in range(depth - 1))
        self.out = nn.Parameter(torch.zeros(width))
        self.register_load_state_dict_post_hook(_check_convex)

    @classmethod
    def example(cls) -> "ICNNGradient":
        """Return a tiny instance."""
        return cls(2, width=8)

    @property
    def quadratic(self) -> Tensor:
        """The matrix Q, (d, d)."""
        eye = torch.eye(self.dim, dtype=self.root.dtype, device=self.root.device)
        return self.floor * eye + (1 - self.floor) * (self.root @ self.root.T)

    def nonnegative(self) -> list[Tensor]:
        """The weights that have to be nonnegative."""
        return [*self.hidden, self.out]

    @torch.no_grad()
    def project(self) -> None:
        """Set negative weights to zero: they had no effect, and a positive gradient brings them back."""
        for w in self.nonnegative():
            w.clamp_(min=0)

    def potential(self, x: Points) -> Tensor:
        r"""Return :math:`\psi(x)`, shape (n,)."""
        x = self.flat(x)
        return ((x @ self.quadratic) * x).sum(1) / 2 + x @ self.shift + softplus(self._sweep(x)[-1]) @ relu(self.out)

    def _sweep(self, x: Tensor) -> list[Tensor]:
        """Return what enters the activations of every layer, (n, width) each."""
        p = [nnf.linear(x, self.inputs[0], self.offsets[0])]
        for w, a, b in zip(self.hidden, self.inputs[1:], self.offsets[1:], strict=True):
            p.append(nnf.linear(softplus(p[-1]), relu(w)) + nnf.linear(x, a, b))
        return p

    def _adjoints(self, slopes: list[Tensor]) -> list[Tensor]:
        """Return the derivatives of the network in its activations from their slopes, last layer first."""
        g = [relu(self.out).expand_as(slopes[-1])]
        for w, s in zip(reversed(self.hidden), reversed(slopes[1:]), strict=True):
            g.append((g[-1] * s) @ relu(w))
        return g

    def _gradient(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the gradient (n, d), the slopes of the activations and the curvatures of the layers."""
        slopes = [p.sigmoid() for p in self._sweep(x)]
        adjoints = self._adjoints(slopes)[::-1]
        y = x @ self.quadratic + self.shift
        for g, s, a in zip(adjoints, slopes, self.inputs, strict=True):
            y = y + (g * s) @ a
        return y, slopes, [g * s * (1 - s) for g, s in zip(adjoints, slopes, strict=True)]

    def _hessian(self, slopes: list[Tensor], curvatures: list[Tensor]) -> Tensor:
        n, first = len(slopes[0]), self.inputs[0]
        # The derivative of a layer's input in x, (n, d, width), is the same at every point for the first layer.
        squares = (first[:, :, None] * first[:, None, :]).flatten(1)
        total = self.quadratic + (curvatures[0] @ squares).view(n, self.dim, self.dim)
        p = first.T.expand(n, -1, -1)
        for w, a, s, c in zip(self.hidden, self.inputs[1:], slopes, curvatures[1:], strict=False):
            p = nnf.linear(p * s[:, None, :], relu(w)) + a.T
            total = total + (p * c[:, None, :]) @ p.transpose(1, 2)
        return total

    def _product(self, v: Tensor, slopes: list[Tensor], curvatures: list[Tensor]) -> Tensor:
        """Return the Hessian times ``v`` (n, d): one forward and one backward sweep."""
        q = [nnf.linear(v, self.inputs[0])]
        for w, a, s in zip(self.hidden, self.inputs[1:], slopes, strict=False):
            q.append(nnf.linear(q[-1] * s, relu(w)) + nnf.linear(v, a))
        total, carried = v @ self.quadratic, torch.zeros_like(q[-1])
        for layer in reversed(range(len(q))):
            t = curvatures[layer] * q[layer] + carried
            total = total + t @ self.inputs[layer]
            if layer:
                carried = (t @ relu(self.hidden[layer - 1])) * slopes[layer - 1]
        return total

    def forward(self, x: Points) -> Points:
        r"""Return :math:`\nabla\psi(x)`."""
        return self._gradient(self.flat(x))[0].view_as(x)

    def with_logdet(self, x: Points, rng: torch.Generator | None = None) -> tuple[Points, Tensor]:
        """Return the image and the log-determinant of the Hessian."""
        y, slopes, curvatures = self._gradient(self.flat(x))
        if self.logdet == "stochastic" and rng is not None:
            return y.view_as(x), self._estimate(slopes, curvatures, rademacher(y, rng))
        return y.view_as(x), logdet_spd(self._hessian(slopes, curvatures))

    def _estimate(self, slopes: list[Tensor], curvatures: list[Tensor], probe: Tensor) -> Tensor:
        with torch.no_grad():
            basis, tri = lanczos(lambda v: self._product(v, slopes, curvatures), probe, min(self.lanczos, self.dim))
            values, vectors = torch.linalg.eigh(tri)
            first = vectors[:, 0]  # components of the probe's direction
            value = self.dim * (first.square() * values.log()).sum(1)
            solved = (vectors @ (first / values)[..., None])[..., 0]
            inverse = (basis * solved.T[..., None]).sum(0) * self.dim**0.5
        slope = (inverse * self._product(probe, slopes, curvatures)).sum(1)
        return value + (slope - slope.detach())

    def inverse(self, y: Points) -> Points:
        r"""Return the solution of :math:`\nabla\psi(x)=y`."""

        def linearised(x: Tensor) -> tuple[Tensor, Tensor]:
            value, slopes, curvatures = self._gradient(x)
            return value, self._hessian(slopes, curvatures)

        return newton_inverse(linearised, self.flat(y), "ICNNGradient").view_as(y)


def relu(w: Tensor) -> Tensor:
    """Return max(w, 0), whose derivative at 0 is 1: a weight that starts there can leave."""
    return torch.where(w >= 0, w, 0.0)


def softplus(p: Tensor) -> Tensor:
    """Return log(1 + e^p) to full precision (the default cuts at 20, an error of 2e-9)."""
    return nnf.softplus(p, threshold=50)


def logdet_spd(h: Tensor) -> Tensor:
    """Log-determinants of symmetric positive definite matrices (n, d, d), shape (n,)."""
    if h.shape[-1] == 1:
        return h[:, 0, 0].log()
    if h.shape[-1] == 2:  # a library call takes far longer
        return (h[:, 0, 0] * h[:, 1, 1] - h[:, 0, 1] * h[:, 1, 0]).log()
    factor = torch.linalg.cholesky_ex(h)[0]
    return 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)


def lanczos(product: Any, probe: Tensor, m: int) -> tuple[Tensor, Tensor]:
    r"""Tridiagonalize symmetric operators on vectors (n, d), point by point, from the directions of ``probe``.

    Returns an orthonormal basis (m, n, d) of the Krylov spaces and the tridiagonal matrices (n, m, m). Where a space is
    exhausted the basis goes on with zeros and the matrix with ones on its diagonal. Fully reorthogonalized.
    """
    n = len(probe)
    v = probe / probe.norm(dim=1, keepdim=True)
    basis, tri = [v], probe.new_zeros(n, m, m)
    tiny = 10 * torch.finfo(probe.dtype).eps
    for j in range(m):
        w = product(basis[-1])
        alive = basis[-1].square().sum(1)  # 1, or 0 where the space is exhausted
        tri[:, j, j] = (w * basis[-1]).sum(1) + (1 - alive)
        if j == m - 1:
            break
        size = w.norm(dim=1)
        known = torch.stack(basis)
        for _ in range(2):
            w = w - (known * (known * w).sum(2, keepdim=True)).sum(0)
        beta = w.norm(dim=1)
        beta = torch.where(beta > tiny * size, beta, 0.0)
        tri[:, j, j + 1] = tri[:, j + 1, j] = beta
        basis.append(torch.where(beta[:, None] > 0, w / beta[:, None], 0.0))
    return torch.stack(basis), tri


def _check_convex(module: nn.Module, incompatible: Any) -> None:
    assert isinstance(module, ICNNGradient)
    least = torch.stack([w.detach().min() for w in module.nonnegative()]).min()
    if not float(least) >= 0:
        raise BadInput(
            f"these weights make the potential of an ICNNGradient non-convex: the least that has to be nonnegative is "
            f"{float(least):g}. The checkpoint is damaged or is not of such a map."
        )
