"""C16: what does phase k of S-JKO cost? Time, memory and network calls for k = 1 ... K, beside incremental maps.

Every phase is first run in order (memory, network calls, a copy of the state at its start). Then all phases are run
again from their starts side by side, one update of each in random order, so that neither a drift of the machine nor a
burst of other work can look like a trend in k. The time of a phase is that of its median update, times their number,
with the last update, which also accepts the step, taken for itself.
"""

import argparse
import copy
import gc
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from benchmarks._record import ROOT, Clock, parser, peak_memory_mb, reset_peak, write
from benchmarks.discretizations._chains import Incremental
from wgflow import JKO, Adam, Critic, Flow, Pushforward, Softplus, StandardNormal, twenty_five_gaussians
from wgflow.generative.nets.toy import ToyCritic, ToyGenerator

H = 0.1
BASELINE_ROUNDS = 2


class CountedGenerator(ToyGenerator):
    """A toy generator that counts its calls."""

    calls = 0

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x, z)


@dataclass(frozen=True)
class SJKO:
    """The flow of the library behind the few calls that the measurement needs."""

    flow: Flow

    def begin(self, seed: int, device: torch.device) -> Any:
        torch.manual_seed(seed)
        return self.flow.solver.init(self.flow.functional, self.flow.initial, torch.Generator(device).manual_seed(seed))

    def update(self, state: Any) -> Any:
        return self.flow.solver.update(self.flow.functional, state, self.flow.step_size)[0]

    def copy(self, state: Any) -> Any:
        return copy.deepcopy(state)

    def sample(self, state: Any, n: int) -> Tensor:
        return state.measure.draw(n, state.rng).x


class Chain(Incremental):
    def copy(self, state: Any) -> Any:
        return state.copy()


@dataclass
class Costs:
    """What one method costs, phase by phase."""

    seconds: list[float] = field(default_factory=list)
    wall_seconds: list[float] = field(default_factory=list)
    calls_per_update: list[float] = field(default_factory=list)
    parameter_tensors: list[int] = field(default_factory=list)
    tensor_mb: list[float] = field(default_factory=list)
    peak_mb: list[float | None] = field(default_factory=list)
    calls_to_sample: int = 0


