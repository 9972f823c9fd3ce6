"""``wgflow run``: a particle flow by the name of its preset, toward a target of the user's."""

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wgflow.cli.arguments import Section
from wgflow.cli.own import array, named, points, save_picture
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.fields import Count, NonNegative, Whole
from wgflow.core.instead import shown
from wgflow.core.registry import near_misses

if TYPE_CHECKING:
    from wgflow import Measure, Particles, Solution
    from wgflow.generative.methods import Method

STEPS = "num_steps"
_ROLES = {"target", "initial"}


def run(
    preset: str,
    *,
    target: str | None = None,
    dim: Count | None = None,
    start: str | None = None,
    particles: Count = 500,
    seed: Whole = 0,
    device: str = "cpu",
    double: bool = False,
    folder: str | None = None,
    extend: Whole = 0,
    checkpoint_seconds: NonNegative = 60.0,
    overrides: dict[str, Any],
) -> None:
    """Run a particle flow by the name of its preset, or go on with the run in its folder; write its solution and a picture.

    Parameters
    ----------
    preset
        Such as svgd, ula or mmd_flow (wgflow list).
    target
        Where it goes: package.module:NAME of a measure, of what makes one without arguments, of a tensor of points or of a log
        density, a function from points (n, d) to (n,); or a file of points, .npy or text. A module is run.
    dim
        Coordinates of a point, for a log density without a start that has them.
    start
        Where it starts, as package.module:NAME or a file of points. Default: draws of the standard normal.
    particles
        How many are drawn, where no start is given.
    seed
        Of everything random.
    device
        cpu, cuda or cuda:N.
    double
        Compute in float64.
    folder
        Folder of the run, with solution.npz and solution.png. Default: runs/PRESET.
    extend
        Time steps beyond num_steps: a finished run goes on.
    checkpoint_seconds
        Wall time between checkpoints.
    """
    from wgflow import Checkpoint, Progress
    from wgflow.cli.signals import saying_what_is_saved
    from wgflow.cli.starting import Opening, Result
    from wgflow.generative.folder import CHECKPOINTS, FLOW, check_folder
    from wgflow.storage.describe import describe, differences, digest

    m = preset_method(preset)
    options = {name: o.default for name, o in m.options.items()} | {
        name.removeprefix("method__"): value for name, value in overrides.items()
    }
    missing = [name for name, o in m.options.items() if o.needed and options[name] is None]
    if target is None or missing:
        what = "--target" if target is None else f"--{missing[0].replace('_', '-')}"
        raise BadInput(f"{preset} needs {what}: see wgflow run {preset} --help")
    begin = None if start is None else _start(start)
    law = _target(target, dim, begin)
    if dim is not None and law.event_shape != (dim,):
        raise BadInput(f"dim={dim}, and points have the shape {tuple(law.event_shape)}: leave it out, or give others")
    begin = begin or _drawn(law, particles, seed)
    m.check_extend(extend)
    words = {"target": target, "start": start, "dim": dim, "particles": particles, "seed": seed, "double": double}
    asked = {FLOW: preset, **options, **words, "device": device.partition(":")[0]}
    given = {"target": law} | ({} if start is None else {"start": begin})
    content = {f"content of {name}": digest(found) for name, found in given.items()}
    untold = differences(described := describe(given), described)
    for sentence in untold:
        warnings.warn(f"{sentence}: leave it as it is until this run is done", stacklevel=2)
    place = Path(folder or Path("runs") / preset)
    record = _as_begun(place, asked | content)
    made = {n: o.made(record[n]) for n, o in m.options.items() if not o.unsaid(record[n])}
    flow = m.preset(target=law, initial=begin, **made).to(device, torch.float64 if double else torch.float32)
    flow = replace(flow, num_steps=(asked.get(STEPS) or flow.num_steps) + extend)
    check_folder(place, record)
    told = {name: value for name, value in asked.items() if value is not None} | {"folder": place}
    result = Result(place, record, "solution.npz", write)
    with saying_what_is_saved(place / CHECKPOINTS):
        solution = flow.solve(
            seed=seed,
            callbacks=[Progress(), Opening(told), result],
            # What can be told of them is in the record: a name lets the run go on with the rest.
            checkpoint=Checkpoint(
                place / CHECKPOINTS, every_seconds=checkpoint_seconds, name=preset if untold else None
            ),
        )
    print(f"{solution.status}: {solution.state.k} steps to time {solution.state.t:g}")
    print(f"wrote {result.path}")
    _draw(solution, law, place / "solution.png")
    print(f"wrote {place / 'solution.png'}")


def presets() -> list[str]:
    """Return the names of the presets that move particles to a target and need nothing else that no text stands for."""
    from wgflow.generative.methods import methods

    return [m.name for m in methods() if set(m.roles) == _ROLES]


