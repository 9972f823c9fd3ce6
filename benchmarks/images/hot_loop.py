"""The hot loop: waits of the host for the device, the fake batch's gradient, images per second and who uses the time.

Counts come from a profiler trace and are exact. Times are ratios between variants of the loop that run side by side,
one update of each in random order, each by its median update.
"""

import argparse
import os
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks._record import Clock, parser, write
from benchmarks.images._loops import CRITIC_STEP, Contiguous, Loop, defective, toys, watched, with_kernel, with_sgd
from wgflow import Flow
from wgflow.driver.ledger import Ledger
from wgflow.generative import ImageData, Recipe, Runtime, load_images

# Operators whose result is a number or a shape on the host.
READS = frozenset(f"aten::{n}" for n in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select"))
BACKWARD = "autograd::engine::evaluate_function: "
LOG_EVERY = 50  # as in wgflow.solve
PERIOD = 16  # of lazy R1, where it is used


def trace(loop: Loop, updates: int) -> list[Any]:
    """Return the events of a profile of some updates."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it reports every start and stop
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        loop.run(updates)
    return list(recorded.events())


def host_reads(events: list[Any], updates: int) -> dict[str, Any]:
    """Count per update the reads of tensors by the host, those of Adam's step counters (host tensors) apart."""
    outside, adam = Counter(), Counter()
    for event in events:
        if event.name in READS:
            ancestors = list(_ancestors(event))
            mine = adam if any(a.startswith("Optimizer.step") for a in ancestors) else outside
            mine[f"{event.name} in {ancestors[-1] if ancestors else 'the update'}"] += 1
    return {
        "per_update": sum(outside.values()) / updates,
        "per_update_in_optimizer_step": sum(adam.values()) / updates,
        "where": dict(outside),
    }


def _ancestors(event: Any) -> Iterable[str]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event.name


def count_reads(flow: Flow, updates: int, **options: Any) -> dict[str, Any]:
    """Count host reads in some updates after a warm-up."""
    loop = Loop.of(flow, **options)
    loop.run(3)
    return host_reads(trace(loop, updates), updates)


def syncs(flows: dict[str, Flow], updates: int, device: torch.device) -> dict[str, Any]:
    """Answer (a): host reads by the trace, and on a GPU whether CUDA's own check objects."""
    # Phases of five updates, so that the end of a phase is looked at too.
    flows = {n: replace(f, solver=replace(f.solver, iters=5, first_iters=5)) for n, f in flows.items()}
    first = next(iter(flows.values()))
    return {
        "updates": updates,
        "library": {name: count_reads(flow, updates) for name, flow in flows.items()},
        # Adam's step counters are host tensors on a CPU; the fused kernel of a GPU reads them on the device. Another
        # optimiser shows that they are all there is.
        "with_sgd": {name: count_reads(with_sgd(flow), updates) for name, flow in flows.items()},
        # Proof that the count can see one: a loop that looks at a number of every update.
        "control_reads_one_number": count_reads(first, updates, after=lambda info: info["jko/energy"].item()),
        "cuda_sync_debug": {n: cuda_check(f, updates) for n, f in flows.items()} if device.type == "cuda" else None,
    }


def cuda_check(flow: Flow, updates: int) -> str:
    """Run updates while CUDA raises on every synchronisation; return ``ok`` or the error."""
    loop = Loop.of(flow)
    loop.run(3)
    with cuda_sync_errors():
        try:
            loop.run(updates)
        except RuntimeError as error:
            return str(error)
    return "ok"


@contextmanager
def cuda_sync_errors() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def fake_batch(flow: Flow, updates: int) -> dict[str, Any]:
    """Answer (b): whether fake batches carry a graph, and the backward nodes that a critic step runs."""
    results = {}
    for name, make in (("library", Loop.of), ("with_gradient", defective)):
        seen = watched(flow)
        loop = make(seen)
        loop.run(1)
        events = [e for e in trace(loop, updates) if e.name.startswith(BACKWARD)]
        # The engine runs CPU nodes in the calling thread, so they lie in the marked range; on a GPU it has its own.
        inside = [e for e in events if CRITIC_STEP in _ancestors(e)]
        grads = seen.solver.estimator.with_grad
        results[name] = {
            "fake_batches": len(grads),
            "fake_batches_with_gradient": sum(grads),
            "backward_nodes_per_critic_step": len(inside) / updates if inside else None,
            "backward_nodes_per_update": len(events) / updates,
        }
    return results


def variants(recipe: Recipe, data: ImageData, device: torch.device) -> dict[str, Loop]:
    """Return the loops that are timed against the first of them."""
    here = Runtime(device)
    clock = Clock(device)
    flow = recipe.flow(data, here)
    ledger = Ledger()

    def read_all(info: Any) -> None:
        ledger.add(0, info)
        ledger.settle()

    return {
        "base": Loop.of(watched(flow, clock)),
        "no_r1": Loop.of(recipe.changed(r1=0.0).flow(data, here)),
        "lazy_r1": Loop.of(recipe.changed(r1_every=PERIOD).flow(data, here)),
        "no_ema": Loop.of(replace(flow, initial=replace(flow.initial, ema=0.0))),
        "fake_batch_with_gradient": defective(flow),
        "contiguous_layout": Loop.of(recipe.flow(data, Contiguous(device))),
        "adam_loop": Loop.of(with_kernel(flow, "loop")),
        "adam_foreach": Loop.of(with_kernel(flow, "foreach")),
        "adam_fused": Loop.of(with_kernel(flow, "fused")),
        "log_every_update": Loop.of(flow, after=read_all),
    }


def times(loops: dict[str, Loop], updates: int, device: torch.device) -> dict[str, list[list[float]]]:
    """Return the (work, wall) seconds of every update of every loop, run side by side in random order."""
    clock, order = Clock(device), random.Random(0)
    found: dict[str, list[list[float]]] = {name: [] for name in loops}
    for _ in range(updates):
        for name in order.sample(sorted(loops), len(loops)):
            begun = clock()
            loops[name].run(1)
            found[name].append([b - a for a, b in zip(begun, clock(), strict=True)])
    return found


def typical(seconds: Sequence[float]) -> tuple[float, float]:
    """Mean time of an update over a period of lazy R1, each kind of update by its median, and its standard error."""
    middle, variance = 0.0, 0.0
    for some, weight in ((seconds[::PERIOD], 1 / PERIOD), (_without(seconds, PERIOD), 1 - 1 / PERIOD)):
        low, median, high = statistics.quantiles(some, n=4) if len(some) > 1 else some * 3
        middle += weight * median
        # Of the median of a normal sample: 1.25 sigma / sqrt(n), with sigma from the quartiles.
        variance += (weight * 1.25 * (high - low) / 1.35) ** 2 / len(some)
    return middle, variance**0.5


def _without(values: Sequence[float], every: int) -> list[float]:
    return [v for i, v in enumerate(values) if i % every]


def speed(recipe: Recipe, data: ImageData, updates: int, device: torch.device) -> dict[str, Any]:
    """Answer (c): images per second, shares of the time, and what each choice costs."""
    loops = variants(recipe, data, device)
    for loop in loops.values():
        loop.run(min(PERIOD, updates))  # a warm-up that keeps lazy R1 in step
    loops["base"].flow.solver.estimator.seconds.clear()
    found = times(loops, updates, device)
    work = {name: typical([t for t, _ in v]) for name, v in found.items()}
    base, base_error = work["base"]
    ratio = {n: t / base for n, (t, _) in work.items()}
    error = {n: t / base * ((e / t) ** 2 + (base_error / base) ** 2) ** 0.5 for n, (t, e) in work.items()}
    critic = typical(loops["base"].flow.solver.estimator.seconds)[0] / base
    shares = {
        "critic_step": critic,
        "of_which_r1": 1 - ratio["no_r1"],
        "ema": 1 - ratio["no_ema"],
        # A window's numbers are fetched at once; the variant fetches one update's at a time.
        "log_at_most": (ratio["log_every_update"] - 1) / LOG_EVERY,
        "generator_step_and_rest": ratio["no_ema"] - critic,
    }
    return {
        "images_per_second_of_work": recipe.options["batch"] / base,
        "images_per_second_of_wall_time": recipe.options["batch"] / typical([w for _, w in found["base"]])[0],
        "seconds_per_update": base,
        "share_of_time": shares,
        "time_relative_to_base": ratio,
        "time_relative_to_base_se": {n: e for n, e in error.items() if n != "base"},
    }


def settings(args: argparse.Namespace) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe to time and what the record says about it."""
    recipe = Recipe.load(args.recipe).changed(data="fashion-mnist-10k", data_root=None, instance_noise=True, flip=True)
    if args.channels or args.quick:
        recipe = recipe.changed(channels=args.channels or 4)
    if args.batch or args.quick:
        recipe = recipe.changed(batch=args.batch or 8)
    if args.quick:
        args.trace_updates = 2
    kept = {k: getattr(args, k) for k in ("recipe", "rounds", "trace_updates", "image_size", "quick")}
    return recipe, kept | {
        "network": recipe.network,
        "channels": recipe.channels,
        "batch": recipe.options["batch"],
        "divergence": recipe.options["divergence"],
        "r1_every": recipe.options["r1_every"],
        "clock": Clock(torch.device(args.device)).name,
    }


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--recipe", default="fashion-mnist", help="recipe whose loop is measured, on bundled images")
    options.add_argument("--channels", type=int, default=None, help="base width; the recipe's when left out")
    options.add_argument("--batch", type=int, default=None, help="batch size; the recipe's when left out")
    options.add_argument("--image-size", type=int, default=None, help="resize the bundled images, for example to 32")
    options.add_argument("--rounds", type=int, default=3, help="times 16 updates of every variant")
    options.add_argument("--trace-updates", type=int, default=10)
    args = options.parse_args(argv)
    recipe, kept = settings(args)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    data = ImageData(load_images(recipe.data, size=args.image_size).images.to(device), flip=recipe.flip)
    flow = recipe.flow(data, Runtime(device))
    results = {
        "host_reads": syncs({"images": flow} | toys(device), args.trace_updates, device),
        "fake_batch": fake_batch(flow, args.trace_updates),
        "speed": speed(recipe, data, 2 if args.quick else args.rounds * PERIOD, device),
    }
    path = write("hot_loop", args.results, kept, results, device)
    reads = results["host_reads"]
    print("host reads per update:", {n: r["per_update"] for n, r in reads["library"].items()})
    print("in Adam's step:", {n: r["per_update_in_optimizer_step"] for n, r in reads["library"].items()})
    print("with SGD:", {n: r["per_update"] + r["per_update_in_optimizer_step"] for n, r in reads["with_sgd"].items()})
    print("fake batch:", results["fake_batch"])
    print("time relative to base:", {n: round(r, 3) for n, r in results["speed"]["time_relative_to_base"].items()})
    return path


if __name__ == "__main__":
    print(main())
