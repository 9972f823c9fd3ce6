"""A recipe as text: its fields and options as one flat record of plain values, in a YAML file or a dictionary."""

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from wgflow.core.errors import BadInput
from wgflow.core.fields import checked
from wgflow.core.imports import require
from wgflow.core.registry import near_misses
from wgflow.core.words import read, shortened
from wgflow.generative.earlier import as_method
from wgflow.generative.flat_yaml import flat_yaml
from wgflow.generative.methods import METHOD
from wgflow.generative.settings import SETTINGS, Ready
from wgflow.storage.files import write_text


class Written:
    """What reads and writes the fields and options of a recipe."""

    options: dict[str, Any]
    network: str | None
    encoder: str | None
    autoencoder: str | None

    def plain(self) -> dict[str, Any]:
        """Return all of it as single values by name, options with ``method.`` before theirs: :meth:`from_dict` reads it."""
        found: dict[str, Any] = {}
        for f in dataclasses.fields(cast(Any, self)):
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
    def load(cls, source: str | Path, *, allow_code: bool = False) -> Self:
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
        ready: Mapping[str, Self] = Ready(cls)
        if str(source) in ready:
            return ready[str(source)]
        path = Path(source)
        if os.path.isdir(path):
            raise BadInput(
                f"{path} is a folder: a recipe is a file, such as {path / 'recipe.yaml'} in the folder of a run. Images are its "
                f"data: wgflow train --data {path}"
            )
        if not os.path.exists(path):
            raise BadInput(
                f"no recipe and no file is called {shortened(str(source))}: {near_misses(str(source), sorted(ready))}"
            )
        if path.suffix.lower() in (".npy", ".npz"):
            raise BadInput(f"{path} holds arrays and no recipe. Images are the data of one: wgflow train --data {path}")
        return cls.from_dict(flat_yaml(path)).trusted(path, allow_code)

    @classmethod
    @checked
    def from_dict(cls, held: dict[str, Any]) -> Self:
        """Return a recipe from plain values, also from those of a recipe of before there were methods.

        Numbers are converted where nothing is lost.
        """
        hints = typing.get_type_hints(cls, include_extras=True)
        held = as_method(held, SETTINGS["s_jko"]["lr"])
        return cls(**{k: read(hints[k], v, k) if k in hints and k != "options" else v for k, v in held.items()})

    @property
    def code(self) -> str:
        """What of a recipe is code to be imported, as ``name='package.module:NAME'``; empty for names that wgflow knows."""
        return ", ".join(f"{what}={name!r}" for what, name in self._named.items())

    @property
    def _named(self) -> dict[str, str]:
        named = {"network": self.network, "encoder": self.encoder, "autoencoder": self.autoencoder}
        return {what: name for what, name in named.items() if name is not None and ":" in name}

    def trusted(self, origin: str | Path, allow_code: bool) -> Self:
        """Return this recipe, read from ``origin``; raises ``BadInput`` when it names code that was not allowed."""
        if self.code and not allow_code:
            raise BadInput(
                f"{origin} names code to run: {self.code}. If you trust it: --allow-code on the command line, allow_code=True in "
                "Python"
            )
        return self
