"""Flows whose checkpoints an earlier tree has written, in ``tests/data/before_the_move``; small, and the same on every tree.

They hold what a checkpoint could know by the place of a file: functions, methods and classes of wgflow, and functions that read
its modules. All but ``user's functions`` hold no code of their own, which Python's versions compile differently.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

import wgflow as wg
import wgflow.generative.nets
from wgflow.maps import Affine
from wgflow.metrics import FunctionalValue

DATA = Path(__file__).resolve().parents[1] / "data" / "before_the_move"
FIRST_FORMAT, USERS = "first format", "user's functions"
KILLED_AT = 4
"""The update after which all of them were killed; the last checkpoint is of the one before."""

POINTS = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.25, -1.5], [2.0, -0.75]], dtype=torch.float64)
NORMAL = wg.Gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([[1.0, 0.25], [0.25, 0.5]], dtype=torch.float64))
MIXTURE = wg.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.5]], dtype=torch.float64), 0.5)
NORMAL_32 = wg.StandardNormal(2)
SCHEDULES = sys.modules[wg.Halving.__module__]
snapshot = wg.Save().fn


class Sums(wg.Callback):
    """A callback of the user's, with a number that must survive."""

    total = 0.0

    def on_step(self, run: Any, row: dict[str, Any]) -> None:
        self.total += row["t"]

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.total = saved["total"]


class Well:
    """A potential of the user's, which reads a module, a class, a method and functions of wgflow."""

    def __call__(self, x: Tensor) -> Tensor:
        scale = SCHEDULES.Halving(1.0, every=2)(0) + wg.Geometric(1.0, 0.5)(1) + wg.instance_noise(3) + len(LOOKED_AT)
        return scale * self.squares(x)

    def squares(self, x: Tensor) -> Tensor:
        return x.square().sum(1)


@dataclass(frozen=True)
class SecondMoment(wg.Functional):
    """A functional of the user's."""

    strength: float

    def value(self, rho: wg.Particles) -> Tensor:
        return self.strength * rho.mean(rho.x.square().sum(1))


def doubled(x: Tensor) -> Tensor:
    """Another one, which is a function."""
    return 2 * Well()(x) if LOOKED_AT else x.sum(1)


LOOKED_AT = [wg.transport_cost, snapshot, wg.Geometric(1.0, 0.5).__call__, wg.KernelDensity(wg.RBF(1.0)).log_density]


FLOWS: dict[str, Callable[[], dict[str, Any]]] = {
    "schedules, stop and states": lambda: {
        "F": wg.KL(NORMAL),
        "solver": wg.RK4(wg.KDEScore(wg.RBF(0.8))),
        "initial": wg.Particles(POINTS),
        "step_size": wg.Halving(0.25, every=2).__call__,
        "save": wg.Save(2),
        "callbacks": [Sums(), wg.Evaluate([FunctionalValue(wg.PotentialEnergy(NORMAL.log_prob), n=4)]), wg.StopAt(0.9)],
        "num_steps": 9,
    },
    "Langevin": lambda: {
        "F": wg.KL(wg.Unnormalised(NORMAL.log_prob, 2)),
        "solver": wg.WithReaction(
            wg.Langevin(), wg.BirthDeath(3.0, jitter=0.1), wg.Blob(wg.KernelDensity(wg.RBF(0.8)))
        ),
        "initial": wg.Particles(POINTS),
        "step_size": wg.Geometric(0.1, 0.9),
        "save": wg.Save(fn=snapshot),
    },
    "blob and density": lambda: {
        "F": wg.Entropy() + 0.5 * wg.PotentialEnergy(functools.partial(NORMAL.log_prob)),
        "save": wg.Save(0),
        "solver": wg.Heun(wg.Blob(wg.KernelDensity(wg.RBF(0.8)))),
        "initial": wg.Particles(POINTS, log_w=torch.tensor([0.0, 1.0, -1.0, 0.5], dtype=torch.float64)),
        "step_size": 0.05,
    },
    "Stein, accelerated": lambda: {
        "F": wg.KL(MIXTURE),
        "save": wg.Save(0),
        "solver": wg.Accelerated(wg.Stein(wg.MedianRBF())),
        "initial": wg.Particles(POINTS),
        "step_size": 0.1,
    },
    "JKO by L-BFGS": lambda: {
        "F": wg.SquaredMMD(wg.Dataset(POINTS.flip(0) + 1), wg.RBF(1.0) + 0.5 * wg.Matern(0.5)),
        "save": wg.Save(0),
        "solver": wg.JKO(optim=wg.LBFGS()),
        "initial": wg.Particles(POINTS),
        "step_size": 0.5,
    },
    "sliced, random": lambda: {
        "F": wg.SlicedWasserstein(wg.Dataset(POINTS.flip(0) + 1), directions=3),
        "save": wg.Save(0),
        "solver": wg.ForwardEuler(),
        "initial": wg.Particles(POINTS),
        "step_size": 0.5,
    },
    "grid": lambda: {
        "F": wg.KL(wg.Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))),
        "solver": wg.EntropicJKO(0.5),
        "initial": wg.Grid(torch.arange(1.0, 13.0, dtype=torch.float64), (-3.0,), (3.0,)),
        "step_size": 0.2,
    },
    "chain": lambda: {
        "F": wg.KL(MIXTURE),
        "solver": wg.JKO(optim=wg.Adam(1e-2, schedule=wg.Cosine(20, 1e-3)), iters=3, batch=4),
        "initial": wg.Chain(NORMAL, functools.partial(Affine, 2)),
        "step_size": 0.2,
        "num_steps": 3,
    },
    "critic and generator": lambda: {
        "F": wg.Softplus(wg.Smoothed(NORMAL_32, wg.instance_noise), batch=8),
        "solver": wg.JKO(wg.Critic(functools.partial(nn.Linear, 2, 1), wg.Adam(1e-2), r1=wg.R1(0.2)), iters=3, batch=8),
        "initial": wg.Pushforward(
            NORMAL_32,
            functools.partial(nn.Bilinear, 2, 2, 2),
            noise=NORMAL_32,
            ema=wg.ema_decay(100, 8),
            reference=nn.Identity(),
        ),
        "step_size": 0.2,
        "num_steps": 3,
    },
    USERS: lambda: {
        "F": wg.PotentialEnergy(Well()) + wg.PotentialEnergy(doubled) + SecondMoment(0.5),
        "save": wg.Save(0),
        "solver": wg.ForwardEuler(),
        "initial": wg.Particles(POINTS),
        "step_size": 0.02,
    },
    FIRST_FORMAT: lambda: {
        "F": wg.KL(NORMAL),
        "solver": wg.ForwardEuler(wg.Stein(wg.RBF(1.0))),
        "initial": wg.Particles(POINTS),
        "step_size": 0.1,
    },
}

