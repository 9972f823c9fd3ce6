"""A training as data: everything that decides the result, in one flat record that is saved beside it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from wgflow import Flow, Measure
from wgflow.core.brief import Brief, Pieces, brief, table
from wgflow.core.compiling import Compile
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Positive, Whole, field_rules
from wgflow.core.registry import near_misses
from wgflow.core.words import shortened
from wgflow.generative import pairs
from wgflow.generative.compose import compose
from wgflow.generative.earlier import FIRST_METHOD, with_both_rates
from wgflow.generative.methods import METHOD, Method, method, methods
from wgflow.generative.nets._recomputed import recompute
from wgflow.generative.runtime import Runtime
from wgflow.generative.settings import SETTINGS, Ready
from wgflow.generative.written import Written
from wgflow.storage.describe import digest

_HALF_LIFE, _PARTICLES = 5_000.0, 1_000
_WHY = {
    "network": "it has no networks of the recipe",
    "channels": "it has no networks of the recipe",
    "multipliers": "it has no generator of the recipe",
    "attention": "it has no generator of the recipe",
    "checkpointing": "it has no networks of the recipe",
    "ema_half_life": "it averages no generator by its batch",
    "augment": "it has no critic of images",
    "encoder": "it compares no features",
    "particles": "it moves no cloud of images",
    "labels": "it has no generator to take them",
    "compile": "it has no networks of the recipe",
}


@dataclass(frozen=True, init=False)
class Recipe(Written, Brief):
    r"""Data, networks, a method with its options, and what is evaluated: everything that decides a training.

    Options of the method are given by name, as ``Recipe(method="s_jko", divergence="kl")``; with ``method.`` before it a name
    is never taken for a field of the recipe. Those that are not given are of :data:`SETTINGS` for this method, or the preset's
    own.

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
    labels : bool
        Train every class of the images, with networks that take labels.
    pca : int, optional
        Train in the space of so many principal components of the training images; on pixels when None.
    autoencoder : str, optional
        Train in the space of a frozen pair of your own: ``package.module:NAME`` of a function that returns it, an ``nn.Module`` with
        ``encode`` and ``decode`` as diffusers' ``AutoencoderKL`` (:class:`AutoencoderSpace`).
    network : str, optional
        ``conv``, ``fine``, ``small`` or ``large``, ``toy`` in a latent space; or ``package.module:NAME`` of a ``NetworkPair`` of your own.
    channels : int, optional
        Base width of both networks; their default when None.
    multipliers : str, optional
        Width of every level of the generator of ``large`` over ``channels``, such as 1,1,2,2,4,4; its sides halve from level to level.
    attention : str, optional
        Sides of its levels with attention, such as 32,16; the first of at most 16 when None.
    checkpointing : bool
        Compute the inner values of the blocks of ``large`` again on the way back instead of keeping them: less memory, the same numbers.
    augment : str, optional
        Random changes of images before the critic sees them (:class:`DiffAugment`): color, translation, cutout, or several with commas.
    encoder : str, optional
        Frozen features that a drift compares: ``random-conv``, or ``package.module:NAME`` of a function of your own that returns
        an encoder of images in [-1, 1]; the pixels themselves when None.
    ema_half_life : float, optional
        Half-life of the generator's running average, in images; 5000 when None.
    particles : int, optional
        Images that a method without a generator moves; 1000 when None.
    method : str
        Name of a preset (``wgflow list``).
    precision : {"fp32", "bf16"}
        Of the networks.
    compile : bool or "graphs"
        Whether to compile them, as for :func:`runtime`. Like a device it is of a process and not of its run: it is not recorded.
    evaluate_every : int
        Updates between evaluations, sample grids and exports.
    sinkhorn_n : int
        Points a cloud of the energy distance and of the Sinkhorn divergence (there at most half of the data); 0 for neither.
    sinkhorn_blur : float
        Its blur, in units of the pixel vector in [-1, 1].
    seed : int
        Of everything random.

    Attributes
    ----------
    options : dict
        All options of the method, as one writes them.

    Raises
    ------
    BadInput
        For a field or an option that the recipe or its method does not have, and for a value of the wrong kind.

    Examples
    --------
    >>> from wgflow.generative import Recipe
    >>> recipe = Recipe(method="s_jko", divergence="softplus", num_steps=20)
    >>> recipe.data, recipe.options["divergence"]
    ('fashion-mnist-10k', 'softplus')
    """

    data: str = "fashion-mnist-10k"
    data_root: str | None = None
    download: bool = False
    image_size: Count | None = None
    flip: bool = False
    labels: bool = False
    pca: Count | None = None
    autoencoder: str | None = None
    network: str | None = None
    channels: Count | None = None
    multipliers: str | None = None
    attention: str | None = None
    checkpointing: bool = False
    augment: str | None = None
    encoder: str | None = None
    ema_half_life: Positive | None = None
    particles: Count | None = None
    method: str = "s_jko"
    options: dict[str, Any] = field(default_factory=dict)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: Compile = False
    evaluate_every: Count = 500
    sinkhorn_n: Whole = 1000
    sinkhorn_blur: Positive = 1.0
    seed: Whole = 0

    def __post_init__(self) -> None:
        for name, rule in field_rules(cast(Any, type(self))):
            object.__setattr__(self, name, rule(getattr(self, name), f"{name}={{}}"))
        m = self._method
        if self.pca is not None and self.autoencoder is not None:
            raise BadInput(
                f"pca={self.pca} and autoencoder={self.autoencoder!r}: a flow lives in one space, leave one out"
            )
        if self.checkpointing and self.compile:
            raise BadInput("checkpointing and compile: what is compiled decides by itself what to keep, leave one out")
        for key in self.options:
            self._known(key)
        options = m.defaults | self.options
        for key, value in options.items():
            if m.options[key].needed and value is None:
                raise BadInput(f"method {m.name} needs {key}: {m.options[key].about} Say {METHOD}{key}")
            options[key] = m.options[key].read(value, key)
        object.__setattr__(self, "options", options)
        defaults = {
            "network": "conv" if self.pca is None else "toy",
            "ema_half_life": _HALF_LIFE,
            "particles": _PARTICLES,
        }
        for name, why in _WHY.items():
            value = getattr(self, name)
            if value and not m.takes(name):
                raise BadInput(f"{name}={value!r} is not for method {m.name}: {why}. Leave it out")
            if value is None and m.takes(name):
                object.__setattr__(self, name, defaults.get(name))

    def __init__(self, **given: Any) -> None:
        own = {f.name: f.default for f in dataclasses.fields(self) if f.name != "options"}
        name = given.get("method", own["method"])
        rates = SETTINGS[name]["lr"] if name == FIRST_METHOD else None
        options = given.pop("options", {})
        if not isinstance(options, Mapping):
            raise BadInput(
                f"options={shortened(options)}: expected a dictionary of options by name; a file has a line for each of them"
            )
        options = dict(options)
        if rates is not None:
            given = with_both_rates(given, options.get("lr", rates))
        fields = {key: given.pop(key, value) for key, value in own.items()}
        for key in given:
            if METHOD + key in given:
                raise BadInput(f"{key} and {METHOD}{key} are one option, and both are given: leave one out")
        options |= {key.removeprefix(METHOD): value for key, value in given.items()}
        for key, value in (fields | {"options": options}).items():
            object.__setattr__(self, key, value)
        self.__post_init__()

    def _known(self, key: str) -> None:
        """Raise ``BadInput`` for a name that is neither a field nor an option of the method; says whose it is."""
        m = self._method
        if key in m.options:
            return
        others = [other.name for other in methods() if key in other.options]
        known = [f.name for f in dataclasses.fields(self) if f.name != "options"] + sorted(m.options)
        hint = f"it is an option of {', '.join(others[:4])}" if others else near_misses(key, known)
        raise BadInput(f"a recipe by {m.name} has no {shortened(key)}: {hint}")

    def _pieces(self, inner: Callable[[Any], str]) -> Pieces:
        usual = Recipe(method=self.method).plain()
        said = {k: v for k, v in self.plain().items() if k in ("data", "method") or v != usual[k]}
        return Pieces("Recipe(", [f"{k.removeprefix(METHOD)}={inner(v)}" for k, v in said.items()])

    def _repr_html_(self) -> str:
        return table(("setting", "value"), [(k, brief(v)) for k, v in self.plain().items() if v is not None])

    @property
    def _method(self) -> Method:
        return method(self.method)

    @property
    def sinkhorn_points(self) -> int:
        """Points a cloud of the Sinkhorn divergence: not more than there are to be moved."""
        return min(self.sinkhorn_n, self.particles or self.sinkhorn_n)

    @property
    def made_of(self) -> str:
        """What code decides of a run, in words: the name of its checkpoints. Code of the user's is imported and counts by a digest."""
        known = f"{self.method}, network {self.network}, channels {self.channels}, {self.precision}"
        if self.multipliers or self.attention:
            known += f", multipliers {self.multipliers}, attention {self.attention}"
        own = [f"{what} of code {digest(pairs.named_object(name, what))}" for what, name in self._named.items()]
        return ", ".join([known, *own])

    def changed(self, **changes: Any) -> "Recipe":
        """Return the recipe with other fields or options; those of another method start from its own settings.

        Examples
        --------
        >>> Recipe(batch=32).changed(divergence="kl", flip=True).options["batch"]
        32
        """
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if changes.get("method", self.method) != self.method:
            other = method(changes["method"])
            usual = {f.name: f.default for f in dataclasses.fields(self)}
            kept = {name: value if other.takes(name) else usual[name] for name, value in kept.items()} | {"options": {}}
        if (
            "pca" in changes
            and (changes["pca"] is None) != (self.pca is None)
            and self.network in ("conv", "fine", "toy")
        ):
            kept["network"] = None
        return Recipe(**kept | changes)

    def networks(self, event_shape: tuple[int, ...], classes: int = 0, **sizes: int) -> tuple[Any, Any]:
        """Return a fresh generator and critic for points of this shape, with labels behind if any; ``sizes`` are the critic's."""
        given = {"multipliers": self.multipliers, "attention": self.attention}
        levels = {name: pairs.whole_numbers(text, name) for name, text in given.items() if text is not None}
        made = pairs.networks(cast(str, self.network), self.channels, tuple(event_shape), classes, levels, **sizes)
        if self.checkpointing:
            for net in made:
                recompute(net, cast(str, self.network))
        return made

    def flow(self, data: Measure, here: Runtime) -> Flow:
        """Compose the flow of the method to these data, images or their codes in a latent space."""
        return compose(self, self._method, data, here)


RECIPES: Mapping[str, Recipe] = Ready(Recipe)
"""Ready-made recipes by name."""
