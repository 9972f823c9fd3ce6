"""The names by which descriptions of runs know the modules of wgflow: a file may move, and a run stays the same one."""

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
    "storage": "_code _describe _files _saved _shares _state",
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
}


def told_name(module: str) -> str:
    """Return the name of a module when descriptions began: digests of what the user's code reads hold it as well.

    A module that is moved, or that takes functions over from another one, needs an entry here.
    """
    return _EARLIER.get(module, module)
