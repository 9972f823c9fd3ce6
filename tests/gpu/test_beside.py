"""What happens beside a flow on the device under test: checkpoints that are copied from it, batches that are copied to it."""

from pathlib import Path

import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow.storage.files import files, read
from wgflow.storage.state import tensors

pytestmark = pytest.mark.gpu


def test_streamed_data_draw_what_data_on_the_device_draw(device: torch.device) -> None:
    x = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0))
    held, law = wg.Dataset(x.to(device)), wg.Streamed(wg.Dataset(x), device)
    a, b = (torch.Generator(device).manual_seed(1) for _ in range(2))
    expected = 0
    for _ in range(6):
        law._ahead.beside.wait()
        expected += law._ahead.batch.n == 64 and torch.equal(law._ahead.batch.before, a.get_state())
        p, q = law.draw(64, a), held.draw(64, b)
        assert p.device.type == device.type
        assert torch.equal(p.x, q.x)
        if device.type == "cuda":  # whose generator counts what is drawn in between
            assert torch.equal(
                torch.randn(100, generator=a, device=device), torch.randn(100, generator=b, device=device)
            )
    assert expected == 4, "the first two show the gap"


def test_checkpoints_beside_a_run_hold_what_those_in_line_hold(device: torch.device, tmp_path: Path) -> None:
    class InLine(wg.Checkpoint):
        def write(self, run, callbacks, *, wait=True):
            super().write(run, callbacks, wait=True)

    held = {}
    for kind in (wg.Checkpoint, InLine):
        folder = tmp_path / kind.__name__
        wg.solve(
            wg.Softplus(wg.StandardNormal(2, device=device), batch=16),
            wg.JKO(wg.Critic(lambda: nn.Linear(2, 1)), iters=5, batch=16),
            wg.Pushforward(wg.StandardNormal(2, device=device), lambda: nn.Linear(2, 2)),
            step_size=0.1,
            num_steps=1,
            checkpoint=kind(folder, every_updates=1, keep=9),
        )
        held[kind] = [tensors(read(path)["state"]) for path in files(folder)]
    beside, in_line = held.values()
    assert len(beside) == len(in_line) == 6
    for ours, theirs in zip(beside[1:-1], in_line[1:-1], strict=True):
        assert len(ours) > 4, "weights and the moments of Adam"
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
