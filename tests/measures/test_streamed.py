"""Data that stay on the host: the same draws as in memory, read ahead where the next one can be expected."""

import copy
import pickle
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from _compare import assert_same, whole
from _exact import rng
from _flows import Interrupt, Stop, files

import wgflow as wg
from wgflow.generative import ImageData
from wgflow.measures import streamed
from wgflow.storage.describe import describe

N = 500


@pytest.fixture
def mapped(tmp_path: Path) -> torch.Tensor:
    """Points of a file that is mapped, not read."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((N, 3), dtype=np.float32))
    return torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))


PIXELS = torch.randint(256, (40, 3, 4, 4), dtype=torch.uint8, generator=rng(1))
LABELS = torch.arange(N) % 4
BASES = {
    "points": lambda x: wg.Dataset(x),
    "weights": lambda x: wg.Dataset(x, log_w=torch.linspace(-3, 0, N)),
    "labels": lambda x: wg.Labelled(wg.Dataset(x, labels=LABELS)),
    "images, mirrored": lambda x: ImageData(PIXELS, flip=True),
    "weighted particles": lambda x: wg.Particles(x, torch.linspace(-3, 0, N)),
}


@pytest.mark.parametrize("name", BASES)
def test_draws_are_those_of_the_base(mapped, name):
    base = BASES[name](mapped)
    ours, theirs = wg.Streamed(base), base
    a, b = rng(5), rng(5)
    for n in (7, 7, 7, 3, 7, 7):
        p, q = ours.draw(n, a), theirs.draw(n, b)
        assert torch.equal(p.x, q.x)
        assert p.log_w is q.log_w is None or torch.equal(p.log_w, q.log_w)
        assert torch.equal(a.get_state(), b.get_state())
        if n == 3:  # and something else in between
            assert torch.equal(torch.randn(2, generator=a), torch.randn(2, generator=b))
    assert torch.equal(ours.whole(a).x, theirs.whole(b).x)
    assert (ours.num_atoms, ours.num_points, ours.event_shape) == (
        theirs.num_atoms,
        theirs.num_points,
        theirs.event_shape,
    )


@dataclass(frozen=True, eq=False)
class Watched(wg.Dataset):
    """Remembers the threads that have drawn."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "_threads", [])

    def draw(self, n, rng):
        self._threads.append(threading.current_thread() is threading.main_thread())
        return super().draw(n, rng)


def test_the_next_batch_is_read_beside_the_flow_where_it_can_be_expected(mapped):
    data, flow = Watched(mapped), rng(3)
    law = wg.Streamed(data)
    for n in (8, 8, 8, 8):
        law.draw(n, flow)
    law._ahead.beside.wait()
    assert data._threads == [True, True, False, False, False], "the last one would be the next"
    torch.randn(1, generator=flow)
    law.draw(8, flow)
    assert data._threads[5:] == [True], "what was expected did not come"


def test_draws_by_turns_of_two_sizes_are_expected(mapped):
    data, flow = Watched(mapped), rng(3)
    law = wg.Streamed(data)
    for _ in range(4):
        law.draw(8, flow)
        law.draw(3, flow)
    law._ahead.beside.wait()
    assert data._threads[-4:] == [False] * 4


def test_a_gap_of_the_generator_of_a_gpu_is_expected_again():
    """Its state is a seed and how far it has come: the arithmetic needs no GPU."""
    state = lambda seed, come: torch.tensor([seed, come]).view(torch.uint8)  # noqa: E731
    assert streamed._gap(state(7, 4), state(7, 24)) == 20
    assert streamed._gap(state(7, 4), state(8, 24)) is None
    assert torch.equal(streamed._further(state(7, 100), 20), state(7, 120))
    assert streamed._gap(rng(0).get_state(), rng(1).get_state()) is None


