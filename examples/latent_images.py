"""Images in a space of principal components: a kernel score model beside S-JKO for the same CPU time. Does either copy its data?

    python examples/latent_images.py                      # about eight minutes on one core
    python examples/latent_images.py --points 500         # few images, where copying is easiest
    python examples/latent_images.py --data mnist         # digits; Fashion-MNIST's 10,000 test images come with the package
    python examples/latent_images.py --quick              # seconds, to see that it runs

All models see the same codes of the same training images, have the same time, and are compared with images that none of them has seen:
by the Sinkhorn divergence, less that of real images, and by the memorization report, both among the components in the units of pixels.
Two laws need no training: the normal law, which has the mean and the covariance of the codes, and training codes with a little noise,
which is what a score model without an error in its score returns. The kernel density estimate has one bandwidth, the most
likely one for held-out codes.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wgflow as wg
from wgflow import presets
from wgflow.generative import ImageData, LatentSpace, load_images, to_uint8, to_unit
from wgflow.generative.nets import ToyCritic, ToyGenerator
from wgflow.metrics import Memorization, SinkhornMetric

Model = Callable[[Tensor, float], wg.Measure]


class Clock(wg.Callback):
    """Stops a flow when its CPU time is over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_start(self, run: Any) -> None:
        """Start the clock."""
        self.end = time.process_time() + self.seconds

    def on_step(self, run: Any, row: dict[str, Any]) -> Any:
        """Look at it."""
        return run.STOP if time.process_time() >= self.end else None


class Moved(nn.Module):
    """A residual generator of codes, the identity at the start: the normal law is a good one to begin with."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = ToyGenerator(dim=dim, noise_dim=dim, width=256)
        nn.init.zeros_(self.net.head[-1].weight)
        nn.init.zeros_(self.net.head[-1].bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return moved codes."""
        return x + self.net(x, z)


def s_jko(z: Tensor, seconds: float) -> wg.Measure:
    """A generator and a critic, moved by implicit steps."""
    d = z.shape[1]
    flow = presets.s_jko(
        wg.Dataset(z), wg.StandardNormal(d), lambda: Moved(d), lambda: ToyCritic(dim=d, width=256),
        noise=wg.StandardNormal(d), divergence="softplus", step_size=0.1, num_steps=100_000, first_iters=100, iters=100,
        batch=128, lr=(2e-4, 2e-4), lr_floor=None, ema=0.99,
    )  # fmt: skip
    return flow.solve(callbacks=[Clock(seconds)], seed=0).measure.inference()


def kernel_score(z: Tensor, seconds: float) -> wg.Measure:
    """Gaussians at some of the codes, with local precisions that a network has learned from the others."""
    return presets.fit_kernel_score(z, callbacks=[Clock(seconds)]).law


def kernel_density(z: Tensor, seconds: float) -> wg.Measure:
    """Round Gaussians of one width at half of the codes."""
    return presets.isotropic_kde(presets.split_points(z))


def noisy_copies(z: Tensor, seconds: float) -> wg.Measure:
    """The training codes and some noise."""
    return wg.GaussianMixture(z, 0.05)


def normal(z: Tensor, seconds: float) -> wg.Measure:
    """The normal law."""
    return wg.StandardNormal(z.shape[1])


MODELS: dict[str, Model] = {
    "normal law": normal,
    "training codes + noise": noisy_copies,
    "kernel density": kernel_density,
    "kernel score model": kernel_score,
    "S-JKO": s_jko,
}


def compared(name: str, law: wg.Measure, space: LatentSpace, metrics: list[Any]) -> dict[str, float]:
    """Return the numbers of a law of codes, found among components in the units of pixels."""
    rng = torch.Generator().manual_seed(7)
    sinkhorn, memorization = metrics
    drawn = law.draw(sinkhorn.n, rng)
    there = wg.Particles(drawn.x * space.std)
    found = sinkhorn(there, rng)
    report = memorization.report(there)
    print(f"\n{name}: Sinkhorn excess {found['sinkhorn_excess']:.2f} (real data {sinkhorn.floor:.2f})\n{report}")
    found |= report.values
    if law.has_density:
        parts = (memorization.held_out / space.std).split(100)
        found["log_prob_held_out"] = float(torch.cat([law.log_prob(z) for z in parts]).mean())
        print(f"held-out log density of whitened codes: {found['log_prob_held_out']:.2f} nats")
    return found


def draw(images: dict[str, Tensor], path: Path) -> None:
    """Show the images (n, 1, height, width) of every model, bytes, in a row beside its name."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7.5, 0.6 * len(images)), layout="constrained")
    for ax, (name, x) in zip(drawing.subplots(len(images), 1, squeeze=False)[:, 0], images.items(), strict=True):
        ax.imshow(torch.cat(list(x[:, 0]), 1).numpy(), cmap="gray", vmin=0, vmax=255)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    drawing.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    """Fit, compare, and draw images a row a model."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="fashion-mnist-10k")
    options.add_argument("--data-root", type=Path)
    options.add_argument("--points", type=int, default=6000, help="training images")
    options.add_argument("--components", type=int, default=50)
    options.add_argument("--seconds", type=float, default=180.0, help="CPU time of each trained model")
    options.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    options.add_argument("--quick", action="store_true")
    options.add_argument("--out", type=Path, default=Path("latent_images"))
    args = options.parse_args()
    if args.quick:
        args.points, args.components, args.seconds = 300, 10, 1.0
    torch.set_num_threads(1)
    images = load_images(args.data, args.data_root, size=14 if args.quick else None).images
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    train, unseen = images[: args.points], images[args.points : args.points + 4000]
    space = LatentSpace.fit(ImageData(train), args.components)
    codes, held_out = space.encode(to_unit(train)), space.encode(to_unit(unseen)) * space.std
    half = len(held_out) // 2
    metrics = [
        SinkhornMetric(wg.Dataset(held_out[:half]), n=100 if args.quick else 1000, blur=1.0),
        Memorization(codes * space.std, held_out[half:], n=100 if args.quick else 1000),
    ]
    print(f"{len(train)} training images; {args.components} components hold {space.explained:.0%} of the variance")
    rows, drawn = {}, {}
    for name in args.models:
        torch.manual_seed(0)
        begin = time.process_time()
        law = MODELS[name](codes, args.seconds)
        seconds = time.process_time() - begin
        rows[name] = compared(name, law, space, metrics) | {"seconds": seconds}
        drawn[name] = to_uint8(space.decode(law.draw(10, torch.Generator().manual_seed(3)).x))
    print(f"\n{'':24}excess   ratio (chance)   memorized   closer   precision   recall   CPU s")
    for name, row in rows.items():
        print(
            f"{name:24}{row['sinkhorn_excess']:6.2f}   {row['nn_ratio']:.3f} ({row['nn_ratio_chance']:.3f})"
            f"{row['memorized']:12.3f}{row['closer']:9.3f}{row['precision']:12.2f}{row['recall']:9.2f}{row['seconds']:8.0f}"
        )
    draw(drawn, args.out.with_suffix(".png"))
    args.out.with_suffix(".json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
