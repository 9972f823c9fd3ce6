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

from wgflow.core.rng import generator, mixed

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


def test_an_autoencoder_encodes_every_image_on_one_of_the_processes(ranks: list[dict[str, Any]]) -> None:
    """Of 16 images, three at a time and mirrored ones apart: 3 + 2 + 3 on the first, 3 + 3 + 2 on the other; codes as in one."""
    assert [found["encoded"] for found in ranks] == [8, 8]


def test_a_download_that_fails_says_the_same_on_all(ranks: list[dict[str, Any]]) -> None:
    first, other = (found["offline"] for found in ranks)
    assert other == first.replace("DataNotFound: ", "DataNotFound: rank 0: ")
    assert first.startswith("DataNotFound: mnist is not there")
    assert "no route to host" in first


def test_an_evaluation_may_take_longer_than_a_collective(ranks: list[dict[str, Any]]) -> None:
    """At the start, at the second and at the fourth update; all processes record what the first has found."""
    assert [found["slow"] for found in ranks] == [[2.0, 3.0]] * WORLD


def test_metrics_are_dealt_and_look_at_the_same_network(ranks: list[dict[str, Any]]) -> None:
    """That of the first: statistics of batches, of which every process sees a share, differ from rank to rank."""
    assert ranks[0]["variances"] != ranks[1]["variances"]
    first, other = (found["dealt"] for found in ranks)
    numbers = {name: value for name, value in first.items() if name[0] in "abc" and " " in name}
    assert numbers == {name: other[name] for name in numbers}
    assert [numbers[f"{name} rank"] for name in "abc"] == [0, 1, 0]
    assert numbers["a mean"] == numbers["b mean"] == numbers["c mean"]
    seeds = [mixed(0, first["update"], j) for j in range(3)]
    alone = [float(torch.rand((), generator=generator(seed))) for seed in seeds]
    assert [numbers[f"{name} drawn"] for name in "abc"] == alone, "as in a single process"


def test_a_metric_that_fails_on_another_process_ends_the_run_on_all(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["broken"] == "WgflowError: rank 1 failed: ValueError: b has no value"
    assert ranks[1]["broken"] == "ValueError: b has no value"


def test_metrics_that_only_the_first_process_has_are_evaluated_there(ranks: list[dict[str, Any]]) -> None:
    """In a run whose first process also works alone, in a callback, for longer than a collective may take."""
    for found in ranks:
        assert [found["unequal"][f"{name} rank"] for name in "ab"] == [0, 0]


def test_an_evaluation_that_fails_ends_the_run_on_all(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["failing"] == "ValueError: no value"
    assert ranks[1]["failing"] == "WgflowError: rank 0 failed: ValueError: no value"


def test_a_process_that_ends_alone_is_named_to_the_one_that_waits(ranks: list[dict[str, Any]]) -> None:
    assert ranks[1]["left"] == "ValueError: the user's own, outside of a flow"
    assert ranks[0]["left"].startswith("WgflowError: process 0 of 2 waited for another one that has ended")
