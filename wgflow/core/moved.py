"""The names that modules had before they moved into rooms: runs are described by them, and imports of them still work."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_ROOMS = {
    "cli": "_arguments",
    "core": "_context _fields _finite _imports _inner _instead _linear _networks _outputs _ranks _registry _rng _rules _startup "
    "_typing _words errors",
    "driver": "_crossings _interrupts _ledger _run _undefined callbacks checkpoint compatibility pacing schedules solution solve",
    "generative.metrics": "generative.features generative.fid generative.frechet generative.inception",
    "kernels": "_stein_blocks densities",
    "numerics": "_cache _distances _exact_transport _once _pairs _quantiles _sinkhorn _sinkhorn_problem _sinkhorn_solver _softmin",
    "optim": "_balance _descent _quasi_newton tridiagonal",
    "solvers": "_scaling",
    "storage": "_code _describe _files _shares _state",
}
"""Where modules live that have kept their names, all but an underscore."""


def _now(room: str, earlier: str) -> str:
    return f"{room}.{earlier.rpartition('.')[2].lstrip('_')}"


_EARLIER = {
    f"wgflow.{_now(room, name)}": f"wgflow.{name}" for room, names in _ROOMS.items() for name in names.split()
} | {
    "wgflow.cli.commands": "wgflow.cli",
    "wgflow.driver.first_format": "wgflow._describe_1",
    "wgflow.generative.data._array_files": "wgflow.generative._array_files",
    "wgflow.kernels.sums": "wgflow._ops",
    "wgflow.optim.minimizers": "wgflow.optim",
    "wgflow.storage.growing": "wgflow._saved",
}


_PARTS = {
    **dict.fromkeys(
        (f"wgflow.driver.callbacks.{name}" for name in ("base", "evaluate", "logs", "stopping")), "wgflow.callbacks"
    ),
    **dict.fromkeys((f"wgflow.metrics.{name}" for name in ("base", "moments", "sinkhorn")), "wgflow.metrics"),
    "wgflow.generative.distances": "wgflow.generative.train",
    "wgflow.generative.flat_yaml": "wgflow.generative.recipe",
    "wgflow.generative.pairs": "wgflow.generative.recipe",
    "wgflow.generative.recorded": "wgflow.generative.evaluate",
    "wgflow.generative.shown": "wgflow.generative.monitor",
    "wgflow.functionals.penalties": "wgflow.estimators.critic",
    "wgflow.measures._pushforward_successor": "wgflow.measures.pushforward",
    "wgflow.estimators.proximal_score": "wgflow.estimators.entropic",
    "wgflow.functionals.chi2": "wgflow.functionals.divergences",
    "wgflow.kernels.potentials": "wgflow.kernels.radial",
    "wgflow.measures.derived": "wgflow.measures.base",
    "wgflow.functionals.linear": "wgflow.functionals.algebra",
    "wgflow.generative.metrics.cifar_resnet": "wgflow.generative.features",
    "wgflow.measures.dataset": "wgflow.measures.targets",
    "wgflow.measures.factor_covariance": "wgflow.measures.precisions",
    "wgflow.measures.mixture": "wgflow.measures.targets",
    "wgflow.measures.successor": "wgflow.measures.base",
    "wgflow.measures.regression": "wgflow.measures.pushforward",
    "wgflow.numerics.line_sums": "wgflow._ops",
    "wgflow.reference.ornstein_uhlenbeck": "wgflow.reference.gaussian",
    **dict.fromkeys(
        (f"wgflow.presets.{name}" for name in ("_distances", "_langevin", "_proximals")), "wgflow.presets._particles"
    ),
    "wgflow.presets._split": "wgflow.presets._kernel_score",
    "wgflow.solvers.transport": "wgflow.solvers.jko",
}
"""Modules that have taken functions over from one which still has them, under the name above if it has moved."""


def told_name(module: str) -> str:
    """Return the name of a module when descriptions began: digests of what the user's code reads hold it as well.

    A module that is moved, or that takes functions over from another one, needs an entry here.
    """
    return _PARTS.get(module) or _EARLIER.get(module, module)


class _Moved(MetaPathFinder, Loader):
    """Finds a module under the name it had, as the same object, and says what it is called now."""

    def __init__(self) -> None:
        # wgflow.solve is a function: a module of that name would take its place.
        self.now = {earlier: name for name, earlier in _EARLIER.items() if earlier != "wgflow.solve"}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a specification for an earlier name, and None for any other."""
        return ModuleSpec(name, self) if name in self.now else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that it is now; warns of the other name."""
        now = self.now[spec.name]
        warnings.warn(f"{spec.name} is {now} now", DeprecationWarning, stacklevel=2)
        module = import_module(now)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: Any) -> None:
        """Give the module its own specification back: it has run already."""
        module.__spec__ = module.__spec__.loader_state


def find_moved() -> None:
    """Let imports of earlier names find what has moved, after everything else has been asked."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