def preset_method(name: str) -> "Method":
    """Return a preset of particles with its options; raises ``BadInput`` with near misses."""
    from wgflow.generative.methods import method

    if name not in presets():
        raise BadInput(
            f"no particle flow is called {name!r}: {near_misses(name, presets())}. Images: wgflow train --method NAME"
        )
    return method(name)


def sections(words: Sequence[str]) -> Sequence[Section]:
    """Return the options of the preset that the words name."""
    from wgflow.cli.training import of_method

    found = next((word for word in words if word in presets()), None)
    if found is None:
        return []
    m = preset_method(found)
    return [
        Section(
            f"{m.name}: {m.about.rstrip('.')}",
            [of_method(o, _said_default(m, o.name), True) for o in m.options.values()],
        )
    ]


def _said_default(m: "Method", name: str) -> Any:
    """Return what the help says of the default of an option."""
    default = inspect.signature(m.preset).parameters[name].default
    return None if default is inspect.Parameter.empty else getattr(default, "registered_name", default)


def write(solution: "Solution", path: Path) -> None:
    """Write a solution as arrays: x, log_w, times, path, path_log_w, and the columns of the history, NaN where they were not recorded.

    Wall times are left out: a run that was killed leaves the same bytes as one that was not.
    """
    p = solution.measure
    held: dict[str, Any] = {"x": p.x, "log_w": p.log_weights, "times": np.array(solution.times)}  # type: ignore[attr-defined]
    if solution.saved:
        held |= {"path": torch.stack([s.x for s in solution.saved])}
        held |= {"path_log_w": torch.stack([s.log_weights for s in solution.saved])}
    keys = dict.fromkeys(
        key
        for row in solution.history
        for key, value in row.items()
        if key != "seconds" and isinstance(value, (int, float))
    )
    held |= {f"history/{key}": [row.get(key, np.nan) for row in solution.history] for key in keys}
    arrays: dict[str, Any] = {
        n: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.array(v) for n, v in held.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _as_begun(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the time steps that the run in the folder has begun with, where it asks for more: schedules depend on them."""
    from wgflow.generative.folder import read_record

    try:
        begun = read_record(folder).get(STEPS)
    except WgflowError:
        return record  # a new folder; a damaged record is refused when it is compared
    return record | ({STEPS: begun} if type(begun) is int and begun < (record.get(STEPS) or 0) else {})


def _given(text: str, what: str) -> Any:
    """Return what a text stands for: an object of a module, or the points of a file."""
    is_points = Path(text).is_file() and Path(text).suffix != ".py"
    if is_points:
        return torch.from_numpy(array(Path(text), what))
    found = named(text, what)
    return torch.from_numpy(points(found, f"{what}={text!r}")) if isinstance(found, np.ndarray) else found


def _target(text: str, dim: int | None, begin: "Particles | None") -> "Measure":
    from wgflow import Dataset, Measure, Unnormalised

    found = _given(text, "target")
    if _makes(found):
        found = found()
    if isinstance(found, Measure):
        return found
    if isinstance(found, Tensor):
        return Dataset(found)
    if not isinstance(found, Callable):  # type: ignore[arg-type]
        raise BadInput(f"target={text!r} is {shown(found)}: expected a measure, points or a log density")
    if dim is None and begin is None:
        raise BadInput(f"target={text!r} is a function: say of how many coordinates, --dim D")
    return Unnormalised(found, *([dim] if begin is None else begin.event_shape))


def _makes(found: Any) -> bool:
    """Whether an object is a function or class that is called without arguments: a log density is called with points."""
    if not inspect.isroutine(found) and not inspect.isclass(found):
        return False
    try:
        asked = inspect.signature(found).parameters.values()
    except ValueError:  # some that are written in C
        return False
    return all(p.default is not p.empty for p in asked)


def _start(text: str) -> "Particles":
    from wgflow import Particles

    found = _given(text, "start")
    if isinstance(found, Particles):
        return found
    if not isinstance(found, Tensor):
        raise BadInput(f"start={text!r} is {shown(found)}: expected Particles or points")
    return Particles(found)


def _drawn(law: "Measure", n: int, seed: int) -> "Particles":
    from wgflow import Particles, StandardNormal
    from wgflow.core.rng import generator

    return Particles(StandardNormal(*law.event_shape).draw(n, generator(seed)).x)


def _draw(solution: "Solution", law: "Measure", path: Path) -> None:
    from wgflow import plotting

    d = law.event_shape.numel()
    here = solution.to("cpu")
    drawable = d <= 2 or law.can_draw
    over = law.to("cpu", here.measure.x.dtype) if drawable else None  # type: ignore[attr-defined]
    figure = plotting.particles(here, over=over, dims=None if d <= 2 else (0, 1))
    save_picture(figure, path)
