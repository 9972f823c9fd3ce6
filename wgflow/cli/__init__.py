"""The command line: ``wgflow train``, ``sample``, ``evaluate``, ``run``, ``bench``, ``list`` and ``show``."""

from wgflow.cli.bench import bench
from wgflow.cli.commands import evaluate, main, sample, train

__all__ = ["bench", "evaluate", "main", "sample", "train"]
