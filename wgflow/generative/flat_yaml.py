"""Recipes as files: ``key: value`` lines of YAML, read with care, since they may be damaged or somebody else's."""

import re
from pathlib import Path
from typing import Any

from wgflow.core.errors import BadInput
from wgflow.core.imports import require
from wgflow.core.words import shortened
from wgflow.storage.files import read_text


def flat_yaml(path: Path) -> dict[str, Any]:
    """Return the ``key: value`` lines of a YAML file; raises ``BadInput`` for anything else.

    Only single values are made into objects: nothing can be nested.
    """
    yaml = require("yaml", extra="cli")
    text = read_text(path, "a recipe")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            held = (
                "nothing" if root is None else f"a {'list' if isinstance(root, yaml.SequenceNode) else 'single value'}"
            )
            raise BadInput(f"{path} should hold 'key: value' lines, it holds {held}")
        found: dict[str, Any] = {}
        for key, value in root.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping as key"
            if name in found:
                raise BadInput(f"{path} has {shortened(name)} twice")
            if not isinstance(value, yaml.ScalarNode):
                raise BadInput(f"{path} has a list or mapping at {shortened(name)}: expected a single value")
            found[name] = _single(
                loader.construct_object(value), value.value, f"{path} has {name}: {shortened(value.value)}"
            )
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not valid YAML: {error}") from error
    except BadInput:
        raise
    except (RecursionError, ValueError, OverflowError, LookupError, AttributeError) as error:
        # Nested too deep; dates, numbers and truths that are none.
        raise BadInput(f"{path} is not valid YAML: {shortened(str(error))}") from error
    return found


def _single(value: Any, text: str, where: str) -> Any:
    """Return a value of a YAML file; raises ``BadInput`` for numbers that YAML 1.1 alone takes for octal or sexagesimal ones."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and (":" in text or re.fullmatch(r"[+-]?0[\d_]+", text)):
        raise BadInput(f"{where}, which YAML reads as {value}: write the number that is meant in decimal digits")
    return value
