"""Recipes of before there were methods: their fields are those of S-JKO, some under other names."""

from typing import Any

from wgflow.core.errors import BadInput
from wgflow.core.words import read

_OF_ITS_VARIANT = {"latent_coupling": "shared", "instance_noise": False, "r1": 0.2}
"""Options that a recipe had to say, with the values that variant wgflow has."""
FIRST_METHOD, EARLIER_RATES = "s_jko", ("lr_generator", "lr_critic")


def as_method(held: dict[str, Any], lr: tuple[float, float]) -> dict[str, Any]:
    """Return the fields of a recipe as those of the method s_jko; one that names a method stays as it is.

    ``lr`` are the learning rates of which a recipe may say just one.
    """
    if "method" in held:
        return held
    kept = {k: v for k, v in held.items() if not (k in _OF_ITS_VARIANT and v == _OF_ITS_VARIANT[k])}
    return with_both_rates(kept, lr)


def with_both_rates(held: dict[str, Any], lr: tuple[float, float]) -> dict[str, Any]:
    """Return the fields with ``lr`` in the place of ``lr_generator`` and ``lr_critic``."""
    if not any(name in held for name in EARLIER_RATES):
        return held
    if "lr" in held or "method.lr" in held:
        raise BadInput("lr is both learning rates, generator, critic: leave out lr_generator and lr_critic")
    both = tuple(read(float, held.get(name, rate), name) for name, rate in zip(EARLIER_RATES, lr, strict=True))
    return {k: v for k, v in held.items() if k not in EARLIER_RATES} | {"lr": both}
