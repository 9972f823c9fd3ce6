"""What K JKO steps cost by S-JKO and by chains of maps, of the library, on one problem with networks of one size.

All ways take step k side by side, in random order, so that a drift of the machine is not a difference between them. Of the
model a + b (k - 1) for the seconds of step k the total is a K + b K (K - 1) / 2: its exponent in K goes from 1 to 2 around
K = 2 a / b, which is why K has to be large to see it.
"""

import argparse
import gc
import math
import random
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._record import Clock
from benchmarks.discretizations.phase_cost import CountedGenerator, H, without_collections
from wgflow import JKO, Adam, Critic, Flow, Pushforward, Softplus, StandardNormal, twenty_five_gaussians
from wgflow.generative.nets.toy import ToyCritic, ToyGenerator
from wgflow.maps import Residual
from wgflow.measures.chain import Chain

POINTS = 256
"""Drawn at the end, to count the calls."""


class PointwiseGenerator(CountedGenerator):
    """The same network as a function of points alone; its calls are counted too."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        CountedGenerator.calls += 1
        return ToyGenerator.forward(self, x, torch.zeros_like(x))


def ways(args: argparse.Namespace, device: torch.device) -> dict[str, Flow]:
    """Return the flows: they differ in their measure only."""
    target, latent = twenty_five_gaussians(device), StandardNormal(2, device=device)
    critic = Critic(lambda: ToyCritic(width=args.width), Adam(1e-4))
    solver = JKO(critic, optim=Adam(2e-4), iters=args.updates, batch=args.batch, cost="mean")
    generator = Pushforward(latent, lambda: CountedGenerator(width=args.width), noise=latent)
    flow = Flow(Softplus(target, args.batch), solver, generator, H, args.steps)

    def chain(cached: int | None) -> Flow:
        make = lambda: Residual(2, net=PointwiseGenerator(width=args.width), logdet=None)  # noqa: E731
        return replace(flow, initial=Chain(latent, make, cached=cached, density=False))

    return {"s_jko": flow, "uncached_chain": chain(None), "cached_chain": chain(args.buffer)}


class Run:
    """One of them under way, with what its steps took."""

    def __init__(self, flow: Flow, device: torch.device) -> None:
        torch.manual_seed(0)
        self.flow, self.clock = flow, Clock(device)
        self.state = flow.solver.init(flow.functional, flow.initial, torch.Generator(device).manual_seed(0))
        self.seconds: list[float] = []
        self.calls: list[int] = []
        self.megabytes: dict[int, float] = {}

    def step(self) -> None:
        """Take one time step."""
        CountedGenerator.calls = 0
        k, begun = self.state.k, self.clock()[0]
        while self.state.k == k:
            self.state = self.flow.solver.update(self.flow.functional, self.state, self.flow.step_size)[0]
        self.seconds.append(self.clock()[0] - begun)
        self.calls.append(CountedGenerator.calls)

    def report(self, updates: int, buffer: int | None) -> dict[str, Any]:
        """Return its numbers."""
        CountedGenerator.calls = 0
        self.state.measure.inference().draw(POINTS, self.state.rng)
        sizes, doublings = self.megabytes, exponents(self.seconds)
        return {
            "seconds_per_phase": self.seconds,
            "fit": line(self.seconds),
            "exponent_of_each_doubling": doublings,
            "exponent_of_total_cost_in_K": doublings[len(self.seconds)],
            "generator_calls_per_update": {
                "first": self.calls[0] / updates,
                "last": self.calls[-1] / updates,
                "growth": (self.calls[-1] - self.calls[0]) / updates,
            },
            "nfe_to_sample_after_K_phases": CountedGenerator.calls,
            "fresh_samples_in_training": "unlimited" if buffer is None else f"a buffer of {buffer}",
            "tensors_mb": {str(k): mb for k, mb in sizes.items()},
            "tensors_growth_mb": sizes[max(sizes)] - sizes[min(sizes)],
        }


def cost_in_k(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run the three side by side and return their reports."""
    flows = ways(args, device)
    for flow in flows.values():
        Run(flow, device).step()  # imports and first allocations are nobody's
    runs, order = {name: Run(flow, device) for name, flow in flows.items()}, random.Random(0)
    with without_collections():
        for k in range(1, args.steps + 1):
            for name in order.sample(sorted(runs), len(runs)):
                runs[name].step()
            if k in (1, *halvings(args.steps)):
                gc.collect()
                for run in runs.values():
                    run.megabytes[k] = held_mb(run.state)
    buffers = {"cached_chain": args.buffer}
    return {name: run.report(args.updates, buffers.get(name)) for name, run in runs.items()}


def halvings(steps: int) -> list[int]:
    """Return K, K/2, K/4, ..., as long as these are integers above 1."""
    found = [steps]
    while found[-1] % 2 == 0 and found[-1] > 2:
        found.append(found[-1] // 2)
    return found


def exponents(seconds: list[float]) -> dict[int, float]:
    """Return the exponent of the total cost over each doubling of K, by the K at its end."""
    total = np.cumsum(seconds)
    return {k: math.log2(total[k - 1] / total[k // 2 - 1]) for k in halvings(len(seconds)) if k % 2 == 0}


def line(seconds: list[float]) -> dict[str, float]:
    """Return a and b of a + b (k - 1), by least squares, with standard errors, and how far they bend the total."""
    k = np.arange(len(seconds))
    (b, a), covariance = np.polyfit(k, seconds, 1, cov=True)
    error_b, error_a = np.sqrt(np.diag(covariance))
    last = len(seconds)
    return {
        "a": float(a),
        "a_se": float(error_a),
        "b": float(b),
        "b_se": float(error_b),
        "slope_of_log_total_at_K": float((a + b * (last - 0.5)) / (a + b * (last - 1) / 2)),
    }


def held_mb(thing: Any) -> float:
    """Return the megabytes of all tensors that can be reached from an object."""
    seen, stack, storages = set(), [thing], {}
    while stack:
        x = stack.pop()
        if id(x) in seen or isinstance(x, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(x))
        if isinstance(x, Tensor):
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            stack += [] if x.grad is None else [x.grad]
        stack += gc.get_referents(x)
    return sum(storages.values()) / 2**20
