"""A control for generators of one pass: conditional flow matching on CIFAR-10 in a given time, by the U-Net of the pair ``large``.

The network predicts the image, :math:`D(x_t,t)\\approx E[x_1|x_t]` for :math:`x_t=(1-t)x_0+tx_1`, :math:`x_0` from N(0, I): the velocity
of the flow is :math:`(D-x)/(1-t)`, and :math:`D` keeps to the range of images. The time enters where the pair has its auxiliary noise.
An image costs as many passes as there are Euler steps.

References: Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023.
"""

import argparse
import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._record import parser, write
from wgflow import Pushforward, StandardNormal
from wgflow.generative import FID, ImageData, Runtime, load_images, runtime
from wgflow.generative.evaluate import features_by_name
from wgflow.generative.nets import LargeGenerator
from wgflow.optim import Adam, update_average

FREQUENCIES = 32


class Denoiser(nn.Module):
    """The U-Net with a time for every image."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.net = LargeGenerator(noise_dim=2 * FREQUENCIES, **sizes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map images (n, c, h, w) at times (n,) in [0, 1] to images."""
        angles = t[:, None] * math.pi * 2 ** torch.linspace(-1, 6, FREQUENCIES, device=t.device)
        return self.net(x, torch.cat([angles.sin(), angles.cos()], 1))


class Transported(nn.Module):
    """The map of the flow from noise at t = 0 to images at t = 1, by Euler steps; the last one ends at the prediction."""

    def __init__(self, denoiser: nn.Module, steps: int) -> None:
        super().__init__()
        self.denoiser, self.steps = denoiser, steps

    def forward(self, x: Tensor) -> Tensor:
        """Map noise to images."""
        for i in range(self.steps):
            predicted = self.denoiser(x, x.new_full((len(x),), i / self.steps))
            x = torch.lerp(x, predicted, 1 / (self.steps - i))
        return x


def trained(
    net: Denoiser, here: Runtime, data: ImageData, args: argparse.Namespace, rng: torch.Generator
) -> tuple[nn.Module, int]:
    """Train for a time; return the running average of the network and the number of updates."""
    average = copy.deepcopy(net).requires_grad_(False).eval()
    run = here.network(net)
    descent, updates, begun = Adam(args.lr, (0.9, 0.999)).build(net.parameters()), 0, time.perf_counter()
    while time.perf_counter() - begun < args.seconds and (args.updates is None or updates < args.updates):
        x1 = data.draw(args.batch, rng).x
        x0 = torch.randn(x1.shape, generator=rng, device=rng.device)
        t = torch.rand(len(x1), generator=rng, device=rng.device)
        x = torch.lerp(x0, x1, t[:, None, None, None])

        def loss(x: Tensor = x, t: Tensor = t, x1: Tensor = x1) -> Tensor:
            return (run(x, t) - x1).square().mean()

        descent.minimise(loss)
        update_average(average, net, min(0.999, (1 + updates) / (10 + updates)))
        updates += 1
        if rng.device.type == "cuda" and updates % 20 == 0:
            torch.cuda.synchronize()  # or the host runs ahead of the clock
    return average, updates


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser(__doc__.partition("\n")[0])
    options.add_argument("--data", type=Path, required=True, help=".npy/.npz of images")
    options.add_argument("--features", type=Path, default=None, help="weights of a CIFAR ResNet (.npz)")
    options.add_argument("--seconds", type=float, default=60.0, help="of training")
    options.add_argument("--updates", type=int, default=None, help="at most so many")
    options.add_argument("--steps", type=int, default=20, help="Euler steps of an image")
    options.add_argument("--channels", type=int, default=64, help="base width of the U-Net, a multiple of 32")
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--lr", type=float, default=3e-4)
    options.add_argument("--evaluate-n", type=int, default=10_000, help="images that are scored")
    options.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args(argv)
    if args.quick:
        args.channels, args.batch, args.evaluate_n, args.updates, args.steps = 32, 4, 16, 2, 2
    torch.set_num_threads(args.threads)
    with runtime(args.device, args.precision) as here:
        pictures = load_images(args.data)
        data = ImageData(pictures.images.to(here.device), flip=True)
        extractor = features_by_name(
            "cifar-resnet" if args.features else "random-conv", args.features and str(args.features)
        )
        fid = FID(extractor.to(here.device), pictures.images, n=args.evaluate_n)
        sizes = {"image_shape": tuple(data.event_shape), "channels": args.channels}
        torch.manual_seed(args.seed)
        net = Denoiser(**sizes).to(here.device)
        rng = torch.Generator(here.device).manual_seed(args.seed)
        average, updates = trained(net, here, data, args, rng)
        law = Pushforward(StandardNormal(*data.event_shape, device=here.device), Transported(average, args.steps))
        results = {
            "frechet": fid(law, torch.Generator(here.device).manual_seed(1))["frechet"],
            "protocol": fid.protocol,
            "updates": updates,
            "passes_per_image": args.steps,
            "parameters": sum(p.numel() for p in average.parameters()),
        }
    kept = {k: getattr(args, k) for k in ("seconds", "channels", "batch", "lr", "precision", "seed", "quick")}
    print(f"flow matching: {updates} updates, Fréchet {results['frechet']:.2f}, {args.steps} passes an image")
    return write("flow_matching", args.results, kept, results, here.device)


if __name__ == "__main__":
    print(main())
