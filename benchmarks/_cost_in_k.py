"""What K JKO steps cost by S-JKO and by chains of maps, of the library, on one problem with networks of one size.

The measurement is that of phase_cost.py, which compares with chains in plain PyTorch.
"""

import argparse
import copy
from dataclasses import replace
from typing import Any

import torch
from phase_cost import SJKO, CountedGenerator, H, in_order, interleaved, report
from torch import Tensor

from wgflow import JKO, Adam, Critic, Flow, Pushforward, Softplus, StandardNormal, twenty_five_gaussians
from wgflow.generative.nets.toy import ToyCritic, ToyGenerator
from wgflow.maps import Residual
from wgflow.measures.chain import Chain


class PointwiseGenerator(CountedGenerator):
    """The same network as a function of points alone; its calls are counted too."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        CountedGenerator.calls += 1
        return ToyGenerator.forward(self, x, torch.zeros_like(x))


class ChainFlow(SJKO):
    """A flow of a chain: accepted maps and the cloud never change, so a copy to go on from shares them."""

    def copy(self, state: Any) -> Any:
        live = state.measure._live
        shared = {} if live is None else {id(m): m for m in live.maps}
        if live is not None and live.cache is not None:
            shared[id(live.cache)] = live.cache
        return copy.deepcopy(state, shared)

    def sample(self, state: Any, n: int) -> Tensor:
        return state.measure.inference().draw(n, state.rng).x


def cost_in_k(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Return the report of phase_cost.py for the three ways."""
    target, latent = twenty_five_gaussians(device), StandardNormal(2, device=device)
    critic = Critic(lambda: ToyCritic(width=args.width), Adam(1e-4))
    solver = JKO(critic, optim=Adam(2e-4), iters=args.updates, batch=args.batch, cost="mean")
    generator = Pushforward(latent, lambda: CountedGenerator(width=args.width), noise=latent)
    flow = Flow(Softplus(target, args.batch), solver, generator, H, args.steps)

    def chain(cached: int | None) -> ChainFlow:
        make = lambda: Residual(2, net=PointwiseGenerator(width=args.width), logdet=None)  # noqa: E731
        return ChainFlow(replace(flow, initial=Chain(latent, make, cached=cached, density=False)))

    found = {"s_jko": SJKO(flow), "uncached_chain": chain(None), "cached_chain": chain(args.buffer)}
    costs = {name: in_order(method, args, device) for name, method in found.items()}
    for name, (seconds, wall) in interleaved(found, args, device).items():
        costs[name].seconds, costs[name].wall_seconds = seconds, wall
    return {name: report(c, args.buffer if name == "cached_chain" else 0) for name, c in costs.items()}
