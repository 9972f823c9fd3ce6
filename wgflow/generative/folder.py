"""The folder of a run: claimed for one run and no other, and read with care, since it may be damaged or somebody else's."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgflow.core.errors import BadInput, CannotWrite, DataNotFound
from wgflow.core.imports import require
from wgflow.core.words import shortened
from wgflow.storage.describe import differences
from wgflow.storage.files import LOCK, locked, read_text, reason, refusal, replacing, write_text
from wgflow.storage.state import first_nonfinite

RECIPE, CHECKPOINTS, WEIGHTS = "recipe.json", "checkpoints", "generator.safetensors"
RECORD = "wgflow"
"""Name in the metadata of an exported file under which it says what it is of, as JSON."""
FLOW = "flow"
"""Name in a record of ``wgflow run`` under which it says of which preset the particle flow is; that of a training has none."""
_LONGEST_SIDE = 2**12
_ANEW = "Remove it and start the training again with the same options: it is written anew from the last checkpoint"


def check_folder(folder: Path, record: dict[str, Any]) -> None:
    """Raise ``BadInput`` when a folder holds something else than this run; changes nothing.

    A folder of checkpoints whose ``recipe.json`` is lost or empty is taken: the checkpoints themselves know their run.
    """
    known = folder / RECIPE
    try:
        if known.is_file() and known.stat().st_size:
            refuse_other(folder, plain_record(record), plain_record(read_record(folder)))
        elif (folder / CHECKPOINTS / LOCK).is_file():
            return
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BadInput(f"{folder} exists and is not the folder of a wgflow run: choose a new folder with --folder")
    except OSError as error:
        raise BadInput(f"cannot read {folder}: {reason(error)}") from error


def refuse_other(folder: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Raise ``BadInput`` that says where two plain records differ."""
    differ = differences(ours, theirs)
    if (FLOW in ours) != (FLOW in theirs):
        differ = [f"of wgflow run {theirs[FLOW]}" if FLOW in theirs else "of wgflow train"]
    if differ:
        raise BadInput(
            f"{folder} holds another run ({_few(differ)}). Choose another folder with --folder, or repeat that run's "
            "options to go on with it."
        )


def claim_folder(folder: Path, record: dict[str, Any], others: Mapping[str, str] | None = None) -> None:
    """Make the folder of a new run, or check that it is of this one.

    ``recipe.json`` and the ``others``, texts by file name, are written once, under the lock of the run.

    Raises
    ------
    BadInput
        As :func:`check_folder`.
    CheckpointError, CannotWrite
        When another process holds the folder, or the file system refuses.
    """
    check_folder(folder, record)
    texts = _texts(record, others)
    if all(_holds(folder / name) for name in texts):
        return
    with locked(folder / CHECKPOINTS):
        check_folder(folder, record)  # another process may have come first
        _write_missing(folder, texts)


def sign_folder(folder: Path, record: dict[str, Any]) -> None:
    """Write ``recipe.json`` into a folder that :func:`check_folder` has let pass and whose lock this run holds, unless it is there."""
    _write_missing(folder, _texts(record))


def _texts(record: dict[str, Any], others: Mapping[str, str] | None = None) -> dict[str, str]:
    # recipe.json comes last: where it is, all is there.
    return {**(others or {}), RECIPE: json.dumps(plain_record(record), indent=2) + "\n"}


