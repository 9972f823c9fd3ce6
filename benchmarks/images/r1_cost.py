"""What R1 costs: a step of the large critic with it, by the FIR filter of the library and by PyTorch's derivatives of one."""

import argparse
import copy
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks._record import Clock, parser, write
from wgflow.generative.nets import LargeCritic
from wgflow.generative.nets._common import FIRResample

WAYS = ("library", "pytorch", "library without R1", "pytorch without R1")


class PlainResample(nn.Module):
    """The filter as a depthwise convolution, differentiated by PyTorch."""

    def __init__(self, kernel: Tensor) -> None:
        super().__init__()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        c = h.shape[1]
        return nnf.conv2d(h, self.kernel.expand(c, 1, 4, 4), stride=2, padding=1, groups=c)


def plain(net: nn.Module) -> nn.Module:
    """Return a copy of a critic, of the same weights, with PyTorch's derivatives of the filter."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, FIRResample):
                setattr(module, name, PlainResample(child.kernel))
    return net


def gradients(net: nn.Module, real: Tensor, fake: Tensor, r1: bool = True) -> tuple[Tensor, ...]:
    """Return the gradients of the critic's loss of S-JKO with KL, and R1 of weight 0.1, in all weights."""
    real = real.detach().requires_grad_(r1)
    v = net(real)
    loss = torch.expm1(-v).mean() + net(fake).mean()
    if r1:
        (slope,) = torch.autograd.grad(v.sum(), real, create_graph=True)
        loss = loss + 0.1 * slope.flatten(1).square().sum(1).mean()
    return torch.autograd.grad(loss, list(net.parameters()))


class Convolutions(TorchDispatchMode):
    """Counts convolutions, their derivatives among them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += func.overloadpacket.__name__.startswith("convolution")
        return func(*args, **(kwargs or {}))


def counted(net: nn.Module, real: Tensor, fake: Tensor) -> int:
    """Return how many convolutions one critic step with R1 makes."""
    with Convolutions() as found:
        gradients(net, real, fake)
    return found.seen


def compared(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time the step in all ways, in random order in every round."""
    torch.manual_seed(0)
    net = LargeCritic(image_shape=(3, 32, 32), channels=args.channels).to(device)
    nets = dict(zip(WAYS, [net, plain(net)] * 2, strict=True))
    real, fake = torch.randn(2, args.batch, 3, 32, 32, device=device)
    clock, order = Clock(device), random.Random(0)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    ours, theirs = (gradients(nets[way], real, fake) for way in WAYS[:2])
    for _ in range(1 if args.quick else args.rounds):
        for way in order.sample(WAYS, len(WAYS)):
            begun = clock()[0]
            gradients(nets[way], real, fake, r1=way in WAYS[:2])
            seconds[way].append(clock()[0] - begun)
    usual = {way: statistics.median(taken) for way, taken in seconds.items()}
    apart = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(ours, theirs, strict=True))
    return {
        "seconds": usual,
        "pytorch_over_library": usual["pytorch"] / usual["library"],
        "pytorch_over_library_without_r1": usual["pytorch without R1"] / usual["library without R1"],
        "gradients_differ_by": apart,
        "convolutions": {way: counted(nets[way], real, fake) for way in WAYS[:2]},
    }


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--channels", type=int, default=32, help="base width")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args(argv)
    if args.quick:
        args.channels, args.batch = 4, 2
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    kept = {k: getattr(args, k) for k in ("channels", "batch", "rounds", "quick")} | {"clock": Clock(device).name}
    results = {"large": compared(args, device)}
    print(results)
    return write("r1_cost", args.results, kept, results, device)


if __name__ == "__main__":
    print(main())
