"""The benchmark of persistence: laws and networks of the public code, scores that are known, runs that are kept."""

import json

import pytest
import torch


@pytest.fixture
def persistence(script):
    return script("persistence")


def test_laws_are_those_of_the_public_code(script):
    toys, rng = script("_w1_fe_toys"), torch.Generator().manual_seed(0)
    for name, radii, count in (("ring", (0.0, 1.0), 8), ("four Gaussians", (2.0, 1.0), 4)):
        for law, radius in zip(toys.PROBLEMS[name], radii, strict=True):
            assert law.means.norm(dim=1).tolist() == pytest.approx([radius] * len(law.means), abs=1e-6)
            x = law.draw(512, rng).x
            nearest = torch.cdist(x, law.means).argmin(1)
            assert nearest.bincount(minlength=len(law.means)).min() >= 512 // count - 3  # balanced but for overlaps
        assert len(toys.PROBLEMS[name][1].means) == count


def test_networks_are_those_of_the_public_code(script):
    toys = script("_w1_fe_toys")
    torch.manual_seed(0)
    generator, critic = toys.ResidualGenerator(), toys.critic()
    x = torch.randn(100, 2)
    assert float((generator(x) - x).detach().abs().max()) < 1e-3  # the identity at first
    hidden = 2 * 128 + 128 + 2 * (128 * 128 + 128)
    assert sum(p.numel() for p in critic.parameters()) == hidden + 128 + 1
    assert sum(p.numel() for p in generator.parameters()) == hidden + 3 * 2 * 128 + 2 * 128 + 2
    assert float(critic[2].weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    assert float(generator.net[0].weight.detach().std()) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(("problem", "published"), [("ring", 0.046), ("four Gaussians", 0.035)])
def test_the_distance_between_draws_is_the_known_floor(persistence, problem, published):
    found = persistence.floor(problem, 512)
    assert found["w1"] == pytest.approx(published, abs=0.003)


def test_scores_of_known_paths(persistence):
    def rows(*w1):
        return [{"k": 10 * i, "seconds": float(i), "w1": w, "w2": 2 * w, "realised": 0.5} for i, w in enumerate(w1)]

    found = persistence.summary([rows(1.0, 0.5, 0.2, 0.1, 0.1), rows(1.0, 0.2, 0.2, 0.3, 0.3)])
    assert found["end_w1"] == pytest.approx(0.2)
    assert found["end_w2"] == pytest.approx(0.4)
    assert found["end_w1_std"] == pytest.approx(0.2 / 2**0.5)
    assert found["near_iterations"] == 15  # the median of 20 and 10
    assert persistence.summary([rows(1.0, 0.5)])["near_iterations"] is None


def test_runs_are_kept_and_other_settings_refused(persistence, tmp_path, capsys):
    options = ["--quick", "--problems", "ring", "--persistent", "1", "3", "--results", str(tmp_path)]
    path = persistence.main(options)
    first = json.loads(path.read_text())["results"]["problems"]["ring"]
    assert list(first["methods"]) == ["K = 1 (WGAN-LP)", "K = 3", "K = 3, naive control"]
    assert [row["k"] for row in first["methods"]["K = 3"]["paths"][0]] == [0, 2, 4]
    assert (tmp_path / "w1_fe.png").exists()
    capsys.readouterr()
    persistence.main(options)
    assert " | " not in capsys.readouterr().out  # nothing was trained
    with pytest.raises(SystemExit, match="other settings"):
        persistence.main([*options, "--step-size", "0.1"])
