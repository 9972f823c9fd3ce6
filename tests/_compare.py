"""Comparison of nested plain values to the last bit."""

from pathlib import Path
from typing import Any

import torch

from wgflow import Particles
from wgflow.storage.files import read
from wgflow.storage.growing import Growing


def whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint with the history, the times and the saved states that it names."""
    saved = read(path)
    lists = Growing(path.parent).read(saved)
    lists["saved"] = [{"x": s.x, "log_w": s.log_w} if isinstance(s, Particles) else s for s in lists["saved"]]
    return saved | lists


def assert_same(ours: Any, theirs: Any, where: str = "checkpoint") -> None:
    """Equal to the last bit, except for wall times and the length of the log, which holds wall times."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours.keys() - {"seconds", "position"}:
            assert_same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    else:
        assert ours == theirs, where
