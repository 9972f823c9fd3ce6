"""A tiny finished run, made once for all tests of images."""

from pathlib import Path

import numpy as np
import pytest

SETTINGS = dict(channels=4, batch=8, num_steps=2, first_iters=3, iters=3, evaluate_every=3, sinkhorn_n=10)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of 8 x 8 in a file."""
    path = tmp_path_factory.mktemp("pictures") / "digits.npz"
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    return path


@pytest.fixture(scope="session")
def options(pictures: Path) -> list[str]:
    """Options of a training of seconds."""
    chosen = SETTINGS | {"data": pictures, "device": "cpu"}
    return [word for name, value in chosen.items() for word in (f"--{name}", str(value))]


@pytest.fixture(scope="session")
def trained(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run; to be copied, not changed."""
    pytest.importorskip("torchvision")
    pytest.importorskip("safetensors")
    from wgflow.cli import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", *options, "--folder", str(folder)]) == 0
    return folder
