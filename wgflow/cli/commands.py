"""The command line: ``wgflow train``, ``sample``, ``evaluate``, ``bench``, ``list`` and ``show``."""

import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from wgflow.cli.arguments import command
from wgflow.cli.bench import bench
from wgflow.cli.names import list_names, show
from wgflow.cli.signals import Terminated, saying_what_is_saved, terminable
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.fields import Count, NonNegative, Whole
from wgflow.core.words import shortened
from wgflow.storage.files import reason


def train(
    recipe: str | None = None,
    *,
    folder: str | None = None,
    extend: Whole = 0,
    device: str = "auto",
    checkpoint_seconds: NonNegative = 60.0,
    profile: Whole = 0,
    callback: str | None = None,
    allow_code: bool = False,
    overrides: dict[str, Any],
) -> None:
    """Train a recipe, or go on with the run in its folder.

    Parameters
    ----------
    recipe
        A recipe by name (wgflow list) or a YAML file. With --data it may be left out: fashion-mnist with these data.
    folder
        Folder of the run. Default: runs/RECIPE, or runs/RECIPE-METHOD for another method.
    extend
        Time steps beyond those of the recipe: a finished run goes on.
    device
        auto, cpu, cuda or cuda:N.
    checkpoint_seconds
        Wall time between checkpoints.
    profile
        Updates to show in trace.json of the folder, for chrome://tracing or Perfetto.
    callback
        Readers of the training, as package.module:NAME of a Callback, or of a class or function without arguments that makes one;
        several are separated by commas. A module is run.
    allow_code
        Import what a recipe file names as package.module:NAME; what --network, --encoder and --autoencoder name is allowed.
    """
    from wgflow.cli.own import callbacks
    from wgflow.cli.starting import Opening
    from wgflow.cli.training import FIRST, as_changes
    from wgflow.generative import RECIPES, Recipe
    from wgflow.generative import train as train_recipe
    from wgflow.generative.folder import CHECKPOINTS, WEIGHTS
    from wgflow.generative.runtime import processes

    if recipe is None and "data" not in overrides:
        raise BadInput(
            f"which recipe? wgflow train NAME, one of {', '.join(RECIPES)}; or a YAML file, or --data FOLDER of images of your own"
        )
    source = recipe or FIRST
    chosen = Recipe.load(source, allow_code=True)
    named = {name: None for name in ("network", "encoder", "autoencoder") if name in overrides}
    chosen.changed(**named).trusted(source, allow_code)  # what the command line names is allowed
    own, chosen = chosen.method, chosen.changed(**as_changes(overrides))
    stem = Path(recipe or chosen.data).stem
    name = stem if chosen.method == own else f"{stem}-{chosen.method}"
    place = Path(folder or Path("runs") / name)
    first = processes()[0] == 0  # torchrun starts this once a GPU
    readers = [*callbacks(callback), *([Opening(chosen.plain() | {"folder": place})] if first else [])]
    options: dict[str, Any] = {
        "device": device,
        "checkpoint_seconds": checkpoint_seconds,
        "extend": extend,
        "profile": profile,
        "callbacks": readers,
    }
    with saying_what_is_saved(place / CHECKPOINTS):
        solution = train_recipe(chosen, place, **options)
    if not first:
        return
    last = solution.history[-1] if solution.history else {"k": 0}
    shown = {k: round(v, 4) for k, v in last.items() if k.startswith(("energy", "sinkhorn", "fid", "frechet", "kid"))}
    print(f"{solution.status}: {last['k']} steps, {shown}")
    left = [place / name for name in ("samples", "curves.png", "metrics.csv") if (place / name).exists()]
    print(f"look at {', '.join(map(str, left))}")
    if (place / WEIGHTS).exists():
        print(f"what was learned is in {place / WEIGHTS}: wgflow sample {place} draws from it")


