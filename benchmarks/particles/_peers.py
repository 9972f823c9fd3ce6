"""Other ways to do the particle steps of ``_particle_cases.py``: plain PyTorch, geomloss, KeOps, POT.

What depends on the target alone is done beforehand wherever a peer lets us.
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.particles._particle_cases import Problem, Step, log_prob

# Entries of a block of rows: what is fastest here, like the library's own.
BLOCK = {"cpu": 2**18, "cuda": 2**25}
# Above, its authors advise against KeOps.
KEOPS_COORDINATES = 100

Sums = Callable[[Problem, Tensor, Tensor, Tensor], Tensor]


def squares(x: Tensor, y: Tensor) -> Tensor:
    """Return squared distances as everybody writes them."""
    return x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T


def kernel(p: Problem, x: Tensor, y: Tensor) -> Tensor:
    """Return the dense kernel."""
    if p.case == "energy":
        return -torch.cdist(x, y)
    return torch.exp(squares(x, y) * (-0.5 / p.sigma**2))


def differentiated(p: Problem, f: Callable[[Tensor], Tensor]) -> Step:
    """Return the step of a value that is differentiated by autograd."""

    def step() -> tuple[Tensor, Tensor]:
        x = p.x.detach().requires_grad_(True)
        v = f(x)
        (g,) = torch.autograd.grad(v, x)
        return v.detach(), g * -len(x)

    return step


def dense(p: Problem, rows: int | None = None) -> Step:
    """Plain PyTorch on all pairs at once."""
    x, y = p.x, p.y
    if p.case == "stein":

        def step() -> tuple[None, Tensor]:
            score = score_at(x)
            z = x.detach().requires_grad_(True)
            k = kernel(p, z, x)
            (pull,) = torch.autograd.grad(k.sum(), z)
            return None, (k.detach() @ score - pull) / len(x)

        return step
    if p.case == "blob":
        return differentiated(p, lambda z: kernel(p, z, z).mean(1).log().mean() - log_prob(z).mean())
    if p.case == "sliced":
        ys = (p.theta @ y.T).sort(1)[0]
        return differentiated(p, lambda z: 0.5 * ((p.theta @ z.T).sort(1)[0] - ys).square().mean())
    own = kernel(p, y, y).mean()
    return differentiated(p, lambda z: 0.5 * (kernel(p, z, z).mean() - 2 * kernel(p, z, y).mean() + own))


def score_at(x: Tensor) -> Tensor:
    """Return the gradient of the log density."""
    z = x.detach().requires_grad_(True)
    return torch.autograd.grad(log_prob(z).sum(), z)[0]


def torch_sums(p: Problem, x: Tensor, y: Tensor, b: Tensor) -> Tensor:
    """Return the kernel times ``b``, in the memory of one block."""
    return kernel(p, x, y) @ b


def keops_sums(p: Problem, x: Tensor, y: Tensor, b: Tensor) -> Tensor:
    """Return the kernel times ``b``, by KeOps."""
    from pykeops.torch import LazyTensor

    s = ((LazyTensor(x[:, None].contiguous()) - LazyTensor(y[None].contiguous())) ** 2).sum(2)
    k = -s.sqrt() if p.case == "energy" else (s * (-0.5 / p.sigma**2)).exp()
    return k @ b


def by_rows(p: Problem, sums: Sums, size: int, rows: int | None = None) -> Step:
    """Go through the rows by blocks of ``size``, differentiating each in its own points only: half of the dense work.

    With ``rows`` only the first of them are done, in proportion of whose number the time is (but for a blob's density).
    """
    x, y = p.x, p.y
    n, m = len(x), len(y)
    parts = x[:rows].split(size)
    ones, others = x.new_full((n, 1), 1 / n), x.new_full((m, 1), 1 / m)
    targeted = p.case in ("mmd_rbf", "energy")
    # Over some rows only, the value is not wanted either.
    own = torch.cat([sums(p, part, y, others) for part in y.split(size)]).mean() if targeted and rows is None else 0.0

    def gradient(part: Tensor, f: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        z = part.detach().requires_grad_(True)
        u = f(z)
        return u.detach(), torch.autograd.grad(u.sum(), z)[0]

    def mmd() -> tuple[Tensor, Tensor]:
        values, slopes = [], []
        for part in parts:
            a, da = gradient(part, lambda z: sums(p, z, x, ones))
            b, db = gradient(part, lambda z: sums(p, z, y, others))
            values.append(0.5 * a - b)
            slopes.append(db - da)
        return torch.cat(values).mean() + 0.5 * own, torch.cat(slopes)

    def stein() -> tuple[None, Tensor]:
        score = score_at(x) / n
        return None, torch.cat([sums(p, q, x, score) - gradient(q, lambda z: sums(p, z, x, ones))[1] for q in parts])

    def blob() -> tuple[Tensor, Tensor]:
        s = torch.cat([sums(p, part, x, ones) for part in parts])
        inverse = (1 / s) / n if rows is None else ones  # of all particles, to which some rows are no key
        both = torch.cat([ones, inverse], 1)

        def pairs(z: Tensor, of: Tensor) -> Tensor:
            return sums(p, z, x, both) * torch.cat([1 / of, torch.ones_like(of)], 1)

        cut = zip(parts, s.split(size), strict=True)
        slopes = [gradient(part, lambda z, of=of: pairs(z, of))[1] for part, of in cut]
        return s.log().mean() - log_prob(x).mean(), score_at(x[:rows]) - torch.cat(slopes)

    return {"stein": stein, "blob": blob}.get(p.case, mmd)


def blocks(p: Problem, rows: int | None = None) -> Step:
    """Plain PyTorch by blocks of rows."""
    return by_rows(p, torch_sums, max(16, BLOCK[p.x.device.type] // len(p.x)), rows)


def keops(p: Problem, rows: int | None = None) -> Step:
    """KeOps; what it compiles is compiled here."""
    step = by_rows(p, keops_sums, len(p.x), rows)
    with contextlib.redirect_stdout(io.StringIO()):
        by_rows(Problem(p.case, p.x[:100], p.y[:100], p.theta, p.sigma), keops_sums, 100)()
    return step


def geomloss(p: Problem, rows: int | None = None) -> Step:
    """The kernel norms of geomloss, half of the squared MMD."""
    from geomloss import SamplesLoss

    name = {"mmd_rbf": "gaussian", "energy": "energy"}[p.case]
    loss = SamplesLoss(name, blur=p.sigma, backend="tensorized")
    return differentiated(p, lambda x: loss(x, p.y))


def pot(p: Problem, rows: int | None = None) -> Step:
    """The sliced distance of POT on the same directions."""
    import ot

    directions = p.theta.T.contiguous()
    return differentiated(p, lambda x: 0.5 * ot.sliced_wasserstein_distance(x, p.y, projections=directions) ** 2)


METHODS: dict[str, dict[str, Callable[..., Step]]] = {
    "mmd_rbf": {"torch": dense, "torch_blocks": blocks, "geomloss": geomloss, "keops": keops},
    "energy": {"torch": dense, "torch_blocks": blocks, "geomloss": geomloss, "keops": keops},
    "stein": {"torch": dense, "torch_blocks": blocks, "keops": keops},
    "blob": {"torch": dense, "torch_blocks": blocks, "keops": keops},
    "sliced": {"torch": dense, "pot": pot},
}
MODULES = {"geomloss": "geomloss", "keops": "pykeops", "pot": "ot"}


def absent(method: str) -> str | None:
    """Return why a peer cannot run here, or None."""
    name = MODULES.get(method)
    if name is None or importlib.util.find_spec(name) is not None:
        return None
    return f"{name} is not installed"


def refused(case: str, method: str, n: int, d: int) -> str | None:
    """Return why a method is not run at a size, or None."""
    if method in ("torch", "geomloss") and n > 20_000 and case != "sliced":
        return f"holds matrices of {4 * n * n / 1e9:.0f} GB"
    if method == "keops" and d > KEOPS_COORDINATES:
        return f"not made for d > {KEOPS_COORDINATES}"
    return absent(method)


def peer_versions() -> dict[str, Any]:
    """Return the versions of the peers, None for one that is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {}
    for name in ("geomloss", "POT", "pykeops", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
