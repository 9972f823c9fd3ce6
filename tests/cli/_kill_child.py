"""Runs ``wgflow run`` in forks of this process and kills each of them where it is told, at last none.

Arguments: the words of the command, then ``--kills`` and pairs of a moment and the how-manieth time it comes.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

import wgflow
from wgflow.cli import main
from wgflow.driver.ledger import Ledger


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def half_written(file, **arrays):
    file.write(b"PK" * 100)
    file.flush()
    die()


MOMENTS = {
    "update": (Ledger, "add", die),
    "checkpoint": (torch, "save", die),
    "rename": (os, "replace", die),
    "solution": (np, "savez", half_written),
    "picture": (wgflow.plotting, "particles", die),
}


def attempt(words, moment=None, n=0):
    """Return the exit status of a fork that is killed at the n-th time of a moment."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(300)  # should it ever hang
    # As often as that whatever the speed of the machine.
    wgflow.Checkpoint.due = lambda self, run, *, looked, last: last or run.updates % 3 == 0
    if moment is not None:
        owner, name, last = MOMENTS[moment]
        original, calls = getattr(owner, name), []

        def counted(*args, **kwargs):
            calls.append(moment)
            return (last if len(calls) == n else original)(*args, **kwargs)

        setattr(owner, name, counted)
    os._exit(main(words))


if __name__ == "__main__":
    torch.set_num_threads(1)
    at = sys.argv.index("--kills")
    words, kills = sys.argv[1:at], sys.argv[at + 1 :]
    for moment, n in zip(kills[::2], kills[1::2], strict=True):
        status = attempt(words, moment, int(n))
        assert status == -signal.SIGKILL, (moment, n, status)
        assert not list(Path().glob("**/solution.npz")) or moment == "picture", moment
    sys.exit(attempt(words))
