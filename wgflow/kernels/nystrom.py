"""Nyström's features of a kernel: its values at landmarks."""

from copy import deepcopy
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from wgflow.core.context import full_precision
from wgflow.core.errors import BadInput
from wgflow.core.typing import Points
from wgflow.kernels.base import register_kernel, tensors_of
from wgflow.kernels.features import FeatureKernel, RadialKernel
from wgflow.kernels.gaussian import RBF
from wgflow.kernels.sums import kernel_sums


@register_kernel("nystrom")
@dataclass(frozen=True, eq=False)
class Nystrom(FeatureKernel):
    r"""A kernel by its values at landmarks :math:`z`, :math:`\hat k(x,y)=k(x,z)\,(K_{zz}+\lambda I)^{-1}k(z,y)`.

    The m features are :math:`(\Lambda+\lambda I)^{-1/2}V^Tk(z,x)` with :math:`K_{zz}=V\Lambda V^T`. Between landmarks :math:`\hat k` is
    the kernel to within :math:`\lambda=m\,\varepsilon\,\kappa(0)`, with the rounding unit :math:`\varepsilon` of the points, and
    :math:`k-\hat k` is positive semidefinite everywhere (Williams and Seeger 2001).

    Parameters
    ----------
    kernel : Kernel
        Any positive definite one, or a rule for a bandwidth; copied.
    landmarks : Tensor, shape (m, \*event)
        Points near which the laws are, such as some of the data; copied. A force ends where no landmark is near.

    Raises
    ------
    BadInput
        For a kernel that is not positive definite, and landmarks that are no finite floating-point points or require gradient.

    Notes
    -----
    Cost n m kernel values per sum and as much again for its derivatives, and m³ for the root: once, or with a rule for the bandwidth
    once an evaluation. Memory that of the points and m².

    The error is known: with the residual :math:`r(x)=\kappa(0)-\hat k(x,x)\ge0`, that of a pair is at most
    :math:`\sqrt{r(x)r(y)}`, and :math:`0\le\mathrm{MMD}^2-\widehat{\mathrm{MMD}}^2\le(E_\rho\sqrt r+E_\nu\sqrt r)^2`.

    Examples
    --------
    Three landmarks are enough for three points:

    >>> import torch
    >>> import wgflow as wg
    >>> x = torch.tensor([[0.0], [1.0], [3.0]])
    >>> torch.allclose(wg.Nystrom(wg.RBF(1.0), x)(x, x), wg.RBF(1.0)(x, x), atol=1e-5)
    True
    """

    kernel: RadialKernel
    landmarks: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        z = self.landmarks
        if not z.is_floating_point() or z.dim() < 2 or z.numel() == 0 or not bool(torch.isfinite(z).all()):
            raise BadInput(
                f"landmarks must be finite floating-point points (m, *event), got {tuple(z.shape)} {z.dtype}"
            )
        if z.requires_grad:
            raise BadInput("landmarks get no gradients: give landmarks.detach()")
        with torch.inference_mode(False):  # theirs may change later, on which what has been computed rests
            object.__setattr__(self, "landmarks", z.clone())
            held = {id(t): t.detach().clone() for t in tensors_of(self.kernel)}
            object.__setattr__(self, "kernel", deepcopy(self.kernel, held))

    @classmethod
    def example(cls) -> "Nystrom":
        """Return a tiny instance, in the plane."""
        return cls(RBF(1.0), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))

    def features(self, x: Points) -> Tensor:
        """Return the features, shape (n, m), without gradient."""
        with full_precision(x.device):
            return self.kernel(x.detach(), self._at(x)) @ self._root(x).to(x.dtype)

    def embedding(self, x: Points, a: Tensor) -> Tensor:
        """Return the weighted sum of the features, shape (m,)."""
        return self._root(x).T @ kernel_sums(self.kernel, self._at(x), x, a).double()

    def at(self, x: Points, u: Tensor) -> Tensor:
        """Return products with the features, shape (n,)."""
        return kernel_sums(self.kernel, x, self._at(x), (self._root(x) @ u.double()).to(x.dtype))

    def _at(self, x: Points) -> Points:
        return self.landmarks.to(x.dtype)

    def _root(self, x: Points) -> Tensor:
        r"""Return :math:`V(\Lambda+\lambda I)^{-1/2}` with :math:`K_{zz}=V\Lambda V^T`, in double precision, for points like ``x``."""
        held = _roots.setdefault(self, {})
        if x.dtype not in held:
            with torch.inference_mode(False), torch.no_grad():  # gradients pass through what is multiplied with it
                z = self._at(x).double()  # as rounded as in the values at points: the root multiplies what differs
                values, vectors = torch.linalg.eigh(self.kernel(z, z))
                jitter = len(z) * torch.finfo(x.dtype).eps * self.kernel.profile(values.new_zeros(()))
                # Along eigenvectors: what a small eigenvalue multiplies stays as small as the rounding of one product.
                held[x.dtype] = vectors * (values.clamp(min=0) + jitter).rsqrt()
        return held[x.dtype]


_roots: WeakKeyDictionary[Nystrom, dict[torch.dtype, Tensor]] = WeakKeyDictionary()
