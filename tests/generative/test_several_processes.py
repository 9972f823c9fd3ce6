"""Processes that train together: one works alone for long, on a download or an evaluation, and the others live on."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("torchvision")
if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("this build of torch has no gloo, the backend between processes on CPUs", allow_module_level=True)

from _several_processes_child import work

WORLD = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (WORLD, path, port), nprocs=WORLD)
    return path


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(WORLD)]


def test_one_process_of_a_machine_downloads_and_all_have_the_data(ranks: list[dict[str, Any]], folder: Path) -> None:
    assert [found["images"] for found in ranks] == [5, 5]
    assert len(list((folder / "online").glob("fetched-*"))) == 1


def test_a_download_that_fails_says_the_same_on_all(ranks: list[dict[str, Any]]) -> None:
    first, other = (found["offline"] for found in ranks)
    assert first == other
    assert first.startswith("DataNotFound: mnist is not there")
    assert "no route to host" in first


def test_an_evaluation_may_take_longer_than_a_collective(ranks: list[dict[str, Any]]) -> None:
    """At the start, at the second and at the fourth update; all processes record what the first has found."""
    assert [found["slow"] for found in ranks] == [[2.0, 3.0]] * WORLD


def test_an_evaluation_that_fails_ends_the_run_on_all(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["failing"] == "ValueError: no value"
    assert ranks[1]["failing"] == "WgflowError: rank 0 failed: ValueError: no value"
