"""A one-step generator of images, one class at a time, by a Sinkhorn drift in feature space (W-Flow, Han et al. 2026).

    python examples/w_flow.py                     # a few minutes on two cores: w_flow.png has a class a row
    python examples/w_flow.py --method drifting   # or energy_drift, mmd_drift
    python examples/w_flow.py --pixels            # the same without features
    python examples/w_flow.py --quick             # seconds, to see that it runs

The images are the 10,000 that come with the package. An encoder is trained for a minute to fill in masked patches, and then
frozen: the drift is found in its feature maps, at every place of them, in channel means and in the pixels, and carried back to the
generator through it.
"""

import argparse
import itertools
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

import wgflow as wg
from wgflow.generative.data import ImageData, load_images
from wgflow.generative.nets import ConvGenerator, LabelledGenerator
from wgflow.generative.sample import save_grid

METHODS = ("w_flow", "energy_drift", "mmd_drift", "drifting")


class Encoder(nn.Module):
    """Three convolutions, each of which halves the size; a decoder that is used in training alone."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = (1, width, 2 * width, 4 * width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(4, b), nn.SiLU()) for a, b in itertools.pairwise(sizes)
        )
        self.decoder = nn.Sequential(nn.Conv2d(sizes[-1], 16 * 49, 4), nn.Flatten(), nn.Linear(16 * 49, 784))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps (n, c, h, w) after every block."""
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of images: maps with their places, means and spreads over places, and pixels."""
        _, middle, last = self.maps(x)
        places = [m.flatten(2).mT for m in (middle, last)]
        moments = [torch.cat([p.mean(1), p.std(1)], 1) for p in places]
        return [*places, *moments, x.flatten(1)]

    def filled_in(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Mean squared error at the patches of 4 x 4 pixels that were left out, half of all."""
        out = (torch.rand(len(x), 1, 7, 7, generator=rng) < 0.5).float()
        out = nnf.interpolate(out, scale_factor=4)
        guess = self.decoder(self.maps(torch.where(out > 0, -1.0, x))[-1]).view_as(x)
        return ((guess - x).square() * out).sum() / out.sum()


def encoder(data: wg.Measure, steps: int) -> Encoder:
    """Train an encoder and freeze it."""
    torch.manual_seed(0)
    net, rng = Encoder(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        net.filled_in(data.draw(128, rng).x, rng).backward()
        optimizer.step()
    return net.requires_grad_(False).eval()


def main() -> None:
    """Train the encoder, then the generator, and draw a class a row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--method", choices=METHODS, default="w_flow")
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--batch", type=int, default=160, help="images of each of the three batches, of all classes")
    options.add_argument("--pixels", action="store_true", help="no encoder")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--out", type=Path, default=Path("w_flow.png"))
    args = options.parse_args()
    if args.quick:
        args.steps, args.batch = 3, 20
    images = load_images("fashion-mnist-10k")
    data = ImageData(images.images, labels=images.labels)
    labelled = wg.Labelled(data)
    classes = labelled.num_classes
    features = None if args.pixels else encoder(data, 3 if args.quick else 600)

    latent = wg.Balanced(labelled.latent(wg.StandardNormal(64)))
    flow = getattr(wg.presets, args.method)(
        wg.Balanced(labelled),
        latent,
        lambda: LabelledGenerator(ConvGenerator, classes, image_shape=(1, 28, 28), channels=32),
        encoder=features,
        batch=args.batch,
        lr=1e-3,
        ema=0.99,
        num_steps=args.steps,
    )
    begin = time.process_time()
    solution = flow.solve(callbacks=[wg.Progress()])
    print(f"{args.steps} steps, {time.process_time() - begin:.0f} s of CPU time, {solution.status}")

    drawn = solution.measure.inference().draw(10 * classes, torch.Generator().manual_seed(1)).x
    x = drawn[:, :784].view(10, classes, 1, 28, 28).transpose(0, 1).flatten(0, 1)
    save_grid(x, args.out, columns=10)
    print(f"{args.out}: ten images of each class, a class a row")


if __name__ == "__main__":
    main()
