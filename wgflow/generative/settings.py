"""What recipes set for a method where it is not given: sizes for 28×28 images on a CPU, and the recipes with names of their own."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from wgflow.core.brief import brief
from wgflow.core.registry import Listed

_CRITIC: dict[str, Any] = {"critic_iters": 3, "batch": 64, "lr": (1e-3, 1e-3), "betas": (0.5, 0.9)}
SETTINGS: dict[str, dict[str, Any]] = {
    "s_jko": {
        "divergence": "softplus",
        "num_steps": 8,
        "first_iters": 500,
        "iters": 500,
        "batch": 64,
        "lr": (1e-3, 5e-4),
    },
    "uotm_source_fixed": {"divergence": "softplus", "iters": 4_000, "batch": 64, "lr": (1e-3, 5e-4)},
    "otm": {"iters": 4_000, "batch": 64, "lr": (1e-3, 5e-4)},
    "f_gan": {"divergence": "js_nonsat", "iters": 4_000, "batch": 64, "lr": (1e-3, 5e-4)},
    "gwf": {"num_steps": 4, "first_iters": 500, "iters": 500, "batch": 64, "lr": (1e-3, 5e-4)},
    "w1_fe": _CRITIC | {"step_size": 3.0, "num_steps": 600},
    "wgan_gp": _CRITIC | {"num_steps": 800},
    "wgan_lp": _CRITIC | {"num_steps": 800},
    "w2_fe": _CRITIC | {"step_size": 0.5, "num_steps": 800},
    "w_flow": {"num_steps": 4_000, "lr": 1e-3},
    "mmd_drift": {"num_steps": 4_000, "lr": 1e-3},
    "energy_drift": {"num_steps": 4_000, "lr": 1e-3},
    "drifting": {"num_steps": 4_000, "lr": 1e-3},
    "mmd_flow": {"kernel": "riesz(1.0)", "batch": 256, "step_size": 2.0, "num_steps": 1_000},
    "sliced_w_flow": {"step_size": 50.0, "num_steps": 2_000},  # every direction of a step is matched
    "sinkhorn_flow": {"blur": 2.0, "step_size": 0.3, "num_steps": 40},
}
"""Options by method, in place of the defaults of the preset: those of papers need a GPU."""

_CIFAR = {
    "data": "cifar10",
    "flip": True,
    "network": "small",
    "divergence": "kl",
    "num_steps": 50,
    "first_iters": 10_000,
    "iters": 2_000,
    "batch": 256,
    "lr": (2e-4, 1e-4),
    "ema_half_life": 1_774_000,  # the decay 0.9999 at this batch
    "evaluate_every": 2_000,
    "sinkhorn_n": 2000,
    "sinkhorn_blur": 2.0,
}

READY: dict[str, dict[str, Any]] = {
    "fashion-mnist": {
        "network": "fine",
        "r1": 1.0,
        "r1_every": 4,
        "lr": (4e-3, 2e-3),
        "first_iters": 300,
        "iters": 300,
    },
    "fashion-mnist-chain": {"method": "classic_jko", "pca": 50},
    "fashion-mnist-particles": {"method": "sliced_w_flow"},
    "cifar10-small": _CIFAR,
    "cifar10-small-jsd": _CIFAR | {"divergence": "js_nonsat"},
    "cifar10-large": _CIFAR | {"network": "large"},
    "cifar10-small-source-fixed": _CIFAR | {"num_steps": 1, "first_iters": 108_000, "step_size": 1 / (2 * 3072 * 1e-3)},
    "f-gan": {"step_size": math.inf, "num_steps": 1, "first_iters": 4_000},
}
"""Recipes with names of their own. The CIFAR-10 ones hold the hyper-parameters of Choi et al. (2024)."""


class Ready(Listed, Mapping[str, Any]):
    """The recipes of :data:`READY`, made when they are asked for: importing this looks for no plugins.

    Parameters
    ----------
    make : callable
        From the entries of a recipe to the recipe.
    """

    kind = "recipe"

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def about(self, name: str) -> str:
        """Return what a recipe has of its own."""
        return brief(self[name])

    def __getitem__(self, name: str) -> Any:
        return self.make(**READY[name])

    def __iter__(self) -> Iterator[str]:
        return iter(READY)

    def __len__(self) -> int:
        return len(READY)
