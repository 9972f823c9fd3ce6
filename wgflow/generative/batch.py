"""The largest batch that the memory holds, found by trial."""

from pathlib import Path

import torch

from wgflow import Flow, Labelled, Measure
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.ranks import anywhere
from wgflow.core.rng import generator
from wgflow.generative.folder import read_record
from wgflow.generative.methods import AUTO, METHOD, method
from wgflow.generative.recipe import Recipe
from wgflow.generative.runtime import Runtime

_UPDATES = 2
"""Of a trial: the moments of Adam are there from the second one on."""


def with_batch(recipe: Recipe, folder: Path, law: Measure, here: Runtime) -> Recipe:
    """Return a recipe with a number in the place of ``batch="auto"``: that of the folder's run, or one that fits.

    The number that its method has by default is tried by two updates of a copy of the flow, which is thrown away, and halved
    as long as the device runs out of memory. All ranks must call it together.

    Raises
    ------
    BadInput
        For a method without a batch, and when not even one image a process fits.
    """
    if recipe.options.get("batch") != AUTO:
        return recipe
    try:
        held = read_record(folder).get(f"{METHOD}batch")
    except WgflowError:
        held = None  # a new folder; a damaged one is refused when it is claimed
    if held is not None:
        return recipe.changed(batch=held)
    batch = method(recipe.method).defaults["batch"]
    while batch >= here.world:
        tried = recipe.changed(batch=batch)
        if _fits(tried, law, here):
            return tried
        batch //= 2
    raise BadInput(
        f"batch='auto': not even one image a process fits into the memory of {here.device}. Take checkpointing, a smaller network "
        "(channels) or image_size, or precision bf16"
    )


def _fits(recipe: Recipe, law: Measure, here: Runtime) -> bool:
    try:
        _try(recipe.flow(Labelled(law) if recipe.labels else law, here), here.device)
        short = False
    except torch.OutOfMemoryError:
        short = True
    if here.device.type == "cuda":
        torch.cuda.empty_cache()
    return not anywhere(torch.tensor(short, device=here.device))


def _try(flow: Flow, device: torch.device) -> None:
    state = flow.solver.init(flow.functional, flow.initial, generator(0, device))
    h = flow.step_size(0) if callable(flow.step_size) else flow.step_size
    for _ in range(_UPDATES):
        state, _ = flow.solver.update(flow.functional, state, h)
