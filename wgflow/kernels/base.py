"""What a radial kernel is, and the algebra of kernels."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor

from wgflow.core.brief import Pieces
from wgflow.core.context import full_precision
from wgflow.core.errors import Unsupported
from wgflow.core.fields import Checked, Finite, checked
from wgflow.core.instead import suggest
from wgflow.core.linear import Linear
from wgflow.core.placing import Placed
from wgflow.core.registry import Registry
from wgflow.core.typing import Points
from wgflow.numerics.distances import Distances

Evaluated = tuple[Tensor, Tensor, float | Tensor]
KERNELS: "Registry[Kernel]" = Registry("kernel")
register_kernel = KERNELS.register


def apart(s: Tensor) -> Tensor:
    """Squared distances with infinity for 0, so that negative powers vanish there; one cheap pass, no comparison."""
    return nnf.threshold(s, 0.0, math.inf)


def exp_(exponent: Tensor) -> Tensor:
    """Exponential in place, of no less than the smallest normal number: below it a CPU takes many times as long."""
    return exponent.clamp_(min=math.log(torch.finfo(exponent.dtype).tiny) + 0.1).exp_()


class Kernel(Checked, Placed, Linear, ABC):
    r"""A function of the squared distance :math:`s=|x-y|^2`.

    A subclass gives :meth:`profile` and :meth:`slope`; everything else follows. The slope at :math:`s=0` only ever
    multiplies :math:`x-y=0`: it must be finite, and is 0 by convention where the kernel is not smooth, so that coincident
    particles do not act on each other.

    Examples
    --------
    A kernel of one's own, :math:`k=1/(1+s)`, at distance 2, so :math:`s=4`:

    >>> import torch
    >>> import wgflow as wg
    >>> class Cauchy(wg.Kernel):
    ...     def profile(self, s):
    ...         return 1 / (1 + s)
    ...
    ...     def slope(self, s):
    ...         return -1 / (1 + s) ** 2
    >>> Cauchy()(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
    tensor([[0.2000]])
    """

    goes_to = "a kernel: give it to a functional or an estimator, SquaredMMD(target, kernel) or Stein(kernel)"
    smooth: ClassVar[bool] = True
    """Differentiable at coincident points."""
    characteristic: ClassVar[bool] = True
    """The MMD of this kernel is a distance: 0 between equal laws only."""

    @classmethod
    def example(cls) -> "Kernel":
        """Return a tiny instance for contract tests."""
        return cls()

    @property
    def sorts(self) -> bool:
        r"""Whether it is :math:`-|x-y|`, whose sums in one dimension need a sort instead of all pairs."""
        return False

    @abstractmethod
    def profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa(s)`, elementwise."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa'(s)`, elementwise: :math:`\nabla_xk(x,y)=2\kappa'(s)(x-y)`."""

    def curvature(self, s: Tensor) -> Tensor:
        r"""Return :math:`\kappa''(s)`, elementwise; Stein kernels need it.

        Raises
        ------
        Unsupported
            For a kernel that is not twice differentiable, or does not say how.
        """
        raise Unsupported(f"{self} has no second derivative: a Stein kernel needs RBF or InverseMultiquadric")

    def evaluate(self, s: Tensor) -> Evaluated:
        r"""Return ``(k, q, c)`` with :math:`k=\kappa(s)` and :math:`\kappa'(s)=c\,q`; may overwrite ``s``.

        The default calls the two methods. A kernel whose slope is a multiple of its value saves a pass over the block.
        """
        return self.profile(s), self.slope(s), 1.0

    def log_profile(self, s: Tensor) -> Tensor:
        r"""Return :math:`\log\kappa(s)`, elementwise, for affinities that are normalized; a kernel that underflows says it directly."""
        return self.profile(s).log()

    def log_integral(self, d: int) -> float | Tensor:
        r"""Return :math:`\log\int k(x,0)\,dx` in :math:`d` dimensions, which makes the kernel a density."""
        raise Unsupported(f"{self} is not used as a density: take RBF, whose integral is known")

    def frequency_scales(self, normals: Tensor) -> float | Tensor:
        r"""Return m positive numbers :math:`\tau_j` with :math:`\kappa(s)=\kappa(0)\,E\,e^{-\tau^2s/2}`, made of standard normals (m, 6).

        So :math:`\tau_j` times a normal vector has the law whose characteristic function is :math:`\kappa/\kappa(0)`, a random
        frequency of the kernel. Of finite variance, or forces would have none.

        Raises
        ------
        Unsupported
            For a kernel that is no such mixture, or does not say of which.
        """
        raise Unsupported(
            f"{self} has no random frequencies of finite variance: take RBF, Matern, InverseMultiquadric or a sum of these, or "
            "Nystrom(kernel, landmarks) of any positive definite kernel"
        )

    def fit(self, x: Points, log_w: Tensor | None = None) -> "Kernel":
        """Return the kernel for these points, with these logarithms of weights: itself, unless its bandwidth is a rule."""
        return self

    @checked
    def __call__(self, x: Points, y: Points) -> Tensor:
        r"""Return the dense matrix :math:`k(x_i,y_j)`, shape (n, m), without gradient; memory n m.

        Raises
        ------
        BadInput
            For what is no tensor.
        Unsupported
            For points that require gradient: it would be lost.
        """
        refuse_gradients(x, y, "apply profile() to squared distances")
        with full_precision(x.device):
            return self.profile(Distances(x, y, self.smooth).block(slice(0, len(x)), slice(0, len(y))).clone())

    def _plus(self, other: Any) -> "KernelSum":
        if not isinstance(other, Kernel):
            return NotImplemented
        return KernelSum(terms_of(self) + terms_of(other))

    def _times(self, c: float) -> "KernelSum":
        return KernelSum(tuple((c * weight, kernel) for weight, kernel in terms_of(self)))


def terms_of(kernel: Kernel) -> tuple[tuple[float, Kernel], ...]:
    """Return the coefficients and kernels of a sum, also of sums within it; of another kernel 1 and itself."""
    if not isinstance(kernel, KernelSum):
        return ((1.0, kernel),)
    return tuple((c * inner, k) for c, part in kernel.terms for inner, k in terms_of(part))


def tensors_of(kernel: Kernel) -> Iterator[Tensor]:
    """Yield the tensors that a kernel holds, such as a bandwidth: its values change where one of these is written to."""
    for _, k in terms_of(kernel):
        for held in vars(k).values():
            if isinstance(held, Tensor):
                yield held
            elif isinstance(held, Kernel):
                yield from tensors_of(held)


def refuse_gradients(x: Points, y: Points, instead: str) -> None:
    """Refuse points that require gradient for a dense matrix, which would lose it."""
    if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad):
        raise Unsupported(f"a dense kernel matrix has no gradient: detach() the points, or {instead}")


