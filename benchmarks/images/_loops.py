"""The hot loop and what it is compared with: the flows, networks and optimisers of hot_loop.py."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from benchmarks._record import Clock
from wgflow import (
    SGD,
    Adam,
    Critic,
    Dataset,
    Flow,
    GaussianMixture,
    Particles,
    Smoothed,
    StandardNormal,
    instance_noise,
)
from wgflow.generative import Runtime
from wgflow.generative.nets.toy import ToyCritic, ToyGenerator
from wgflow.measures.pushforward import PushforwardSuccessor
from wgflow.optim import Descent, Optim
from wgflow.presets import s_jko

CRITIC_STEP = "critic step"


@dataclass(frozen=True)
class Watched(Critic):
    """A critic that marks its step in a trace, times it, and keeps what the fake batches looked like."""

    clock: Clock | None = None
    seconds: list[float] = field(default_factory=list)
    with_grad: list[bool] = field(default_factory=list)

    def refine(self, F: Any, draw: Any, es: Any, rng: torch.Generator) -> Any:
        def seen(rng: torch.Generator) -> Particles:
            fake = draw(rng)
            self.with_grad.append(fake.x.requires_grad)
            return fake

        begun = self.clock() if self.clock else None
        with record_function(CRITIC_STEP):
            info = super().refine(F, seen, es, rng)
        if self.clock:
            self.seconds.append(self.clock()[0] - begun[0])
        return info


@dataclass(frozen=True)
class AdamKernel(Adam):
    """Adam with a kernel of one's choice: ``loop``, ``foreach`` or ``fused``."""

    kernel: str = "fused"

    def build(self, parameters: Iterable[Tensor]) -> Descent:
        kernels = {"fused": self.kernel == "fused", "foreach": self.kernel == "foreach"}
        return Descent(
            torch.optim.Adam(list(parameters), self.lr, self.betas, self.eps, **kernels), self.lr, self.schedule
        )


class WholeBackward(Descent):
    """Back-propagates into everything that the loss depends on, as ``loss.backward()`` does."""

    def differentiate(self, objective: Callable[[], Tensor]) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = objective()
        loss.backward()
        return loss.detach()


class WithGradient(PushforwardSuccessor):
    """Draws the fake batch with gradient, as the public S-JKO code does: the critic's loss then reaches the generator."""

    def draw(self, rho: Any, n: int, rng: torch.Generator) -> Particles:
        inputs, log_w = rho.latents(n, rng)
        return Particles(self.net(*inputs), log_w)


class Contiguous(Runtime):
    """Networks in the default memory layout."""

    def network(self, net: nn.Module) -> nn.Module:
        return net


@dataclass
class Loop:
    """A flow in the middle of its updates."""

    flow: Flow
    state: Any
    after: Callable[[Any], None] = lambda info: None

    @classmethod
    def of(cls, flow: Flow, **options: Any) -> "Loop":
        device = flow.initial.device
        torch.manual_seed(0)
        return cls(
            flow, flow.solver.init(flow.functional, flow.initial, torch.Generator(device).manual_seed(0)), **options
        )

    def run(self, updates: int) -> None:
        for _ in range(updates):
            self.state, info = self.flow.solver.update(self.flow.functional, self.state, self.flow.step_size)
            self.after(info)


def with_optim(flow: Flow, other: Callable[[Adam], Optim]) -> Flow:
    """Return the flow with another optimiser of both networks, made from the one it has."""
    solver, critic = flow.solver, flow.solver.estimator
    critic = replace(critic, optim=other(critic.optim))
    return replace(flow, solver=replace(solver, optim=other(solver.optim), estimator=critic))


def with_kernel(flow: Flow, kernel: str) -> Flow:
    """Return the flow with another kernel of Adam."""
    return with_optim(flow, lambda a: AdamKernel(a.lr, a.betas, a.eps, a.schedule, kernel=kernel))


def with_sgd(flow: Flow) -> Flow:
    """Return the flow with gradient descent."""
    return with_optim(flow, lambda a: SGD(a.lr, schedule=a.schedule))


def watched(flow: Flow, clock: Clock | None = None) -> Flow:
    """Return the flow with a critic that is watched."""
    c = flow.solver.estimator
    return replace(flow, solver=replace(flow.solver, estimator=Watched(c.net, c.optim, c.iters, c.r1, clock=clock)))


def defective(flow: Flow) -> Loop:
    """Return a loop that generates the fake batch with gradient and back-propagates through it."""
    loop = Loop.of(flow)
    descent = loop.state.estimator.descent
    loop.state.estimator.descent = WholeBackward(descent.optimizer, descent.lr, descent.schedule)
    loop.state.successor = WithGradient(loop.state.successor.net)
    return loop


def toys(device: torch.device) -> dict[str, Flow]:
    """Return small flows that together use every target, coupling and entropy of the hot loop."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], device=device)
    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).to(device)
    z = StandardNormal(2, device=device)
    nets = (lambda: ToyGenerator(width=16), lambda: ToyCritic(width=16))
    return {
        f"toy, {name}": s_jko(target, z, *nets, noise=z, batch=16, divergence=entropy, variant=variant, ema=0.9)
        for name, target, entropy, variant in (
            ("mixture, kl", GaussianMixture(means, 0.1), "kl", "wgflow"),
            (
                "stratified mixture, softplus, public code",
                GaussianMixture(means, 0.1, stratified=True),
                "softplus",
                "code",
            ),
            ("points, js_nonsat, paper", Dataset(points), "js_nonsat", "paper"),
            ("noisy points, kl_dv", Smoothed(Dataset(points), instance_noise), "kl_dv", "wgflow"),
            ("mixture, chi2_tight", GaussianMixture(means, 0.1), "chi2_tight", "wgflow"),
        )
    }