def methods(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the three methods on one problem with networks of one size."""
    target, latent = twenty_five_gaussians(device), StandardNormal(2, device=device)
    nets: tuple[Callable[[], nn.Module], ...] = (
        lambda: CountedGenerator(width=args.width),
        lambda: ToyCritic(width=args.width),
    )
    # Without a reference map, so that phase 1 has a snapshot to evaluate like all the others.
    flow = Flow(
        Softplus(target, args.batch),
        JKO(Critic(nets[1], Adam(1e-4)), optim=Adam(2e-4), iters=args.updates, batch=args.batch, cost="mean"),
        Pushforward(latent, nets[0], noise=latent, ema=0.999),
        H,
        args.steps,
    )
    draw, z = (lambda n, rng: target.draw(n, rng).x), (lambda n, rng: latent.draw(n, rng).x)
    incremental = (*nets, draw, z, z, H, args.batch, args.updates)
    return {
        "s_jko": SJKO(flow),
        "uncached_maps": Chain(*incremental),
        "cached_maps": Chain(*incremental, buffer=args.buffer),
    }


def in_order(method: Any, args: argparse.Namespace, device: torch.device) -> Costs:
    """Run all phases and note their memory and network calls."""
    costs, state = Costs(), method.begin(0, device)
    for _ in range(args.steps):
        CountedGenerator.calls = 0
        reset_peak(device)
        state = _phase(method, state, args.updates)
        peak = peak_memory_mb(device)
        tensors, count = _live_tensors()
        costs.calls_per_update.append(CountedGenerator.calls / args.updates)
        costs.peak_mb.append(peak)
        costs.tensor_mb.append(tensors)
        costs.parameter_tensors.append(count)
    CountedGenerator.calls = 0
    method.sample(state, args.batch)
    costs.calls_to_sample = CountedGenerator.calls
    return costs


def interleaved(found: dict[str, Any], args: argparse.Namespace, device: torch.device) -> dict[str, list[list[float]]]:
    """Return work and wall seconds of every phase, from single updates of all phases in random order."""
    clock, order = Clock(device), random.Random(0)
    starts = {name: _starts(method, args, device) for name, method in found.items()}
    times: dict[tuple[str, int, bool], list[tuple[float, float]]] = defaultdict(list)
    for turn in range(args.rounds):
        due = [name for name in found if name == "s_jko" or turn < BASELINE_ROUNDS]
        # In random order too: copies that are made later lie elsewhere in memory, which is worth a percent.
        keys = [(name, k) for name in due for k in range(args.steps)]
        states = {(name, k): found[name].copy(starts[name][k]) for name, k in order.sample(keys, len(keys))}
        with without_collections():
            for i in range(args.updates):
                for name, k in order.sample(sorted(states), len(states)):
                    begun = clock()
                    states[name, k] = found[name].update(states[name, k])
                    took = tuple(b - a for a, b in zip(begun, clock(), strict=True))
                    times[name, k, i + 1 == args.updates].append(took)

    def phase(name: str, k: int, j: int) -> float:
        usual, last = ([t[j] for t in times[name, k, accepts]] for accepts in (False, True))
        return (args.updates - 1) * statistics.median(usual) + statistics.median(last)

    return {name: [[phase(name, k, j) for k in range(args.steps)] for j in range(2)] for name in found}


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect garbage before, and not meanwhile: a collection would hit a phase by chance."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _starts(method: Any, args: argparse.Namespace, device: torch.device) -> list[Any]:
    state, starts = method.begin(0, device), []
    for _ in range(args.steps):
        starts.append(method.copy(state))
        state = _phase(method, state, args.updates)
    return starts


def _phase(method: Any, state: Any, updates: int) -> Any:
    for _ in range(updates):
        state = method.update(state)
    return state


def _live_tensors() -> tuple[float, int]:
    """Megabytes of all tensors that exist, and the number of parameters among them."""
    gc.collect()
    storages, parameters = {}, 0
    for thing in gc.get_objects():
        # Sparse tensors and parameters that have no size yet have no storage.
        if issubclass(type(thing), Tensor) and thing.layout is torch.strided and not is_lazy(thing):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            parameters += issubclass(type(thing), nn.Parameter)
    return sum(storages.values()) / 2**20, parameters


def trend(seconds: Sequence[float]) -> dict[str, float]:
    """Least-squares line of the time per phase, relative to its mean, in percent, with standard errors."""
    y = np.asarray(seconds)
    k = np.arange(1, len(y) + 1)
    (slope, _), ((variance, _), _) = np.polyfit(k, y, 1, cov="unscaled")
    residual = y - np.polyval(np.polyfit(k, y, 1), k)
    error = np.sqrt(variance * residual @ residual / (len(y) - 2))
    percent = 100 / y.mean()
    return {
        "slope_percent_per_phase": slope * percent,
        "slope_percent_per_phase_se": error * percent,
        "change_over_all_phases_percent": slope * percent * (len(y) - 1),
        "change_over_all_phases_percent_se": error * percent * (len(y) - 1),
        "scatter_percent": float(residual.std() * percent),
    }


def exponent(seconds: Sequence[float]) -> float:
    """Slope of log total cost against log K over the last two thirds of K."""
    total, k = np.cumsum(seconds), np.arange(1, len(seconds) + 1)
    late = k >= len(k) / 3
    return float(np.polyfit(np.log(k[late]), np.log(total[late]), 1)[0])


def report(costs: Costs, buffer: int) -> dict[str, Any]:
    """Return the numbers of one method."""
    peaks = [p for p in costs.peak_mb if p is not None]
    growth = lambda v: {"first": v[0], "last": v[-1], "growth": v[-1] - v[0]}  # noqa: E731
    return {
        "seconds_per_phase": costs.seconds,
        "wall_seconds_per_phase": costs.wall_seconds,
        "trend": trend(costs.seconds),
        "wall_trend": trend(costs.wall_seconds),
        "exponent_of_total_cost_in_K": exponent(costs.seconds),
        "generator_calls_per_update": growth(costs.calls_per_update),
        "nfe_to_sample_after_K_phases": costs.calls_to_sample,
        "fresh_samples_in_training": f"a buffer of {buffer}" if buffer else "unlimited",
        # From the second phase on: Adam's moments and the gradients are made in the first.
        "live_tensors_mb": growth(costs.tensor_mb[1:]),
        "live_parameter_tensors": growth(costs.parameter_tensors[1:]),
        "peak_memory_mb": growth(peaks[1:]) if len(peaks) > 1 else None,
        "live_tensors_mb_per_phase": costs.tensor_mb,
        "peak_memory_mb_per_phase": costs.peak_mb,
    }


def draw(all_costs: dict[str, Costs], results: dict[str, Any], path: Path) -> None:
    """Plot time per phase, total time and memory."""
    from matplotlib.figure import Figure

    labels = {"s_jko": "S-JKO (wgflow)", "uncached_maps": "chain of maps", "cached_maps": "chain, cached particles"}
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    base = statistics.mean(all_costs["s_jko"].seconds)
    for (name, costs), color in zip(all_costs.items(), ("C0", "C3", "C2"), strict=True):
        k = np.arange(1, len(costs.seconds) + 1)
        order = results[name]["exponent_of_total_cost_in_K"]
        style = {"color": color, "marker": ".", "linewidth": 1.2, "label": labels[name]}
        style["linestyle"] = "--" if name == "cached_maps" else "-"
        left.plot(k, np.asarray(costs.seconds) / base, **style)
        middle.loglog(k, np.cumsum(costs.seconds) / base, **style | {"label": f"{labels[name]}: $K^{{{order:.2f}}}$"})
        right.plot(k[1:], costs.tensor_mb[1:], **style)
    change = results["s_jko"]["trend"]
    value, error = (change[f"change_over_all_phases_percent{s}"] for s in ("", "_se"))
    left.set(title=f"time of step k\nS-JKO changes by {value:+.1f} ± {error:.1f} %", ylabel="in mean steps of S-JKO")
    middle.set(title="time of K steps", ylabel="in mean steps of S-JKO")
    right.set(title="tensors alive after step k", ylabel="MB", ylim=(0, None))
    for ax in (left, middle, right):
        ax.set_xlabel("K" if ax is middle else "step k")
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(9)
    left.set_ylim(0, None)
    middle.legend(frameon=False, fontsize=8)
    left.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--steps", type=int, default=30, help="phases K")
    options.add_argument("--updates", type=int, default=8, help="updates in a phase")
    options.add_argument("--rounds", type=int, default=8, help="times that every phase is run (baselines: 2)")
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--width", type=int, default=128, help="of the toy networks")
    options.add_argument("--buffer", type=int, default=2048, help="particles of the cached baseline")
    options.add_argument("--figure", type=Path, default=ROOT / "docs" / "figures" / "phase_cost.png")
    args = options.parse_args(argv)
    if args.quick:
        args.steps, args.updates, args.rounds, args.batch, args.width, args.buffer = 4, 2, 1, 16, 16, 32
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    found = methods(args, device)
    all_costs = {name: in_order(method, args, device) for name, method in found.items()}
    for name, (seconds, wall) in interleaved(found, args, device).items():
        all_costs[name].seconds, all_costs[name].wall_seconds = seconds, wall
    results = {name: report(costs, args.buffer if name == "cached_maps" else 0) for name, costs in all_costs.items()}
    draw(all_costs, results, args.figure)
    kept = ("steps", "updates", "rounds", "batch", "width", "buffer", "quick")
    settings = {k: getattr(args, k) for k in kept} | {"clock": Clock(device).name, "problem": "25 Gaussians, softplus"}
    path = write("phase_cost", args.results, settings, results, device)
    for name, found_costs in results.items():
        change = found_costs["trend"]
        print(
            f"{name:14} total cost ~ K^{found_costs['exponent_of_total_cost_in_K']:.2f}, phase time changes by "
            f"{change['change_over_all_phases_percent']:+.2f} ± {change['change_over_all_phases_percent_se']:.2f} % over "
            f"K={args.steps} phases, tensors by {found_costs['live_tensors_mb']['growth']:+.3f} MB, "
            f"{found_costs['nfe_to_sample_after_K_phases']} calls to sample"
        )
    return path


if __name__ == "__main__":
    print(main())
