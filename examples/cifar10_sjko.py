"""S-JKO on CIFAR-10: a Wasserstein gradient flow of an f-divergence that trains an image generator.

Each step of the scheme of Jordan, Kinderlehrer and Otto,

    rho_{k+1} = argmin_rho  W2^2(rho_k, rho) / (2 d h) + D_f(rho | data),

is solved in its semi-dual form by one generator and one critic that go on from step to step (Choi, Choi and Kang,
"Scalable Wasserstein Gradient Flow for Generative Modeling through Unbalanced Optimal Transport", ICML 2024).

    python examples/cifar10_sjko.py --quick                    # 4 minutes on one core, to see that everything works
    python examples/cifar10_sjko.py --download                 # one GPU, the small networks of the paper
    torchrun --nproc_per_node 4 examples/cifar10_sjko.py --network large
    python examples/cifar10_sjko.py --folder runs/cifar10-kl      # the same command again goes on where it stopped
"""

import argparse
from dataclasses import replace

import wgflow as wg
from wgflow.generative import NETWORKS, ImageData, energy, fit, load_images, runtime, sinkhorn
from wgflow.generative.evaluate import features_by_name
from wgflow.generative.metrics.fid import FID


def main() -> None:
    """Read the options, compose the flow, solve it."""
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--data", default="cifar10", help="a data set by name, a folder of images or an .npz file")
    p.add_argument("--root", help="folder of the data set (torchvision's layout); default: the cache of wgflow")
    p.add_argument("--download", action="store_true", help="fetch CIFAR-10 if it is not there")
    p.add_argument("--network", default="small", choices=("conv", "small", "large"), help="size of the two networks")
    p.add_argument("--channels", type=int, help="their base width")
    p.add_argument("--divergence", default="kl", help="kl, kl_dv, chi2, softplus, js_nonsat (S-JKO-JSD), ...")
    p.add_argument("--h", type=float, default=0.1, help="step size, with the cost averaged over coordinates")
    p.add_argument("--K", type=int, default=50, help="JKO steps")
    p.add_argument("--first-iters", type=int, default=10_000, help="updates in the first step")
    p.add_argument("--iters", type=int, default=2_000, help="updates in every further step")
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--lr", type=float, nargs=2, default=(2e-4, 1e-4), help="learning rates of generator and critic")
    p.add_argument("--ema", type=float, default=0.9999, help="decay per update of the generator's running average")
    p.add_argument(
        "--variant", default="wgflow", choices=("wgflow", "paper", "code"), help="where the sources disagree"
    )
    p.add_argument("--features", help="network of the Fréchet distance: inception or cifar-resnet (see --weights)")
    p.add_argument("--weights", help="weights file of that network")
    p.add_argument("--every", type=int, default=2_000, help="updates between evaluations")
    p.add_argument("--seed", type=int, default=1024)
    p.add_argument("--device", default="auto")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    p.add_argument("--folder", help="folder of the run; default runs/cifar10-<divergence>")
    p.add_argument("--quick", action="store_true", help="a few steps of the smallest networks")
    o = p.parse_args()
    if o.quick:
        o.network, o.batch, o.lr, o.ema = "conv", 64, (1e-3, 5e-4), 0.99
        o.K, o.first_iters, o.iters, o.every = 4, 400, 200, 200

    with runtime(o.device, o.precision) as here:
        # nu: the data, resident on the device.
        pictures = load_images(o.data, o.root, download=o.download)
        data = ImageData(pictures.images.to(here.device), flip=True)
        shape = tuple(data.event_shape)

        # T and v: one generator and one critic for all steps. Q, the reference: the law before the first step.
        G, V = NETWORKS[o.network]
        sizes = {"image_shape": shape} | ({"channels": o.channels} if o.channels else {})
        outline = G(**sizes)
        normal = lambda event: here.share(wg.StandardNormal(*event, device=here.device))  # noqa: E731

        flow = wg.presets.s_jko(
            data,
            normal(outline.source_shape),
            generator=lambda: here.network(G(**sizes)),
            critic=lambda: here.network(V(**sizes)),
            noise=outline.noise_shape and normal(outline.noise_shape),
            reference=outline.reference(),
            divergence=o.divergence,
            variant=o.variant,
            step_size=o.h,
            num_steps=o.K,
            first_iters=o.first_iters,
            iters=o.iters,
            batch=here.share_of(o.batch),
            lr=tuple(o.lr),
            ema=o.ema,
        )

        # Several GPUs: each keeps its part of every draw of the target, instance noise included.
        target = here.share(flow.functional.target)
        flow = replace(flow, functional=replace(flow.functional, target=target))

        n = 200 if o.quick else 2_000  # the energy distance orders images where the excess does not
        metrics = [*energy(data, n), *sinkhorn(data, n, blur=2.0)]
        if o.features:
            network = features_by_name(o.features, o.weights).to(here.device)
            metrics.append(FID(network, pictures, n=500 if o.quick else 10_000))

        solution = fit(
            flow,
            o.folder or f"runs/cifar10-{o.divergence}{'-quick' if o.quick else ''}",
            here,
            record={k: v for k, v in vars(o).items() if k not in ("folder", "device")} | {"image_shape": list(shape)},
            metrics=metrics,
            every=o.every,
            seed=o.seed,
        )
    if not here.first:
        return
    shown = ("energy_distance", "sinkhorn", "fid", "frechet")
    last = {k: v for k, v in solution.history[-1].items() if k.startswith(shown)}
    print(f"{solution.status} after {o.K} JKO steps: {last}")


if __name__ == "__main__":
    main()
