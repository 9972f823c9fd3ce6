"""Training an image generator: a recipe or a flow, a folder, and the one driver of the library."""

import functools
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgflow import Callback, Checkpoint, Flow, JsonLog, Labelled, Particles, Progress, Solution, Streamed, solve
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, NonNegative, Whole, checked
from wgflow.core.ranks import by_first, collective, together
from wgflow.driver.callbacks import json_numbers
from wgflow.generative.batch import with_batch
from wgflow.generative.data import ImageData, ImageSet, load_images
from wgflow.generative.distances import energy, sinkhorn
from wgflow.generative.folder import CHECKPOINTS, claim_folder, still_there
from wgflow.generative.latent_space import Space
from wgflow.generative.monitor import Monitor
from wgflow.generative.recipe import Recipe
from wgflow.generative.recorded import as_begun, as_recorded, class_counts, lengthened
from wgflow.generative.runtime import Runtime, runtime
from wgflow.generative.spaces import home, keep
from wgflow.generative.speed import SPEED, TRACE, Speed, Trace
from wgflow.metrics import Metric
from wgflow.storage.files import write_text


@checked
def train(
    recipe: Recipe,
    run: str | Path,
    *,
    device: str | torch.device = "auto",
    metrics: Sequence[Metric] = (),
    callbacks: Sequence[Callback] = (),
    checkpoint_seconds: NonNegative = 60.0,
    progress: bool = True,
    extend: Whole = 0,
    profile: Whole = 0,
) -> Solution:
    """Train what a recipe says, in a folder of its own; the same call on the same folder goes on where it stopped.

    A finished run goes on when ``extend`` or the recipe's ``num_steps`` asks for more time steps than it has made. Everything else,
    the schedule of the learning rate too, stays what the run began with: a cosine stays at its floor.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    run : path
        Folder for checkpoints, logs, samples, curves and the exported generator. New, or of the same recipe.
    device : str or torch.device
        ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``; under ``torchrun`` every process takes its own GPU.
    metrics : sequence of Metric
        Besides the energy distance and the Sinkhorn divergence to the data.
    callbacks : sequence of Callback
        Further readers of the run, such as ``KeepBest`` or a logger of your own; at the end of a time step ``run.metrics`` has what
        was evaluated. Every process has them.
    checkpoint_seconds : float
        Wall time between checkpoints.
    progress : bool
        Show a progress bar.
    extend : int
        Time steps beyond those of the recipe, counted from its end: the same call again goes on and adds none.
    profile : int
        Updates of which ``trace.json`` in the folder shows what they did when, by torch.profiler; 0 for none.

    Returns
    -------
    Solution
        As of :func:`wgflow.solve`.

    Raises
    ------
    BadInput
        When the folder holds another run (nothing is changed), or an argument is wrong.
    CannotWrite
        When the file system refuses, or the folder was removed in mid-run.
    DataNotFound, Diverged, CheckpointError
        As :func:`wgflow.generative.data.load_images` and :func:`wgflow.solve`.

    Examples
    --------
    A flow of four small images toward sixteen:

    >>> import tempfile
    >>> import numpy as np
    >>> from wgflow.generative import Recipe, train
    >>> pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/tiny.npy", pixels)
    ...     recipe = Recipe(data=f"{folder}/tiny.npy", method="sliced_w_flow", particles=4, num_steps=2, sinkhorn_n=0)
    ...     flow = train(recipe, f"{folder}/run", device="cpu", progress=False)
    >>> flow.status, flow.measure.x.shape
    ('done', torch.Size([4, 1, 8, 8]))
    """
    with runtime(device, recipe.precision, recipe.compile) as here:
        recipe = recipe.changed(compile=False)
        folder = Path(run)
        pictures = _pictures(recipe, here)
        labels = _labels(recipe, pictures)
        images = ImageData(pictures.images, recipe.flip, labels)
        data = _within_reach(images, here.device)
        classes = None if labels is None else class_counts(pictures)
        space, law = home(recipe, folder, images, data, here.device)
        recipe = with_batch(recipe, folder, law, here)
        record = by_first(lambda: as_recorded(folder, recipe, tuple(data.event_shape), classes), here.device)
        begun = as_begun(recipe, record)
        flow = begun.flow(law if labels is None else Labelled(law), here)
        flow = replace(flow, num_steps=lengthened(recipe, flow.num_steps, extend))
        by_first(lambda: claim_folder(folder, record, {"recipe.yaml": begun.text()}), here.device)
        if here.first:
            keep(folder, space, law, images)
        return fit(
            flow,
            run,
            here,
            record=record,
            metrics=[
                *sinkhorn(data, recipe.sinkhorn_points, recipe.sinkhorn_blur),
                *metrics,
                # Behind those of earlier runs: the place of a metric decides its seed.
                *energy(data, recipe.sinkhorn_points),
            ],
            every=recipe.evaluate_every,
            seed=recipe.seed,
            callbacks=callbacks,
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
            space=space,
            name=recipe.made_of,
            profile=profile,
        )


def _within_reach(images: ImageData, device: torch.device) -> ImageData | Streamed:
    """Return images on a device, or on the host, streamed, where they would take more than half of its free memory."""
    if device.type == "cuda" and images.images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return Streamed(images, device)
    return images.to(device)


def _labels(recipe: Recipe, pictures: ImageSet) -> Tensor | None:
    """Return the labels that a recipe trains by; raises ``BadInput`` where it wants some and the images have none."""
    if recipe.labels and pictures.labels is None:
        raise BadInput(
            f"labels=True, and the images of {pictures.name} have no labels: take a set with labels, or an .npz file with "
            "integers 'labels' or 'y'; or leave labels out"
        )
    return pictures.labels if recipe.labels else None


