"""A training as data: everything that decides the result, in one flat record that is saved beside it."""

import dataclasses
import importlib
import math
import os
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from wgflow import (
    JKO,
    R1,
    Adam,
    Cosine,
    Critic,
    Flow,
    Pushforward,
    Smoothed,
    StandardNormal,
    ema_decay,
    entropy,
    instance_noise,
)
from wgflow.core.errors import BadInput, WgflowError
from wgflow.core.fields import Count, NonNegative, Positive, PositiveOrInfinite, Whole, checked, field_rules
from wgflow.core.imports import require
from wgflow.core.registry import near_misses
from wgflow.core.words import read, shortened
from wgflow.generative.data import ImageData
from wgflow.generative.flat_yaml import flat_yaml
from wgflow.generative.nets import NETWORKS, NetworkPair
from wgflow.generative.runtime import Runtime
from wgflow.storage.files import write_text


@dataclass(frozen=True)
class Recipe:
    r"""An S-JKO training of an image generator; ``num_steps=1`` is source-fixed UOTM, ``step_size=inf`` the f-GAN.

    Parameters
    ----------
    data : str
        Name of a data set (``wgflow list``), a folder of images, or an ``.npz``/``.npy`` file.
    data_root : str, optional
        Folder of the data set, for those that are not bundled.
    download : bool
        Fetch a missing data set.
    image_size : int, optional
        Resize to this size.
    flip : bool
        Mirror half of the training images.
    network : str
        ``conv``, ``small`` or ``large``; or ``package.module:NAME`` of a ``NetworkPair`` of your own.
    channels : int, optional
        Base width of both networks; their default when None.
    divergence : str
        Name of an f-divergence.
    step_size : float
        :math:`h` with the cost averaged over coordinates, :math:`h_{JKO}=d\,h`.
    num_steps, first_iters, iters : int
        JKO steps, and updates in the first and in the others.
    batch : int
        Batch size over all processes.
    latent_coupling : {"shared", "independent"}
        Auxiliary noise of old and new generator.
    snapshot : {"raw", "ema"}
        Weights that a finished step leaves behind.
    r1 : float
        :math:`\gamma` of :math:`\tfrac\gamma2E\lVert\nabla v\rVert^2` on data; 0 for none.
    r1_every : int
        Critic updates between two applications of R1.
    instance_noise : bool
        Noise of standard deviation :math:`1/(32(k+1))` on data in the critic step.
    lr_generator, lr_critic : float
        Learning rates of Adam with betas (0.5, 0.9).
    lr_floor : float, optional
        Where a cosine over the whole run takes both.
    ema_half_life : float
        Half-life of the generator's running average, in images.
    precision : {"fp32", "bf16"}
        Of the networks.
    evaluate_every : int
        Updates between evaluations, sample grids and exports.
    sinkhorn_n : int
        Points a cloud of the Sinkhorn divergence, at most half of the data; 0 for none.
    sinkhorn_blur : float
        Its blur, in units of the pixel vector in [-1, 1].
    seed : int
        Of everything random.
    """

    data: str = "fashion-mnist-10k"
    data_root: str | None = None
    download: bool = False
    image_size: Count | None = None
    flip: bool = False
    network: str = "conv"
    channels: Count | None = None
    divergence: str = "softplus"
    step_size: PositiveOrInfinite = 0.1
    num_steps: Count = 8
    first_iters: Count = 500
    iters: Count = 500
    batch: Count = 64
    latent_coupling: Literal["shared", "independent"] = "shared"
    snapshot: Literal["raw", "ema"] = "raw"
    r1: NonNegative = 0.2
    r1_every: Count = 1
    instance_noise: bool = False
    lr_generator: Positive = 1e-3
    lr_critic: Positive = 5e-4
    lr_floor: NonNegative | None = 5e-5
    ema_half_life: Positive = 5_000
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluate_every: Count = 500
    sinkhorn_n: Whole = 1000
    sinkhorn_blur: Positive = 1.0
    seed: Whole = 0

    def __post_init__(self) -> None:
        for name, rule in field_rules(cast(Any, type(self))):
            object.__setattr__(self, name, rule(getattr(self, name), f"{name}={{}}"))

    @property
    def total_updates(self) -> int:
        """Updates of the whole run."""
        return self.first_iters + self.iters * (self.num_steps - 1)

    @property
    def code(self) -> str:
        """What of a recipe is code to be imported, as ``name='package.module:NAME'``; empty for names that wgflow knows."""
        return "" if self.network in NETWORKS or ":" not in self.network else f"network={self.network!r}"

    def trusted(self, origin: str | Path, allow_code: bool) -> "Recipe":
        """Return this recipe, read from ``origin``; raises ``BadInput`` when it names code that was not allowed."""
        if self.code and not allow_code:
            raise BadInput(
                f"{origin} names code to run: {self.code}. If you trust it: --allow-code on the command line, allow_code=True in "
                "Python"
            )
        return self

    @checked
    def save(self, path: str | Path) -> None:
        """Write as YAML."""
        write_text(path, self.text())

    def text(self) -> str:
        """Return the YAML that :meth:`load` reads."""
        text: str = require("yaml", extra="cli").safe_dump(dataclasses.asdict(self), sort_keys=False)
        return text

    @classmethod
    @checked
    def load(cls, source: str | Path, *, allow_code: bool = False) -> "Recipe":
        """Return a recipe by name, or from a YAML file.

        Parameters
        ----------
        source : str or path
            A name (``wgflow list``), or a file.
        allow_code : bool
            Accept a file that names a network as ``package.module:NAME``, which runs that module's code.

        Raises
        ------
        BadInput
            For an unknown name or key (with near misses), a value of the wrong type, a file that is no recipe, or code that
            was not allowed.
        """
        if str(source) in RECIPES:
            return RECIPES[str(source)]
        path = Path(source)
        if os.path.isdir(path):
            raise BadInput(
                f"{path} is a folder: a recipe is a file, such as {path / 'recipe.yaml'} in the folder of a run"
            )
        if not os.path.exists(path):
            raise BadInput(
                f"no recipe and no file is called {shortened(str(source))}: {near_misses(str(source), sorted(RECIPES))}"
            )
        return cls.from_dict(flat_yaml(path)).trusted(path, allow_code)

    @classmethod
    @checked
    def from_dict(cls, held: dict[str, Any]) -> "Recipe":
        """Return a recipe from plain values; numbers are converted where nothing is lost."""
        hints = typing.get_type_hints(cls, include_extras=True)
        for key in held:
            if key not in hints:
                raise BadInput(f"a recipe has no {shortened(key)}: {near_misses(str(key), sorted(hints))}")
        return cls(**{key: read(hints[key], value, key) for key, value in held.items()})

    def networks(self, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
        """Return a fresh generator and critic for images of this shape."""
        pair = network_pair(self.network)
        sizes: dict[str, Any] = {"image_shape": tuple(image_shape)}
        if self.channels is not None:
            sizes["channels"] = self.channels
        try:
            generator, critic = pair.generator(**sizes), pair.critic(**sizes)
        except TypeError as error:
            given = ", ".join(f"{name}={value}" for name, value in sizes.items())
            raise BadInput(f"network={self.network!r} cannot be made with {given}: {error}") from error
        for name in ("source_shape", "noise_shape", "reference"):
            if not hasattr(generator, name):
                raise BadInput(
                    f"network={self.network!r}: its generator has no {name}; source_shape, noise_shape (or None) and reference() "
                    "say what it eats and what stands for it before the first step"
                )
        return generator, critic

    def flow(self, data: ImageData, here: Runtime) -> Flow:
        """Compose the flow: this is the whole method."""
        shape, batch = tuple(data.event_shape), here.share_of(self.batch)
        outline, _ = self.networks(shape)
        noise = outline.noise_shape and StandardNormal(*outline.noise_shape, device=here.device)
        schedule = None if self.lr_floor is None else Cosine(self.total_updates, self.lr_floor)
        target = Smoothed(data, instance_noise) if self.instance_noise else data
        critic = Critic(
            lambda: here.network(self.networks(shape)[1]),
            Adam(self.lr_critic, schedule=schedule),
            r1=R1(self.r1, self.r1_every) if self.r1 else None,
        )
        solver = JKO(
            critic,
            optim=Adam(self.lr_generator, schedule=schedule),
            iters=self.iters,
            first_iters=self.first_iters,
            batch=batch,
            cost="mean",
            latent=self.latent_coupling,
            snapshot=self.snapshot,
        )
        initial = Pushforward(
            here.share(StandardNormal(*outline.source_shape, device=here.device)),
            lambda: here.network(self.networks(shape)[0]),
            noise=noise and here.share(noise),
            reference=outline.reference(),
            ema=ema_decay(self.ema_half_life, self.batch),
        )
        return Flow(
            entropy(self.divergence, here.share(target), batch), solver, initial, self.step_size, self.num_steps
        )


def network_pair(name: str) -> NetworkPair:
    """Return the pair called ``name``, or the one at ``package.module:NAME``; raises ``BadInput`` with near misses."""
    if name in NETWORKS:
        return NETWORKS[name]
    if ":" not in name:
        raise BadInput(f"no network is called {name!r}: {near_misses(name, sorted(NETWORKS))}, or package.module:NAME")
    pair = named_object(name, "network")
    if not isinstance(pair, NetworkPair):
        raise BadInput(
            f"network={name!r} is a {type(pair).__name__}; expected a NetworkPair(generator=..., critic=...)"
        )
    return pair


def named_object(name: str, what: str) -> Any:
    """Return the object at ``package.module:NAME``; raises ``BadInput`` that says what it was wanted for."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except WgflowError:
        raise
    except Exception as error:  # whatever the module does
        raise BadInput(f"{what}={name!r} cannot be imported: {type(error).__name__}: {error}") from error


_CIFAR = Recipe(
    data="cifar10",
    flip=True,
    network="small",
    divergence="kl",
    num_steps=50,
    first_iters=10_000,
    iters=2_000,
    batch=256,
    lr_generator=2e-4,
    lr_critic=1e-4,
    ema_half_life=1_774_000,  # the decay 0.9999 at this batch
    evaluate_every=2_000,
    sinkhorn_n=2000,
    sinkhorn_blur=2.0,
)

RECIPES: dict[str, Recipe] = {
    "fashion-mnist": Recipe(),
    "cifar10-small": _CIFAR,
    "cifar10-small-jsd": dataclasses.replace(_CIFAR, divergence="js_nonsat"),
    "cifar10-large": dataclasses.replace(_CIFAR, network="large"),
    "cifar10-small-source-fixed": dataclasses.replace(
        _CIFAR, num_steps=1, first_iters=108_000, step_size=1 / (2 * 3072 * 1e-3)
    ),
    "f-gan": Recipe(step_size=math.inf, num_steps=1, first_iters=4_000),
}
"""Ready-made recipes by name. The CIFAR-10 ones hold the hyper-parameters of Choi et al. (2024)."""