def sample(
    run: str,
    *,
    n: Count = 64,
    seed: int = 1,
    out: str | None = None,
    device: str = "auto",
    columns: Count | None = None,
    class_: str | None = None,
    allow_code: bool = False,
) -> None:
    """Draw new images from a trained run into a PNG grid, or into an .npy file of uint8 (n, c, h, w).

    Parameters
    ----------
    run
        Folder of a run, or its generator.safetensors.
    n
        Number of images.
    seed
        Of the whole set; image i depends on it and on i only.
    out
        A .png grid or an .npy array. Default: a grid inside the run's folder.
    device
        auto, cpu, cuda or cuda:N.
    columns
        Of the grid.
    class_
        Of a run with labels: images of this class only, by its name or number. Without it the grid has a row a class.
    allow_code
        Import the network that the run names as package.module:NAME.
    """
    from wgflow.generative import load_generator
    from wgflow.generative.recorded import class_number
    from wgflow.generative.sample import save_images

    label = None if class_ is None else class_number(Path(run), class_)
    place = Path(run).parent if Path(run).is_file() else Path(run)
    path = Path(out or place / f"samples-seed{seed}{'' if label is None else f'-class{label}'}.png")
    law = load_generator(run, device, allow_code=allow_code)
    count = save_images(law, n, path, seed=seed, columns=columns, label=label)
    print(f"{path}: {count} images, seed {seed}")


def evaluate(
    run: str,
    *,
    n: Count = 5000,
    features: str = "inception",
    weights: str | None = None,
    kid: bool = False,
    memorization: bool = False,
    held_out: str | None = None,
    device: str = "auto",
    allow_download: bool = False,
    allow_code: bool = False,
) -> None:
    """Measure a trained run: Sinkhorn divergence to its data and Fréchet distance (FID with Inception features).

    Parameters
    ----------
    run
        Folder of a run.
    n
        Generated images.
    features
        inception, random-conv or cifar-resnet; or package.module:NAME of a function of your own.
    weights
        Weights file of the feature network.
    kid
        The kernel distance too.
    memorization
        Whether it copies its training images, in pixels and in features; the closest pairs as a picture in the run's folder.
    held_out
        Images that it was not trained on, for memorization: a name, a folder or an array. Default: the test split of its set.
    device
        auto, cpu, cuda or cuda:N.
    allow_download
        Fetch missing Inception weights.
    allow_code
        Import the network that the run names as package.module:NAME.
    """
    from wgflow.generative.evaluate import EVALUATION
    from wgflow.generative.evaluate import evaluate as evaluate_run

    numbers = evaluate_run(
        run,
        n=n,
        features=features,
        weights=weights,
        kid=kid,
        memorization=memorization,
        held_out=held_out,
        device=device,
        allow_download=allow_download,
        allow_code=allow_code,
    )
    if memorization:
        table = Path(run) / "memorization.txt"
        print(table.read_text(), file=sys.stderr)  # the standard output is for programs
    print(json.dumps(numbers, indent=2))
    _say(f"written to {Path(run) / EVALUATION}")


def _group() -> click.Group:
    from wgflow import __version__
    from wgflow.cli.run import run as run_preset
    from wgflow.cli.run import sections as options_of_preset
    from wgflow.cli.training import sections

    group = click.Group(
        help="Wasserstein gradient flows: image generators and benchmarks.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group.add_command(command(train, sections))
    group.add_command(command(run_preset, options_of_preset), "run")
    for run in (sample, evaluate, bench, show):
        group.add_command(command(run))
    group.add_command(command(list_names), "list")
    return click.version_option(__version__, prog_name="wgflow", message="%(prog)s %(version)s")(group)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; an error made by a wrong input is one line and exit status 2."""
    with warnings.catch_warnings(), terminable():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        try:
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be text
            words = list(sys.argv[1:] if argv is None else argv)
            group = _group()
            with suppress(click.exceptions.Exit), group.make_context("wgflow", words) as context:  # left after help
                group.invoke(context)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:  # who reads has seen enough
            _forget_output()
            return 141
        except WgflowError as error:
            return _fail(str(error))
        except click.exceptions.NoArgsIsHelpError:
            return _fail("a command is missing: see wgflow --help")
        except click.ClickException as error:
            return _fail(error.format_message())
        except OSError as error:
            return _fail(f"{shortened(str(error.filename or 'output'))}: {reason(error)}")
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "memory" not in str(error):
                raise
            return _fail(f"not enough memory, a smaller --batch, --n or image_size needs less ({str(error)[:80]})")
        except (KeyboardInterrupt, Terminated) as signalled:
            _say("\n".join(["wgflow: stopped", *getattr(signalled, "__notes__", [])]))
            return 143 if isinstance(signalled, Terminated) else 130
    return 0


def _fail(text: str) -> int:
    _say(f"wgflow: {text}")
    return 2


def _say(text: str) -> None:
    """Write one line to the standard error, if there is one."""
    with suppress(OSError, AttributeError, ValueError):
        sys.stderr.write("; ".join(filter(None, map(str.strip, text.splitlines()))) + "\n")


def _forget_output() -> None:
    """Keep Python from flushing into the closed pipe when it exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