def _pictures(recipe: Recipe, here: Runtime) -> ImageSet:
    """Load the data on every rank. What is missing is fetched before, by one rank a machine, while the others wait."""
    load = functools.partial(load_images, recipe.data, recipe.data_root, size=recipe.image_size)
    if recipe.download and here.world > 1:
        together(lambda: load(download=True) if here.leads else None)
    return together(lambda: load(download=recipe.download))


@checked
@collective
def fit(
    flow: Flow,
    run: str | Path,
    here: Runtime,
    *,
    record: dict[str, Any],
    metrics: Sequence[Metric] = (),
    every: Count = 500,
    seed: Whole = 0,
    callbacks: Sequence[Callback] = (),
    checkpoint_seconds: NonNegative = 60.0,
    progress: bool = True,
    space: Space | None = None,
    name: str | None = None,
    profile: Whole = 0,
) -> Solution:
    """Solve a flow of images with progress, logs, sample grids, curves, exports and checkpoints in one folder.

    Parameters
    ----------
    flow : Flow
        Any functional and solver on a ``Pushforward`` or a ``Chain`` to images, or on ``Particles`` that are images.
    run : path
        Folder of this run.
    here : Runtime
        Device and ranks; only the first rank writes.
    record : dict
        Plain values that identify the run, saved as ``recipe.json``; a folder with others is refused.
    metrics, every, seed, callbacks, checkpoint_seconds, progress
        What to evaluate and at which pace of updates; the seed; further callbacks; see :func:`train`.
    space : Space, optional
        Where the flow lives, if not among images: grids and metrics are of what it decodes.
    name : str, optional
        Of the run: see :class:`wgflow.Checkpoint`.
    profile : int
        As for :func:`train`.

    Returns
    -------
    Solution
        As of :func:`wgflow.solve`.

    Raises
    ------
    BadInput
        For a folder with another record, and as of :func:`wgflow.solve`.
    Incompatible, Diverged
        As of :func:`wgflow.solve`.
    CheckpointError
        When another process holds the folder, and as of :func:`wgflow.solve`.
    CannotWrite
        When the file system refuses, or the folder was removed in mid-run.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> import wgflow as wg
    >>> from wgflow.generative import fit, runtime
    >>> target, start = wg.Particles(torch.ones(4, 1, 8, 8)), wg.Particles(torch.zeros(4, 1, 8, 8))
    >>> flow = wg.presets.sinkhorn_flow(target, start, blur=0.1, step_size=0.5, num_steps=1)
    >>> with tempfile.TemporaryDirectory() as folder, runtime("cpu") as here:
    ...     solution = fit(flow, f"{folder}/run", here, record={"what": "black to white"}, progress=False)
    >>> solution.measure.x.mean()
    tensor(0.5000)
    """
    folder = Path(run)
    by_first(lambda: claim_folder(folder, record), here.device)
    monitor = Monitor(folder, metrics, every, space=space, record=record)
    speed = Speed(_images(flow, here), lambda: monitor.seconds, here.device, not here.compile)
    watchers: list[Callback] = [speed]
    if here.first:
        shown = ("critic/objective", "jko/transport", "flow/dissipation", "speed/images_per_second")
        watchers += [Progress(shown, disable=not progress), JsonLog(folder / "log.jsonl")]
    watchers += [monitor, *callbacks]  # which see what it has evaluated
    if profile and here.first:
        watchers.append(Trace(folder / TRACE, profile))
    watchers.append(speed.last)
    begun = time.perf_counter()
    checkpoint = Checkpoint(folder / CHECKPOINTS, every_seconds=checkpoint_seconds, name=name)
    solution = solve(
        flow.functional,
        flow.solver,
        flow.initial,
        step_size=flow.step_size,
        num_steps=flow.num_steps,
        seed=seed,
        callbacks=watchers,
        checkpoint=checkpoint,
    )
    if here.first:
        still_there(folder)
        claim_folder(folder, record)  # one that was removed and made anew while it started has lost its record
        _report(folder, solution, metrics, here, time.perf_counter() - begun, speed)
    return solution


def _images(flow: Flow, here: Runtime) -> int:
    """Return how many images an update makes, over all processes."""
    if isinstance(flow.initial, Particles):
        return len(flow.initial)
    return (getattr(flow.solver, "batch", None) or 1) * here.world


def _report(
    folder: Path, solution: Solution, metrics: Sequence[Metric], here: Runtime, seconds: float, speed: Speed
) -> None:
    from wgflow import __version__

    last = solution.history[-1] if solution.history else {}
    report = {
        "status": solution.status,
        "seconds_this_session": round(seconds, 1),
        "last_step": json_numbers(last),
        "protocols": [getattr(m, "protocol", type(m).__name__) for m in metrics],
        "device": torch.cuda.get_device_name(here.device)
        if here.device.type == "cuda"
        else platform.processor() or "cpu",
        "processes": here.world,
        "speed": {name.removeprefix(SPEED): value for name, value in speed.latest.items()}
        | {"flop_per_update": speed.flop_per_update},
        "versions": {"wgflow": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    if here.device.type == "cuda":
        report["peak_memory_mb"] = round(torch.cuda.max_memory_allocated(here.device) / 2**20)
    write_text(folder / "report.json", json.dumps(report, indent=2) + "\n")
