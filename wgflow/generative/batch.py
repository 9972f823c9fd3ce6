"""A batch that the memory holds, found by trial."""

from pathlib import Path
from typing import Any

import torch

from wgflow import Flow, Labelled, Measure
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.ranks import by_first, on_any
from wgflow.core.rng import generator
from wgflow.generative.folder import read_record
from wgflow.generative.methods import AUTO, METHOD, method
from wgflow.generative.recipe import Recipe
from wgflow.generative.runtime import Runtime


def with_batch(recipe: Recipe, folder: Path, law: Measure, here: Runtime) -> Recipe:
    """Return a recipe with a number in the place of ``batch="auto"``: that of the folder's run, or one that fits.

    The number that its method has by default is tried by updates of a copy of the flow, which is thrown away, up to one after
    its networks have moved: the moments of Adam are there from then on. It is halved as long as the device runs out of memory, and
    is a multiple of the number of processes. All ranks must call it together.

    Raises
    ------
    BadInput
        For a method without a batch, and when not even one image a process fits.
    """
    if recipe.options.get("batch") != AUTO:
        return recipe
    held = by_first(lambda: _recorded(folder), here.device)
    if held is not None:
        return recipe.changed(batch=held)
    batch = _multiple(method(recipe.method).defaults["batch"], here.world)
    while batch:
        tried = recipe.changed(batch=batch)
        if _fits(tried, law, here):
            return tried
        batch = _multiple(batch // 2, here.world)
    raise BadInput(
        f"batch='auto': not even one image a process fits into the memory of {here.device}. Take checkpointing, a smaller network "
        "(channels) or image_size, or precision bf16"
    )


def _recorded(folder: Path) -> Any:
    try:
        return read_record(folder).get(f"{METHOD}batch")
    except WgflowError:
        return None  # a new folder; a damaged one is refused when it is claimed


def _multiple(batch: int, world: int) -> int:
    """Return the largest multiple of the number of processes that is not above ``batch``."""
    return batch - batch % world


def _fits(recipe: Recipe, law: Measure, here: Runtime) -> bool:
    try:
        _try(
            recipe.flow(Labelled(law) if recipe.labels else law, here),
            here.device,
            recipe.options.get("accumulate") or 1,
        )
        short = False
    except torch.OutOfMemoryError:
        short = True
    if here.device.type == "cuda":
        torch.cuda.empty_cache()
    return not on_any(short, here.device)


def _try(flow: Flow, device: torch.device, accumulate: int) -> None:
    state = flow.solver.init(flow.functional, flow.initial, generator(0, device))
    h = flow.step_size(0) if callable(flow.step_size) else flow.step_size
    for _ in range(accumulate + 1):
        state, _ = flow.solver.update(flow.functional, state, h)