def solve(target: wg.Measure, folder: Path | None = None, *callbacks: wg.Callback) -> wg.Solution:
    start = wg.Particles(torch.randn(20, 3, generator=rng(2)))
    save = None if folder is None else wg.Checkpoint(folder, every_updates=2)
    F = 0.5 * wg.EnergyDistance(target, batch=16)
    return wg.solve(F, wg.ForwardEuler(), start, step_size=0.5, num_steps=8, checkpoint=save, callbacks=callbacks)


def test_a_flow_is_the_one_with_the_data_in_memory(mapped):
    data = Watched(mapped)
    assert torch.equal(solve(wg.Streamed(data)).measure.x, solve(wg.Dataset(mapped.clone())).measure.x)
    assert data._threads.count(False) >= 4


@pytest.mark.parametrize("streamed_first", [True, False])
def test_a_batch_that_was_read_ahead_is_neither_lost_nor_drawn_twice(mapped, tmp_path, streamed_first):
    laws = [wg.Streamed(wg.Dataset(mapped)), wg.Dataset(mapped)]
    first, then = laws if streamed_first else laws[::-1]
    solve(first, tmp_path / "whole")
    with pytest.raises(Stop):
        solve(first, tmp_path / "parts", Interrupt(5))
    solve(then, tmp_path / "parts")
    assert_same(*({**whole(files(tmp_path / name)[0]), "callbacks": None} for name in ("parts", "whole")))


def test_the_data_stay_where_they_are_when_a_flow_is_moved(mapped):
    law = wg.Streamed(wg.Dataset(mapped))
    assert wg.EnergyDistance(law, batch=4).to(torch.float64).target.draw(3, rng()).x.dtype == torch.float64
    moved = wg.EnergyDistance(law, batch=4).to("meta").target
    assert (moved.device.type, moved.base.x.device.type) == ("meta", "cpu")
    assert moved._ahead is not law._ahead


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda law: pickle.loads(pickle.dumps(law))])
def test_a_copy_of_a_law_that_reads_ahead_draws_the_same(mapped, copied):
    law, a, b = wg.Streamed(wg.Dataset(mapped)), rng(5), rng(5)
    for _ in range(3):
        law.draw(8, a)
        law.base.draw(8, b)
    assert torch.equal(copied(law).draw(8, a).x, law.base.draw(8, b).x)


def test_an_error_of_the_reader_reaches_the_flow(mapped):
    class Torn(wg.Dataset):
        def draw(self, n, rng):
            if threading.current_thread() is not threading.main_thread():
                raise OSError("the disk is gone")
            return super().draw(n, rng)

    with pytest.raises(OSError, match="the disk is gone"):
        solve(wg.Streamed(Torn(mapped)))


def test_what_is_not_on_the_host_is_refused():
    with pytest.raises(wg.BadInput, match=r"Streamed\(base=StandardNormal\): its points are on meta already"):
        wg.Streamed(wg.StandardNormal(2, device="meta"))
    with pytest.raises(wg.BadInput, match="device"):
        wg.Streamed(wg.Dataset(torch.ones(2, 2)), device="the moon")
    with pytest.raises(wg.BadInput, match="base"):
        wg.Streamed("points.npy")


def test_points_that_are_not_finite_are_found_part_by_part(monkeypatch):
    monkeypatch.setattr("wgflow.measures.dataset._PART", 4)
    x = torch.ones(5, 2)
    x[1, 0], x[4, 1] = torch.nan, torch.inf
    with pytest.raises(wg.BadInput, match=r"2 of the 5 points of this Dataset are not finite, x\[1, 0\] = nan"):
        wg.Dataset(x)


def test_a_run_is_told_by_its_data_wherever_they_are(mapped):
    assert describe(wg.Streamed(wg.Dataset(mapped))) == describe(wg.Dataset(mapped.clone()))
    assert describe(mapped.view(50, 10, 3).transpose(1, 2)) == describe(
        mapped.view(50, 10, 3).transpose(1, 2).contiguous()
    )
