"""Images a second, kernels, memory and FLOP rate of S-JKO updates: pairs, precisions, eager and compiled, beside the public code."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks._record import Clock, peak_memory_mb, reset_peak
from benchmarks.images._loops import Loop
from benchmarks.images._peer import PeerLoop
from wgflow import Flow, WgflowError
from wgflow.generative import RECIPES, ImageData, Recipe, Runtime

PAIRS = {"small": "cifar10-small", "large": "cifar10-large"}
DRY_CHANNELS = {"small": 8, "large": 32}
HOW: dict[str, Any] = {"eager": False, "compiled": True, "graphs": "graphs"}


def sized(name: str, dry: bool) -> tuple[Recipe, int]:
    """Return the recipe of a pair and its batch."""
    recipe = RECIPES[PAIRS[name]]
    return (recipe.changed(channels=DRY_CHANNELS[name]), 2) if dry else (recipe, recipe.options["batch"])


def flow(recipe: Recipe, batch: int, precision: str, device: torch.device, dry: bool, how: str = "eager") -> Flow:
    """Return the flow of a recipe on random images: nothing is measured that depends on what they show."""
    shape = (4 * batch, 3, 16, 16) if dry else (4 * batch, 3, 32, 32)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    recipe = recipe.changed(batch=batch, instance_noise=True, precision=precision)
    return recipe.flow(ImageData(pixels.to(device), flip=True), Runtime(device, precision, compile=HOW[how]))


def throughput(device: torch.device, dry: bool, peer: Path | None) -> Iterator[dict[str, Any]]:
    """Time updates, the cheapest to start first; a row that fails says why, and the others go on."""
    for how in HOW:
        for name in PAIRS:
            if (how == "graphs" and device.type != "cuda") or (how != "eager" and dry and name == "large"):
                continue
            recipe, batch = sized(name, dry)
            for precision in ("fp32", "bf16"):
                about = {"pair": name, "how": how, "precision": precision}
                # A function for each batch: what it made is gone before the next, smaller one.
                make = lambda n, r=recipe, p=precision, h=how: Loop.of(flow(r, n, p, device, dry, h))  # noqa: E731
                yield about | attempted(make, batch, device, dry, counted=how == "eager")
            if how == "eager" and peer is not None and (name == "small" or device.type == "cuda"):
                about = {"pair": name, "how": "public code", "precision": "fp32"}
                yield about | attempted(
                    lambda n, p=name: PeerLoop(peer, p, n, device), batch, device, dry, counted=True
                )


def attempted(make: Callable[[int], Any], batch: int, device: torch.device, dry: bool, counted: bool) -> dict[str, Any]:
    """Return what a loop shows at this batch, at half of it where the memory does not hold it, or why it does not run."""
    while batch:
        try:
            return measured(make(batch), batch, device, dry, counted)
        except torch.OutOfMemoryError:
            batch //= 2
        except (RuntimeError, WgflowError, ImportError, OSError) as error:
            return {"batch": batch, "failed": f"{type(error).__name__}: {str(error)[:300]}"}
        torch.cuda.empty_cache()
    return {"failed": "out of memory at a batch of 1"}


def measured(loop: Any, batch: int, device: torch.device, dry: bool, counted: bool) -> dict[str, Any]:
    """Return images a second, by the median update of one window after the warm-up, kernels, memory and FLOP rate."""
    clock = Clock(device)
    begun = clock()[1]
    loop.run(1)
    first = clock()[1] - begun
    warm, timed = (0, 1) if dry else (7, 30)
    loop.run(warm)
    reset_peak(device)
    taken = []
    for _ in range(timed):
        begun = clock()[1]
        loop.run(1)
        taken.append(clock()[1] - begun)
    usual = statistics.median(taken)
    found = {
        "batch": batch,
        "seconds_per_update": usual,
        "images_per_second": batch / usual,
        "seconds_of_first_update": first,
        "peak_memory_mb": peak_memory_mb(device),
        **launches(loop, device),
    }
    if counted:  # dispatched operators are seen in eager code only; compiled code computes the same
        with Flops() as flops:
            loop.run(1)
        found |= {"gflop_per_image": flops.total / batch / 1e9, "tflop_per_second": flops.total / usual / 1e12}
    return found


class Flops(TorchDispatchMode):
    """Adds up PyTorch's counts of products and convolutions; its own mode follows modules, and refuses a derivative in a loss."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


def launches(loop: Any, device: torch.device) -> dict[str, int]:
    """Count what one update starts: kernels on a GPU, operators of PyTorch on a CPU."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=kinds) as recorded:
        loop.run(1)
    events = list(recorded.events())
    if device.type == "cuda":
        return {"kernels_per_update": sum(e.device_type == torch.autograd.DeviceType.CUDA for e in events)}
    outer = [e for e in events if e.name.startswith("aten::") and "aten::" not in getattr(e.cpu_parent, "name", "")]
    return {"operators_per_update": len(outer)}
