"""Values that are wrong almost everywhere: what a constructor does with them."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from wgflow import RBF, Autograd, Particles, StandardNormal
from wgflow.core.errors import WgflowError
from wgflow.core.fields import field_rules
from wgflow.core.rules import resolved
from wgflow.testing._checks import applies


class Odd:
    """Nothing that the library knows."""


def wrong_values() -> list[Any]:
    """Return values of many kinds, most of which are wrong for any one argument."""
    return [
        *("a", "0.5", None, math.nan, -1, 0, math.inf, -math.inf, 10**400, -(10**400), True, 1.5, 1j, b"x"),
        *([], {}, (), [1], ["a"], (1, "a"), object(), Odd, int, lambda: None, RBF, RBF(1.0), Autograd()),
        *(StandardNormal(2), Particles(torch.zeros(3, 2)), np.float64("nan"), np.ones(2), torch.tensor(math.nan)),
        *(torch.ones(3), torch.tensor(True), nn.Linear(2, 1)),
    ]


def refuses_wrong_arguments(made: Any) -> None:
    """Hold a dataclass to errors of wgflow, whatever is given for a field, and to refusing most of what is wrong for it."""
    applies(dataclasses.is_dataclass(made), "it is no dataclass")
    given = [f for f in dataclasses.fields(made) if f.init and not f.name.startswith("_")]
    applies(given, "it has no fields")
    kind: type = type(made)
    wrong, name = wrong_values(), kind.__name__
    checks = getattr(made.__post_init__, "checks", False)  # not of a class that looks at its fields itself
    known = {rule for rule, _ in field_rules(kind)} if checks else set()
    for f in given:
        refused = 0
        for value in wrong:
            try:
                dataclasses.replace(made, **{f.name: value})
            except WgflowError:
                refused += 1
            except Exception as error:
                raise AssertionError(
                    f"{name}({f.name}={value!r}) raises {type(error).__name__} ({error}), expected BadInput: annotate the field, or check "
                    "it in __post_init__"
                ) from error
        if f.name not in known or resolved(f.type, kind.__module__) is Any:
            continue
        assert refused >= len(wrong) / 2, (
            f"{name}({f.name}=...) takes {len(wrong) - refused} of {len(wrong)} values of every kind: its annotation "
            f"{f.type!r} lets them through"
        )