RECIPE = dict(channels=1, batch=8, num_steps=2, first_iters=4, iters=4, evaluate_every=2, sinkhorn_n=4)
"""Of the run folder; the data are bundled."""


class Killed(Exception):
    """In the place of a signal."""


class Kill(wg.Callback):
    """Ends a run the hard way."""

    def on_update(self, run: Any, info: Any) -> None:
        if run.updates == KILLED_AT:
            raise Killed


class Resumed(wg.Callback):
    """Remembers where a run went on."""

    name: str | None = None

    def on_start(self, run: Any) -> None:
        self.name = run.resumed_from


def folder_of(name: str) -> Path:
    """Where the checkpoints of a flow are."""
    return DATA / "".join(c for c in name.replace(" ", "-") if c.isalnum() or c == "-")


def flow(name: str, folder: Path, *more: wg.Callback, seed: int = 3) -> wg.Solution:
    """Run one of the flows above in a folder, or go on with it."""
    options = {"num_steps": 6, "callbacks": []} | FLOWS[name]()
    options["callbacks"] += more
    return wg.solve(**options, seed=seed, checkpoint=wg.Checkpoint(folder, every_updates=1))


def end(solution: wg.Solution) -> dict[str, Any]:
    """What two runs that are the same share at their end, as tensors and plain types."""
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in solution.history]
    saved = [state.x for state in solution.saved if state is not None]
    generator = torch.Generator().manual_seed(0)
    return {
        "status": solution.status,
        "times": solution.times,
        "history": rows,
        "saved": torch.stack(saved) if saved else None,
        "draws": solution.measure.inference().draw(4, generator).x.detach(),
    }


def names_told(describe: Callable[[Any], Any]) -> dict[str, str]:
    """How a description names the public functions, and a method of each public class."""
    found = {}
    for module in (wg, wg.maps, wg.presets, wg.reference, wg.plotting, wgflow.generative, wgflow.generative.nets):
        for name in module.__all__:
            obj = getattr(module, name)
            own = vars(obj).values() if isinstance(obj, type) else [obj]
            methods = (
                f
                for f in own
                if isinstance(f, FunctionType) and f.__code__.co_filename != "<string>" and f.__name__ != "__repr__"
            )
            found |= {f"{module.__name__}.{name}": describe(f)["function"] for f in itertools.islice(methods, 1)}
    return found


def here() -> dict[str, str]:
    """What decides the last bits of a result."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    cpu = models[0].partition(":")[2].strip() if models else "unknown"
    return {"torch": str(torch.__version__), "cpu": cpu, "instructions": torch.backends.cpu.get_cpu_capability()}