suggest(Kernel, ((int, float), "Wrap the bandwidth: RBF({value})"))


@dataclass(frozen=True)
class KernelSum(Kernel):
    r"""A linear combination :math:`\sum_lc_lk_l`; several bandwidths at once, or attraction minus repulsion.

    Parameters
    ----------
    terms : tuple of (float, Kernel)
        Coefficients :math:`c_l` and kernels :math:`k_l`. ``+``, ``-``, ``*`` and ``sum`` of kernels make it.

    Examples
    --------
    >>> import torch
    >>> from wgflow.kernels import RBF
    >>> k = sum(RBF(b) for b in (0.5, 1.0, 2.0))
    >>> k.profile(torch.zeros(1))
    tensor([3.])
    """

    terms: tuple[tuple[Finite, Kernel], ...]

    def _pieces(self, inner: Callable[[Any], str]) -> Pieces:
        return Pieces("", [inner(k) if c == 1 else f"{c:g} * {inner(k)}" for c, k in self.terms], "", " + ")

    @property
    def smooth(self) -> bool:  # type: ignore[override]
        """Whether all terms are."""
        return all(k.smooth for _, k in self.terms)

    @property
    def characteristic(self) -> bool:  # type: ignore[override]
        """Whether all terms are, and none is subtracted."""
        return all(c > 0 and k.characteristic for c, k in self.terms)

    def profile(self, s: Tensor) -> Tensor:
        """Return the combination of the values."""
        return sum(c * k.profile(s) for c, k in self.terms)  # type: ignore[return-value]

    def slope(self, s: Tensor) -> Tensor:
        """Return the combination of the slopes."""
        return sum(c * k.slope(s) for c, k in self.terms)  # type: ignore[return-value]

    def curvature(self, s: Tensor) -> Tensor:
        """Return the combination of the second derivatives."""
        return sum(c * k.curvature(s) for c, k in self.terms)  # type: ignore[return-value]

    def evaluate(self, s: Tensor) -> Evaluated:
        """Return the combination of the terms' evaluations."""
        value, slope = torch.zeros_like(s), torch.zeros_like(s)
        for weight, kernel in self.terms:
            k, q, c = kernel.evaluate(s.clone())
            value += weight * k
            slope += (weight * c) * q
        return value, slope, 1.0

    def log_profile(self, s: Tensor) -> Tensor:
        """Return the logarithm of the combination, by the largest term."""
        logs = torch.stack([k.log_profile(s) + math.log(abs(c)) for c, k in self.terms])
        top = logs.amax(0)
        signs = torch.tensor([math.copysign(1.0, c) for c, _ in self.terms]).to(logs).view(-1, *[1] * s.dim())
        return top + (signs * (logs - top).exp()).sum(0).log()

    def log_integral(self, d: int) -> float | Tensor:
        """Return the logarithm of the combination of the integrals; raises ``Unsupported`` where a term is subtracted."""
        if any(c <= 0 for c, _ in self.terms):
            raise Unsupported(f"{self} is not used as a density: it needs positive factors")
        logs = [math.log(c) + k.log_integral(d) for c, k in self.terms]
        known = [x for x in logs if isinstance(x, Tensor)]
        if not known:
            return math.log(sum(math.exp(x - max(logs)) for x in logs)) + max(logs)
        return torch.logsumexp(torch.stack([torch.as_tensor(x).to(known[0]) for x in logs]), 0)

    def frequency_scales(self, normals: Tensor) -> Tensor:
        """Return those of the terms, each with the probability of its share of the value at 0, which the last normal decides."""
        terms, zero = terms_of(self), normals.new_zeros(())
        if any(c <= 0 for c, _ in terms):
            raise Unsupported(f"{self} draws no frequencies: it needs positive factors")
        # A bandwidth may be on another device.
        each = [(normals.new_ones(()) * k.frequency_scales(normals)).to(normals) for _, k in terms]
        shares = torch.stack([(c * k.profile(zero)).to(normals) for c, k in terms]).cumsum(0)
        chosen = torch.searchsorted(shares, torch.special.ndtr(normals[:, -1]) * shares[-1])
        scales = torch.stack([t.expand(len(normals)) for t in each])
        return scales.gather(0, chosen.clamp_(max=len(each) - 1)[None])[0]

    def fit(self, x: Points, log_w: Tensor | None = None) -> "Kernel":
        """Fit every term; itself where no term has a rule."""
        fitted = [k.fit(x, log_w) for _, k in self.terms]
        if all(new is k for new, (_, k) in zip(fitted, self.terms, strict=True)):
            return self
        return KernelSum(tuple((c, new) for new, (c, _) in zip(fitted, self.terms, strict=True)))
