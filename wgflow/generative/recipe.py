"""A training as data: everything that decides the result, in one flat record that is saved beside it."""

import dataclasses
import os
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

from wgflow import Flow, Measure
from wgflow.core.brief import Brief, Pieces, brief, table
from wgflow.core.compiling import Compile
from wgflow.core.errors import BadInput
from wgflow.core.fields import Count, Positive, Whole, checked, field_rules
from wgflow.core.imports import require
from wgflow.core.registry import near_misses
from wgflow.core.words import read, shortened
from wgflow.generative import pairs
from wgflow.generative.compose import compose
from wgflow.generative.earlier import FIRST_METHOD, as_method, with_both_rates
from wgflow.generative.flat_yaml import flat_yaml
from wgflow.generative.methods import METHOD, Method, method, methods
from wgflow.generative.runtime import Runtime
from wgflow.generative.settings import SETTINGS, Ready
from wgflow.storage.describe import digest
from wgflow.storage.files import write_text

_HALF_LIFE, _PARTICLES = 5_000.0, 1_000
_WHY = {
    "network": "it has no networks of the recipe",
    "channels": "it has no networks of the recipe",
    "ema_half_life": "it averages no generator by its batch",
    "encoder": "it compares no features",
    "particles": "it moves no cloud of images",
    "labels": "it has no generator to take them",
    "compile": "it has no networks of the recipe",
}


@dataclass(frozen=True, init=False)
class Recipe(Brief):
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
    network : str, optional
        ``conv``, ``fine``, ``small`` or ``large``, ``toy`` in a latent space; or ``package.module:NAME`` of a ``NetworkPair`` of your own.
    channels : int, optional
        Base width of both networks; their default when None.
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
        Points a cloud of the Sinkhorn divergence, at most half of the data; 0 for none.
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
    network: str | None = None
    channels: Count | None = None
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
        options = dict(given.pop("options", {}))
        if rates is not None:
            given = with_both_rates(given, options.get("lr", rates))
        fields = {key: given.pop(key, value) for key, value in own.items()}
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
        own = [f"{what} of code {digest(pairs.named_object(name, what))}" for what, name in self._named.items()]
        return ", ".join([known, *own])

    @property
    def code(self) -> str:
        """What of a recipe is code to be imported, as ``name='package.module:NAME'``; empty for names that wgflow knows."""
        return ", ".join(f"{what}={name!r}" for what, name in self._named.items())

    @property
    def _named(self) -> dict[str, str]:
        named = {"network": self.network, "encoder": self.encoder}
        return {what: name for what, name in named.items() if name is not None and ":" in name}

    def trusted(self, origin: str | Path, allow_code: bool) -> Self:
        """Return this recipe, read from ``origin``; raises ``BadInput`` when it names code that was not allowed."""
        if self.code and not allow_code:
            raise BadInput(
                f"{origin} names code to run: {self.code}. If you trust it: --allow-code on the command line, allow_code=True in "
                "Python"
            )
        return self

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

    def plain(self) -> dict[str, Any]:
        """Return all of it as single values by name, options with ``method.`` before theirs: :meth:`from_dict` reads it."""
        found: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            if f.name != "options":
                found[f.name] = getattr(self, f.name)
            if f.name == "method":
                found |= {
                    METHOD + k: ", ".join(map(str, v)) if type(v) is tuple else v for k, v in self.options.items()
                }
        return found

    @checked
    def save(self, path: str | Path) -> None:
        """Write as YAML."""
        write_text(path, self.text())

    def text(self) -> str:
        """Return the YAML that :meth:`load` reads."""
        text: str = require("yaml", extra="cli").safe_dump(self.plain(), sort_keys=False)
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
                f"{path} is a folder: a recipe is a file, such as {path / 'recipe.yaml'} in the folder of a run. Images are its "
                f"data: wgflow train --data {path}"
            )
        if not os.path.exists(path):
            raise BadInput(
                f"no recipe and no file is called {shortened(str(source))}: {near_misses(str(source), sorted(RECIPES))}"
            )
        return cls.from_dict(flat_yaml(path)).trusted(path, allow_code)

    @classmethod
    @checked
    def from_dict(cls, held: dict[str, Any]) -> "Recipe":
        """Return a recipe from plain values, also from those of a recipe of before there were methods.

        Numbers are converted where nothing is lost.
        """
        hints = typing.get_type_hints(cls, include_extras=True)
        held = as_method(held, SETTINGS["s_jko"]["lr"])
        return cls(**{k: read(hints[k], v, k) if k in hints and k != "options" else v for k, v in held.items()})

    def networks(self, event_shape: tuple[int, ...], classes: int = 0, **sizes: int) -> tuple[Any, Any]:
        """Return a fresh generator and critic for points of this shape, with labels behind if any; ``sizes`` are the critic's."""
        return pairs.networks(cast(str, self.network), self.channels, tuple(event_shape), classes, **sizes)

    def flow(self, data: Measure, here: Runtime) -> Flow:
        """Compose the flow of the method to these data, images or their codes in a latent space."""
        return compose(self, self._method, data, here)


RECIPES: Mapping[str, Recipe] = Ready(Recipe)
"""Ready-made recipes by name."""
