"""Optional packages, imported where they are used and nowhere else."""

import importlib
import os
from types import ModuleType

from wgflow.core.errors import MissingDependency


def require(module: str, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of wgflow installs it.

    Parameters
    ----------
    module : str
        Dotted module name, for example ``"torchvision.datasets"``.
    extra : str
        The extra of wgflow that brings it, for example ``"image"``.

    Raises
    ------
    MissingDependency
        When the package is absent, or present but built for another torch.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise MissingDependency(
            f"{module} is needed here and cannot be imported ({error}). Install it with: pip install 'wgflow[{extra}]'",
            name=package,
        ) from error
    except ValueError as error:  # matplotlib reads the environment as it is imported
        if package != "matplotlib" or "MPLBACKEND" not in os.environ:
            raise
        raise MissingDependency(
            f"{module} cannot be imported with MPLBACKEND={os.environ['MPLBACKEND']!r} in the environment: unset it",
            name=package,
        ) from error
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        raise MissingDependency(
            "torchvision was built for another version of torch (its operators are missing). Install both from the "
            "same index, in one command: pip install --upgrade torch torchvision",
            name=package,
        ) from error
