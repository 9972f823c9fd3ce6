"""The public code of Mokrov et al. (2021), timed beside ours: a JKO step of its ICNN as its own training loop takes it.

The code is not a package and is not ours; a copy of github.com/PetrMokrov/Large-Scale-Wasserstein-Gradient-Flows has to be at hand.
It was written for an older Python and imports some things that this loop does not use: these are replaced by stand-ins.
"""

import collections
import collections.abc
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from wgflow import BadInput

WIDTH, LAYERS, RANK, RATE, H = 64, 2, 5, 5e-3, 0.05
"""Of its configuration for this suite."""


def _plain(*options: Any, **more: Any) -> Callable[[Any], Any]:
    """Stand in for decorators that compile or overload: nothing that is used here needs them."""
    return lambda function: function


@contextmanager
def _importable(clone: Path) -> Iterator[None]:
    """Put the copy on the path, with stand-ins for what it imports and does not use here."""
    stand_ins = {
        "multipledispatch": {"dispatch": _plain},
        "numba": {"jit": _plain, "njit": _plain},
        "IPython": {},
        "IPython.display": {"clear_output": None},
    }
    modules = {name: ModuleType(name) for name in stand_ins}
    for name, members in stand_ins.items():
        vars(modules[name]).update(members)
    held = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    sys.path.insert(0, str(clone))
    collections.Iterable = collections.abc.Iterable  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del collections.Iterable  # type: ignore[attr-defined]
        sys.path.remove(str(clone))
        for name, module in held.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def seconds_per_iteration(clone: Path, d: int, *, maps: int, iters: int, batch: int) -> float:
    """Return CPU seconds of one iteration of its step number ``maps + 1`` towards N(0, 2 I) in ``d`` dimensions."""
    if not (clone / "src" / "icnn.py").exists():
        raise BadInput(
            f"--mokrov {clone}: expected a copy of github.com/PetrMokrov/Large-Scale-Wasserstein-Gradient-Flows"
        )
    with _importable(clone):
        icnn, diffusion, utils = (importlib.import_module(f"src.{name}") for name in ("icnn", "diffusion", "utils"))
    normal = torch.distributions.MultivariateNormal
    start, target = normal(torch.zeros(d), torch.eye(d)), normal(torch.zeros(d), 2 * torch.eye(d))
    sizes, options = [d, [WIDTH] * LAYERS], {"rank": RANK, "activation": "softplus", "batch_size": batch}
    net = icnn.DenseICNN(*sizes, **options)
    for p in net.parameters():
        p.data = torch.randn(p.shape) / math.sqrt(WIDTH)
    net.convexify()
    net = utils.id_pretrain_model(net, start, lr=RATE, n_max_iterations=20, batch_size=batch, verbose=False)
    flow = diffusion.Diffusion(start, n_max_prop=batch)
    flow.Ds = [net] * maps

    def train(iterations: int) -> None:
        utils.train_diffusion_model(
            flow, net, (sizes, options), target, 1, batch_size=batch, lr=RATE, step_size=H, step_iterations=iterations,
            plot_loss=False, verbose=False,
        )  # fmt: skip
        flow.Ds.pop()

    train(2)
    begun = time.process_time()
    train(iters)
    return (time.process_time() - begun) / iters
