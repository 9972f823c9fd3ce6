"""The example that compares generators among principal components runs, and shows what its first lines say."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "latent_images.py"
pytest.importorskip("torchvision")


def rows(tmp_path, monkeypatch, *options: str) -> dict[str, dict[str, float]]:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--quick", "--out", str(tmp_path / "found"), *options])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert (tmp_path / "found.png").stat().st_size > 1000
    return json.loads((tmp_path / "found.json").read_text())


def test_training_codes_with_noise_are_as_near_as_real_images_and_are_seen_to_be_copies(tmp_path, monkeypatch, capsys):
    found = rows(tmp_path, monkeypatch, "--models", "normal law", "training codes + noise")
    copies, normal = found["training codes + noise"], found["normal law"]
    assert copies["sinkhorn_excess"] < 0.2 * normal["sinkhorn_excess"]
    assert copies["memorized"] > 0.8
    assert normal["memorized"] == 0
    assert copies["log_prob_held_out"] < normal["log_prob_held_out"]
    assert "nearer than a real point" in capsys.readouterr().out


@pytest.mark.slow
def test_all_models_run(tmp_path, monkeypatch):
    found = rows(tmp_path, monkeypatch)
    assert {name for name, row in found.items() if row["memorized"] > 0.5} == {"training codes + noise"}
