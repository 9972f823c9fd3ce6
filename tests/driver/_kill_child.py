"""A small S-JKO run, and a server that forks it and kills it where it is told.

PyTorch is imported once: every attempt is a fork of this process, which itself never computes a gradient (a fork of
PyTorch's autograd threads would hang on a machine with a GPU). Commands and answers are lines of JSON.
"""

import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # the optimisers import it at their first step, which every fork would pay for
from torch import Tensor, nn

import wgflow
from wgflow.driver.solve import Run
from wgflow.measures.pushforward import PushforwardSuccessor

KEEP = 2


class Generator(nn.Module):
    """T(x, z) with batch normalisation: its running statistics are part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.SiLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return x + self.body(torch.cat([x, z], 1))


def critic() -> nn.Module:
    """Dropout draws from the global generator, whose state must survive too."""
    return nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Dropout(0.1), nn.Linear(16, 1))


def moments(rho: wgflow.Measure, rng: torch.Generator) -> dict[str, float]:
    x = rho.draw(64, rng).x
    return {"mean": float(x.mean()), "std": float(x.std())}


class Resumed(wgflow.Callback):
    """Leaves a note of where the run went on, for a run that starts anew ends at the same place too."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, run: Run) -> None:
        self.path.write_text(run.resumed_from or "")


def run(folder: Path) -> wgflow.Solution:
    """Start or resume the run of ``folder``: everything that S-JKO has, in small."""
    flow = wgflow.presets.s_jko(
        wgflow.GaussianMixture(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.2),
        wgflow.StandardNormal(2),
        Generator,
        critic,
        noise=wgflow.StandardNormal(2),
        reference=nn.Identity(),
        divergence="softplus",
        variant="code",
        num_steps=3,
        first_iters=14,
        iters=9,
        batch=16,
        ema=0.9,
    )
    return flow.solve(
        seed=7,
        callbacks=[wgflow.Evaluate([moments]), wgflow.JsonLog(folder / "log.jsonl"), Resumed(folder / "resumed")],
        checkpoint=wgflow.Checkpoint(folder / "checkpoints", every_updates=3, keep=KEEP),
        log_every=4,  # so that windows of the log lie across checkpoints
    )


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half_written(payload: object, file: io.BufferedWriter) -> None:
    whole = io.BytesIO()
    _save(payload, whole)
    file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
    file.flush()
    die()


def _after(original: Callable) -> Callable:
    return lambda *args, **kwargs: (original(*args, **kwargs), die())


def _suspended(original: Callable) -> Callable:
    return lambda *args, **kwargs: (os.kill(os.getpid(), signal.SIGSTOP), original(*args, **kwargs))


def _half_a_line(self: wgflow.JsonLog, row: dict) -> None:
    line = json.dumps(row).encode()
    self.file.write(line[: len(line) // 2])
    self.file.flush()
    die()


_save = torch.save
# Where to die: the function whose n-th call is the last one, and what that call does.
POINTS: dict[str, tuple[object, str, Callable]] = {
    "half a checkpoint written": (torch, "save", _half_written),
    "checkpoint written, not flushed": (torch, "save", _after(torch.save)),
    "checkpoint flushed, not renamed": (os, "replace", die),
    "checkpoint renamed, old ones not removed": (os, "replace", _after(os.replace)),
    "while an old checkpoint is removed": (Path, "unlink", die),
    "checkpoint complete": (wgflow.Checkpoint, "write", _after(wgflow.Checkpoint.write)),
    "while a checkpoint is restored": (wgflow.JsonLog, "load_state_dict", die),
    "between critic and generator": (PushforwardSuccessor, "couple", die),
    "inside an optimiser step": (torch.optim.Adam, "step", die),
    "before the running average": (PushforwardSuccessor, "trained", die),
    "while a step is accepted": (PushforwardSuccessor, "accept", die),
    "half a line of the log": (wgflow.JsonLog, "_write", _half_a_line),
    "after a step's line of the log": (wgflow.JsonLog, "on_step", _after(wgflow.JsonLog.on_step)),
    "while metrics are evaluated": (wgflow.Evaluate, "evaluate", die),
    # not a kill: the process is suspended and goes on later
    "suspended": (PushforwardSuccessor, "trained", _suspended(PushforwardSuccessor.trained)),
}


def arm(point: str, n: int) -> None:
    """Make the ``n``-th call (from 1) at ``point`` the last thing this process does."""
    owner, name, last = POINTS[point]
    original, calls = getattr(owner, name), 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return (last if calls == n else original)(*args, **kwargs)

    setattr(owner, name, counted)


def _attempt(job: dict) -> None:
    try:
        signal.alarm(120)  # should it ever hang
        if "point" in job:
            arm(job["point"], job["n"])
        run(Path(job["folder"]))
    except BaseException as error:
        (Path(job["folder"]) / "error").write_text(f"{type(error).__name__}: {error}")
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _start(job: dict) -> int:
    child = os.fork()
    if child == 0:
        _attempt(job)
    return child


def serve() -> None:
    """Answer every job, a line on standard input, with the exit status of its process and the time it took.

    A job with ``"go on"`` waits for the end of a process that an earlier job has left suspended.
    """
    for line in sys.stdin:
        job, begun = json.loads(line), time.perf_counter()
        if "go on" in job:
            child = job["go on"]
            os.kill(child, signal.SIGCONT)
        else:
            child = _start(job)
        if "seconds" in job:
            time.sleep(job["seconds"])
            os.kill(child, signal.SIGKILL)  # not reaped yet, so the number is still this child's
        _, status = os.waitpid(child, os.WUNTRACED)
        answer = {"suspended": child} if os.WIFSTOPPED(status) else {"code": os.waitstatus_to_exitcode(status)}
        print(json.dumps(answer | {"seconds": time.perf_counter() - begun}), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve()
