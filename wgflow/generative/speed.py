"""How fast a training is, and where its time goes: images and operations a second, memory, traces."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wgflow import Callback
from wgflow.core.fields import Count, checked
from wgflow.core.typing import Info
from wgflow.storage.files import replacing

if TYPE_CHECKING:
    from wgflow.driver.run import Run

SPEED = "speed/"
TRACE = "trace.json"


class Speed(Callback):
    """Adds to every window of the log how fast its updates were; stands before the callbacks that show it.

    ===========================  =====================================================================================
    ``speed/images_per_second``  images drawn by updates a second of wall time, over all processes
    ``speed/tflop_per_second``   operations of this process in units of 10¹² a second: those of the first update of the
                                 session, times updates
    ``speed/peak_memory_mb``     largest memory of tensors on the GPU so far, in MiB; not on a CPU
    ===========================  =====================================================================================

    Operations are those of matrix products and convolutions, an addition and a multiplication counting as two. The first update
    is counted as it runs (:attr:`last` has to be the last callback): where R1 is applied in every n-th one only, it has it.
    Where the networks are compiled nothing is counted, since what is counted is not compiled. Windows end after the device was
    waited for; evaluations are taken off.

    Parameters
    ----------
    images : int
        Images in one update.
    looking : callable
        Seconds that were spent on evaluations so far.
    device : torch.device
        Whose memory is looked at.
    count : bool
        Whether to count operations.

    Examples
    --------
    :func:`fit` makes one. By itself, with a progress bar that shows it:

    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative.speed import Speed
    >>> F, start = wg.PotentialEnergy(lambda x: 0.5 * x.square().flatten(1).sum(1)), wg.Particles(torch.ones(4, 1, 8, 8))
    >>> speed = Speed(4)
    >>> shown = [speed, wg.Progress(disable=True), speed.last]
    >>> flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=3, log_every=1, callbacks=shown)
    >>> speed.latest["speed/images_per_second"] > 0, speed.flop_per_update
    (True, 0)
    """

    @checked
    def __init__(
        self,
        images: Count,
        looking: Callable[[], float] = lambda: 0.0,
        device: torch.device | None = None,
        count: bool = True,
    ) -> None:
        self.images, self.looking, self.device = images, looking, device
        self.counter = _Operations() if count else None
        self.flop_per_update: int | None = None
        self.latest: dict[str, float] = {}
        self.last = _Counting(self)

    def on_start(self, run: "Run") -> None:
        """Start the clock."""
        self.seen = run.updates, self._clock()

    def _clock(self) -> float:
        return time.perf_counter() - self.looking()

    def on_update(self, run: "Run", info: Info) -> None:
        """End the count after the first update; the clock starts anew, since the first one is not like the others."""
        if self.last.counting and self.counter is not None:
            self.last.end()
            self.flop_per_update = self.counter.total
            self.seen = run.updates, self._clock()

    def on_log(self, run: "Run", window: dict[str, float]) -> None:
        """Put the speed since the last window into this one."""
        updates, now = run.updates - self.seen[0], self._clock()
        if not updates:
            return
        seconds, self.seen = max(now - self.seen[1], 1e-9), (run.updates, now)
        self.latest = {f"{SPEED}images_per_second": updates * self.images / seconds}
        if self.flop_per_update is not None:
            self.latest[f"{SPEED}tflop_per_second"] = updates * self.flop_per_update / seconds / 1e12
        if self.device is not None and self.device.type == "cuda":
            self.latest[f"{SPEED}peak_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        window |= self.latest

    def on_end(self, run: "Run") -> None:
        """End a count that no update has ended."""
        self.last.end()


class _Counting(Callback):
    """Begins the count of :class:`Speed` when all others have started."""

    def __init__(self, speed: Speed) -> None:
        self.speed, self.counting = speed, False

    def on_start(self, run: "Run") -> None:
        if self.speed.counter is not None and run.updates < run.total_updates:
            self.speed.counter.__enter__()
            self.counting = True

    def end(self) -> None:
        if self.counting and self.speed.counter is not None:
            self.speed.counter.__exit__(None, None, None)
            self.counting = False


class _Operations(TorchDispatchMode):
    """Adds up operations by the formulas of ``FlopCounterMode``, which itself follows modules by hooks that R1 cannot go through."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        counted = flop_registry.get(func.overloadpacket)
        if counted is not None:
            self.total += counted(*args, **(kwargs or {}), out_val=found)
        return found


class Trace(Callback):
    """Writes what a few updates did on the processor and the GPU, as a trace for ``chrome://tracing`` or Perfetto.

    The first updates of a session are left out: they choose kernels and allocate. Where no others follow, no file is written, with
    a warning. The profiler waits for the device at its end.

    Parameters
    ----------
    path : path
        The file, JSON.
    updates : int
        How many.
    skip : int
        Updates before them.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative.speed import Trace
    >>> F, start = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1)), wg.Particles(torch.ones(1, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trace = Trace(f"{folder}/trace.json", updates=2, skip=1)
    ...     flow = wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=4, callbacks=[trace])
    ...     Path(folder, "trace.json").stat().st_size > 0
    True
    """

    @checked
    def __init__(self, path: str | Path, updates: Count, skip: Count = 2) -> None:
        self.path, self.updates, self.skip = Path(path), updates, skip
        self.profiler: Any = None
        self.done = 0

    def on_update(self, run: "Run", info: Info) -> None:
        """Begin after the updates that are skipped, and write after those that are traced."""
        self.done += 1
        if self.done == self.skip:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self.profiler = profile(activities=kinds)
            self.profiler.start()
        elif self.done == self.skip + self.updates:
            self._write()

    def on_end(self, run: "Run") -> None:
        """Write what there is of a run that ended before, or say that there is nothing."""
        self._write()
        if self.done <= self.skip:
            warnings.warn(
                f"{self.path.name} is not written: the session has had {self.done} updates, and the first {self.skip} are not traced",
                stacklevel=2,
            )

    def _write(self) -> None:
        profiler, self.profiler = self.profiler, None
        if profiler is None:
            return
        profiler.stop()
        if self.done > self.skip:
            with replacing(self.path) as temporary:
                profiler.export_chrome_trace(str(temporary))
