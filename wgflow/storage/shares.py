"""Runs of several processes told as runs of one: each process draws its share of the same batches."""

from typing import Any

_SHARE = "Sharded"


def as_one(described: Any) -> Any:
    """Return the description of a run as a single process would give it.

    Shares of measures become the measures, and batch sizes, of which every process has its part, are those of all together.
    A run can then go on with another number of processes.
    """
    world = max(_worlds(described), default=1)
    return described if world == 1 else _whole(described, world)


def _worlds(described: Any) -> list[int]:
    if isinstance(described, dict):
        own = [described["world"]] if described.get("class") == _SHARE else []
        return own + [n for value in described.values() for n in _worlds(value)]
    if isinstance(described, list):
        return [n for value in described for n in _worlds(value)]
    return []


def _whole(described: Any, world: int) -> Any:
    if isinstance(described, list):
        return [_whole(value, world) for value in described]
    if not isinstance(described, dict):
        return described
    if described.get("class") == _SHARE:
        return _whole(described["base"], world)
    return {name: _part(name, value, world) for name, value in described.items()}


def _part(name: str, value: Any, world: int) -> Any:
    if name == "closure":  # what a function of the user holds is no part of the flow, and is the same everywhere
        return value
    return value * world if name == "batch" and type(value) is int else _whole(value, world)