def _write_missing(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        if not _holds(folder / name):
            write_text(folder / name, text)


def _holds(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def plain_record(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as JSON keeps it; infinity, which JSON lacks, as text."""
    texts = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    plain: dict[str, Any] = json.loads(json.dumps(texts))
    return plain


def still_there(folder: Path) -> None:
    """Raise ``CannotWrite`` when the folder of a run was removed since it was claimed; a writer would make it anew."""
    if not folder.is_dir():
        raise CannotWrite(f"cannot write to {folder}: the folder was removed in mid-run")


def read_record(folder: Path) -> dict[str, Any]:
    """Return what ``recipe.json`` holds, or what an exported file says of its run.

    Raises
    ------
    DataNotFound
        When there is none.
    BadInput
        When it is damaged, or not such a file.
    """
    if folder.is_file():
        path, text = folder, _record_in(folder)
    else:
        path, text = folder / RECIPE, None
    if not path.exists():
        raise DataNotFound(f"{folder} is not the folder of a run: it has no {RECIPE} (wgflow train makes one)")
    text = read_text(path, "a recipe") if text is None else text
    try:
        held = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is damaged ({error})"
        raise BadInput(
            f"{path} {what}. Where the folder has a recipe.yaml: remove {RECIPE}, and wgflow train with that and this folder "
            "goes on from the checkpoints"
        ) from error
    if not isinstance(held, dict):
        raise BadInput(f"{path} should hold the settings of a run by name, it holds {shortened(held)}")
    return held


def _record_in(path: Path) -> str:
    """Return the record in the metadata of an exported file."""
    try:
        with require("safetensors", extra="image").safe_open(path, "pt") as file:
            held = json.loads((file.metadata() or {}).get(RECORD, "{}")).get("recipe")
    except Exception as error:  # safetensors has classes of its own
        raise BadInput(f"{path} cannot be read as safetensors ({str(error)[:100]})") from error
    if held is None:
        raise BadInput(
            f"{path} does not say which run it is of: it is not of wgflow train, or of an earlier version. Give the folder of the run"
        )
    return json.dumps(held)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        raise ValueError("a name is there twice")
    return held


def image_shape(record: dict[str, Any], folder: Path) -> tuple[int, int, int]:
    """Return the shape (c, h, w) of the images of a run; raises ``BadInput`` when its record has none."""
    shape = record.get("image_shape")
    sides = shape if isinstance(shape, list) else []
    if len(sides) != 3 or not all(type(s) is int and 1 <= s <= _LONGEST_SIDE for s in sides):
        raise BadInput(
            f"{folder / RECIPE} has image_shape={str(shape)[:60]}: expected [channels, height, width], as wgflow train writes "
            "it. A run of fit() has no recipe: sample its solution.measure.inference()"
        )
    return tuple(sides)  # type: ignore[return-value]


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of a run; raises as :func:`load_weights` where there are none."""
    if not path.exists():
        raise DataNotFound(f"{path} does not exist: train first (wgflow train RECIPE --folder {path.parent})")
    load = require("safetensors.torch", extra="image").load_file
    try:
        held: dict[str, Tensor] | None = load(path) if path.is_file() else None
    except Exception as error:  # safetensors has classes of its own
        raise BadInput(f"{path} cannot be read as safetensors ({str(error)[:100]}). {_ANEW}") from error
    if held is None:
        raise BadInput(f"{path} is not a file. {_ANEW}")
    return held


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; raises ``CannotWrite`` when the file system refuses."""
    save_file = require("safetensors.torch", extra="image").save_file
    refused = require("safetensors", extra="image").SafetensorError
    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, about)
        except refused as error:
            raise refusal(path.parent, error) from error


def load_weights(path: Path, net: nn.Module) -> None:
    """Fill a network from a safetensors file.

    Raises
    ------
    DataNotFound
        When there is no such file.
    BadInput
        When it is damaged, of another network, or holds numbers that are not finite.
    """
    held = read_weights(path)
    wanted = net.state_dict()
    differ = [f"it lacks {name}" for name in wanted.keys() - held.keys()]
    differ += [f"it has {name}" for name in held.keys() - wanted.keys()]
    differ += [
        f"{name} is {_make(held[name])}, not {_make(t)}"
        for name, t in wanted.items()
        if name in held and (held[name].shape != t.shape or held[name].is_floating_point() != t.is_floating_point())
    ]
    if differ:
        raise BadInput(f"{path} is of another network than {RECIPE} says: {_few(sorted(differ))}. {_ANEW}")
    where = first_nonfinite(held)
    if where is not None:
        raise BadInput(f"{path} has numbers that are not finite, in {where.removeprefix('state.')}. {_ANEW}")
    with torch.no_grad():
        net.load_state_dict(held)


def _make(t: Tensor) -> str:
    return f"{tuple(t.shape)} of {str(t.dtype).removeprefix('torch.')}"


def _few(sentences: list[str]) -> str:
    text = "; ".join(sentences[:4])
    return text if len(sentences) <= 4 else f"{text}; and {len(sentences) - 4} more"
