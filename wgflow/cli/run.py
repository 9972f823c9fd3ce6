"""``wgflow run``: a particle flow by the name of its preset, toward a target of the user's."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wgflow.cli.arguments import Section
from wgflow.cli.own import array, named, points, save_picture
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Whole
from wgflow.core.instead import shown
from wgflow.core.registry import near_misses

if TYPE_CHECKING:
    from wgflow import Measure, MovingMeasure, Particles, Solution
    from wgflow.generative.methods import Method

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
    out: str | None = None,
    overrides: dict[str, Any],
) -> None:
    """Run a particle flow by the name of its preset, and write its solution and a picture.

    Parameters
    ----------
    preset
        Such as svgd, ula or mmd_flow (wgflow list).
    target
        Where it goes: package.module:NAME of a measure, of a tensor of points or of a log density, a function from points (n, d) to
        (n,); or a file of points, .npy or text. A module is run.
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
    out
        Folder of solution.npz and solution.png. Default: runs/PRESET.
    """
    from wgflow import Progress
    from wgflow.cli.starting import Claim

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
    made = {n: m.options[n].made(v) for n, v in options.items() if not m.options[n].unsaid(v)}
    flow = m.preset(target=law, initial=begin, **made).to(device, torch.float64 if double else torch.float32)
    folder = Path(out or Path("runs") / preset)
    with ExitStack() as stack:
        claim = Claim(folder / "solution.npz", stack)
        solution = flow.solve(seed=seed, callbacks=[claim, Progress()])
        write(solution, claim.temporary)
    print(f"{solution.status}: {solution.state.k} steps to time {solution.state.t:g}")
    print(f"wrote {folder / 'solution.npz'}")
    _draw(solution, law, folder / "solution.png")
    print(f"wrote {folder / 'solution.png'}")


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
    """Write a solution as arrays: x, log_w, times, path, path_log_w, and the columns of the history, NaN where they were not recorded."""
    p = solution.measure
    held: dict[str, Any] = {"x": p.x, "log_w": p.log_weights, "times": np.array(solution.times)}  # type: ignore[attr-defined]
    if solution.saved:
        held |= {"path": torch.stack([s.x for s in solution.saved])}
        held |= {"path_log_w": torch.stack([s.log_weights for s in solution.saved])}
    keys = dict.fromkeys(
        key for row in solution.history for key, value in row.items() if isinstance(value, (int, float))
    )
    held |= {f"history/{key}": [row.get(key, np.nan) for row in solution.history] for key in keys}
    arrays: dict[str, Any] = {
        n: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.array(v) for n, v in held.items()
    }
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _given(text: str, what: str) -> Any:
    """Return what a text stands for: an object of a module, or the points of a file."""
    is_points = Path(text).is_file() and Path(text).suffix != ".py"
    if is_points:
        return torch.from_numpy(array(Path(text), what))
    found = named(text, what)
    return torch.from_numpy(points(found, f"{what}={text!r}")) if isinstance(found, np.ndarray) else found


def _target(text: str, dim: int | None, begin: "MovingMeasure | None") -> "Measure":
    from wgflow import Dataset, Measure, Unnormalised

    found = _given(text, "target")
    if isinstance(found, Measure):
        return found
    if isinstance(found, Tensor):
        return Dataset(found)
    if not isinstance(found, Callable):  # type: ignore[arg-type]
        raise BadInput(f"target={text!r} is {shown(found)}: expected a measure, points or a log density")
    if dim is None and begin is None:
        raise BadInput(f"target={text!r} is a function: say of how many coordinates, --dim D")
    return Unnormalised(found, *([dim] if begin is None else begin.event_shape))


def _start(text: str) -> "MovingMeasure":
    from wgflow import Particles
    from wgflow.measures import MovingMeasure

    found = _given(text, "start")
    if isinstance(found, MovingMeasure):
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
    over = law.to("cpu", here.measure.x.dtype) if d <= 2 else None  # type: ignore[attr-defined]
    figure = plotting.particles(here, over=over, dims=None if d <= 2 else (0, 1))
    save_picture(figure, path)
