"""The command line: ``wgflow train``, ``sample``, ``evaluate``, ``bench`` and ``list``."""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wgflow._imports import require
from wgflow.errors import BadInput, WgflowError


def train(recipe: str, folder: str | None, device: str, checkpoint_seconds: float, overrides: dict[str, Any]) -> None:
    """Train a recipe, or go on with the run in its folder."""
    from wgflow.generative import Recipe
    from wgflow.generative import train as train_recipe

    chosen = dataclasses.replace(Recipe.load(recipe), **overrides)
    place = Path(folder or Path("runs") / Path(recipe).stem)
    first = os.environ.get("RANK", "0") == "0"  # torchrun starts this once a GPU
    if first:
        print("\n".join(f"{name}: {value}" for name, value in dataclasses.asdict(chosen).items()), f"\nfolder: {place}")
    solution = train_recipe(chosen, place, device=device, checkpoint_seconds=checkpoint_seconds)
    if not first:
        return
    last = {
        k: round(v, 4) for k, v in solution.history[-1].items() if k.startswith(("sinkhorn", "fid", "frechet", "kid"))
    }
    print(f"{solution.status}: {solution.history[-1]['k']} steps, {last}")
    print(f"look at {place}/samples, {place}/curves.png and {place}/metrics.csv")


def sample(run: str, n: int, seed: int, out: str | None, device: str, columns: int | None) -> None:
    """Draw new images from a trained run into a PNG grid, or into an .npy file of uint8 (n, c, h, w)."""
    import numpy as np

    from wgflow.generative import load_generator, save_grid
    from wgflow.generative import sample as sample_images
    from wgflow.generative.data import to_uint8

    path = Path(out or Path(run) / f"samples-seed{seed}.png")
    if path.suffix not in (".png", ".npy"):
        raise BadInput(f"out={str(path)!r}: expected a name that ends in .png or .npy")
    images = sample_images(load_generator(run, device), n, seed=seed)
    if path.suffix == ".npy":
        np.save(path, to_uint8(images).numpy())
    else:
        save_grid(images, path, columns)
    print(path)


def evaluate(
    run: str, n: int, features: str, weights: str | None, kid: bool, device: str, allow_download: bool
) -> None:
    """Measure a trained run: Sinkhorn divergence to its data and Fréchet distance (FID with Inception features)."""
    from wgflow.generative.evaluate import evaluate as evaluate_run

    numbers = evaluate_run(
        run, n=n, features=features, weights=weights, kid=kid, device=device, allow_download=allow_download
    )
    print(json.dumps(numbers, indent=2))


def bench(name: str, results: str | None, run: bool, quick: bool) -> None:
    """Show the record of a benchmark; with --run, measure it now."""
    from wgflow import _bench

    _bench.tabulate(name)  # an unknown name fails before anything runs
    folder = Path(results) if results else _bench.RESULTS
    if run or quick:
        if quick and not results:
            folder = Path(tempfile.mkdtemp())
        _bench.run(name, folder, quick)
    print(_bench.show(name, folder))


def list_names() -> None:
    """List what is known by name."""
    from wgflow import ESTIMATORS, FUNCTIONALS, SOLVERS, presets
    from wgflow.generative import NETWORKS, RECIPES
    from wgflow.generative.data import IMAGE_SETS
    from wgflow.generative.evaluate import FEATURES

    kinds: dict[str, Iterable[str]] = {
        "recipes": RECIPES,
        "data sets": (*IMAGE_SETS, "a folder of images", "an .npy or .npz file"),
        "networks": NETWORKS,
        "functionals": FUNCTIONALS,
        "estimators": ESTIMATORS,
        "solvers": SOLVERS,
        "presets": presets.PRESETS,
        "features": FEATURES,
    }
    for kind, names in kinds.items():
        print(f"{kind + ':':13}" + ", ".join(names))


def _parser(argv: Sequence[str]) -> Any:
    """Build the parser; the options of ``train`` take their defaults from the recipe that is named."""
    from wgflow import _bench
    from wgflow.generative import Recipe

    jsonargparse = require("jsonargparse", extra="cli")
    parser = jsonargparse.ArgumentParser(prog="wgflow", description="Wasserstein gradient flows: image generators.")
    commands = parser.add_subcommands(required=True, dest="command")

    p = jsonargparse.ArgumentParser(description=train.__doc__)
    p.add_argument("recipe", nargs="?", default="fashion-mnist", help="a recipe by name (wgflow list) or a YAML file")
    p.add_argument("--folder", type=str | None, help="folder of the run; default runs/<recipe>")
    p.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--checkpoint_seconds", type=float, default=60.0, help="wall time between checkpoints")
    p.add_class_arguments(Recipe, as_group=True)
    p.set_defaults(dataclasses.asdict(_named_recipe(argv)))
    commands.add_subcommand("train", p, help=train.__doc__)

    p = jsonargparse.ArgumentParser(description=sample.__doc__)
    p.add_argument("run", help="folder of a run")
    p.add_argument("--n", type=int, default=64, help="number of images")
    p.add_argument("--seed", type=int, default=1, help="of the whole set; image i depends on it and on i only")
    p.add_argument("--out", type=str | None, help="a .png grid or an .npy array; default inside the run's folder")
    p.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--columns", type=int | None, help="of the grid")
    commands.add_subcommand("sample", p, help=sample.__doc__)

    p = jsonargparse.ArgumentParser(description=evaluate.__doc__)
    p.add_argument("run", help="folder of a run")
    p.add_argument("--n", type=int, default=5000, help="generated images")
    p.add_argument("--features", type=str, default="inception", help="inception, random-conv or cifar-resnet")
    p.add_argument("--weights", type=str | None, help="weights file of the feature network")
    p.add_argument("--kid", type=bool, default=False, help="the kernel distance too")
    p.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--allow_download", type=bool, default=False, help="fetch missing Inception weights")
    commands.add_subcommand("evaluate", p, help=evaluate.__doc__)

    p = jsonargparse.ArgumentParser(description=bench.__doc__)
    p.add_argument("name", nargs="?", default="discretizations", help=f"one of: {', '.join(_bench.names())}")
    p.add_argument(
        "--results", type=str | None, help="folder of the record; default the one in this copy of the repository"
    )
    p.add_argument("--run", action="store_true", help="run benchmarks/NAME.py first: minutes, for some an hour")
    p.add_argument("--quick", action="store_true", help="run it in seconds, for tests: the numbers mean nothing")
    commands.add_subcommand("bench", p, help=bench.__doc__)

    commands.add_subcommand(
        "list", jsonargparse.ArgumentParser(description=list_names.__doc__), help=list_names.__doc__
    )
    return parser


def _named_recipe(argv: Sequence[str]) -> Any:
    from wgflow.generative import Recipe

    if not argv or argv[0] != "train":
        return Recipe()
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("recipe", nargs="?", default="fashion-mnist")
    return Recipe.load(first.parse_known_args([a for a in argv[1:2] if not a.startswith("-")])[0].recipe)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error made by a wrong input is one line and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        from wgflow.generative import Recipe

        parser = _parser(argv)
        chosen = parser.parse_args(argv)
        options = dict(vars(chosen[chosen.command]))
        if chosen.command == "train":
            known = {f.name for f in dataclasses.fields(Recipe)}
            overrides = {name: options.pop(name) for name in known}
            train(**options, overrides=overrides)
        elif chosen.command == "list":
            list_names()
        elif chosen.command == "sample":
            sample(**options)
        elif chosen.command == "bench":
            bench(**options)
        else:
            evaluate(**options)
    except WgflowError as error:
        print(f"wgflow: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("wgflow: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0
