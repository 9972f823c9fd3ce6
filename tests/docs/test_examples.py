"""The gallery runs, and shows what its texts say."""

import math
import runpy
from pathlib import Path

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from wgflow import Particles  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def end_of_film(ns):
    assert ns["film"].frames == 66
    assert ns["film"]._repr_html_().startswith("<img")
    _, values = ns["plotting"].values_along(ns["flow"], ns["F"])
    assert values[-1] < 0.01 * values[0]


def own_parts(ns):
    """The midpoint rule is of order 2, seen at the two finest steps."""
    coarse, fine = (abs(ns["variance"](rho) - ns["exact"](0.5)) for rho in ns["ends"][-2:])
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.1)


def masses(ns):
    """Reaction moves the mass; 300 particles know it up to 0.03, the splitting at h = 0.05 up to 0.01."""
    end = {name: float(ns["left_mass"](s.measure)) for name, s in ns["modes"].items()}
    assert end["transport alone"] == pytest.approx(0.7, abs=1e-6)
    assert end["weights"] == pytest.approx(ns["exact_mass"](6.0), abs=0.01)
    assert end["birth and death"] == pytest.approx(ns["exact_mass"](6.0), abs=0.08)  # three standard deviations
    _, energies = ns["plotting"].values_along(ns["flows"]["with momentum"], ns["valley"])
    # energies oscillate through four decades; at the end both are near their exact envelopes
    assert energies[-1] < 1e-6


def frozen_and_moving(ns):
    left = {name: float(ns["left_mass"](s.measure)) for name, s in ns["solutions"].items()}
    assert left["MMD, RBF(0.3)"] == pytest.approx(0.7)
    assert left["sliced Wasserstein"] == left["Sinkhorn"] == pytest.approx(0.3)
    assert 0.3 < left["energy distance"] < 0.4 < left["MMD, RBF(0.3) + RBF(2)"] < 0.6


def known_shapes(ns):
    assert float((ns["radii"] - 1 / math.sqrt(3)).abs().max()) < 0.01
    assert ns["error"] < 1e-7
    assert ns["outermost"] == pytest.approx(math.sqrt(ns["R2"]), abs=0.06)  # half the distance of two particles


def one_step_fields(ns):
    """A narrow kernel loses modes and not quality; only one batch makes a law contract, the more the more coordinates."""
    narrow = "mean shift, one narrow kernel"
    assert ns["coverage"][narrow] > 0.4
    assert ns["quality"][narrow] > 0.9
    assert all(ns["coverage"][name] < 0.15 for name in ns["FIELDS"] if name != narrow)
    assert ns["one_batch"][-1] == pytest.approx(-0.85, abs=0.03)
    assert max(map(abs, ns["two_batches"][1:])) < 0.03


def orders(ns):
    found = {name: math.log2(e[-2] / e[-1]) for name, e in ns["errors"].items()}
    claimed = {"forward Euler": 1, "JKO": 1, "Heun": 2, "RK4": 4, "mean of Euler and JKO": 2}
    for name, order in claimed.items():
        assert found[name] == pytest.approx(order, abs=0.15)
    # the sampling error of 4e5 particles, 0.003, is up to a quarter of the error at the finest step
    assert math.log2(ns["errors"]["Langevin"][0] / ns["errors"]["Langevin"][-1]) / 3 == pytest.approx(1, abs=0.15)
    assert ns["signs"]["forward Euler"] < 0 < ns["signs"]["JKO"]


def compared(ns):
    result = ns["result"]
    for name, order in {"forward Euler": 1, "JKO": 1, "Heun": 2, "RK4": 4}.items():
        assert result.order(name).value == pytest.approx(order, abs=0.3)
    assert "sampling floor" in result.order("Langevin").reason
    calls = {name: result.of(name)[-1].gradients / result.of(name)[-1].steps for name in ("forward Euler", "JKO")}
    assert 5 < calls["JKO"] / calls["forward Euler"] < 20
    assert {row.status for row in result.of("closed form of W1")} == {"refused"}


def profiles(ns):
    quantiles = ns["exact"].flow(1.0).quantiles(ns["levels"])
    for solution in ns["both"].values():
        x = solution.measure.x[:, 0].sort().values
        assert float((x - quantiles).abs().mean()) < 0.01


def stationary_variances(ns):
    for e, blob, gfsd in zip(ns["widths"], ns["blob"], ns["gfsd"], strict=True):
        assert blob == pytest.approx(0.5 * (1 + math.sqrt(1 + 4 * e**2)) - e**2, abs=0.03)
        assert gfsd == pytest.approx(1 - e**2, abs=0.03)


def chain_of_convex_networks(ns):
    """The density of the last law integrates to 1, and to a Gaussian the certificate of a step holds."""
    cell = float(ns["side"][1] - ns["side"][0]) ** 2
    mass = float((ns["start"].base.log_prob(ns["x"]) - ns["logdets"]).exp().sum()) * cell
    assert mass == pytest.approx(1, abs=1e-3)  # a sum over the plane of pixels; the box has all but 1e-4
    for row in ns["control"][1:]:
        # Minimised to a fraction of the first gradient: both sides are within some percent of the affine step's.
        assert row["dissipation"] == pytest.approx(row["speed²"], rel=0.05)
    for rows in (ns["steps"], ns["paced"]):
        values = [row["KL"] for row in rows]
        assert values == sorted(values, reverse=True)
    constant, equal = ([row["moved²"] ** 0.5 for row in ns[rows][1:]] for rows in ("steps", "paced"))
    assert max(equal) / min(equal) < 1.5 < max(constant) / min(constant)


def persistent_targets(ns):
    F, flows = ns["W1"](ns["end"]), ns["exact"]
    bounded, plain = ([float(F.value(p)) for p in flows[name].saved] for name in ("bounded steps", "forward Euler"))
    assert bounded == sorted(bounded, reverse=True)
    assert bounded[-1] < 1e-6 < plain[-1] < 0.12  # a step
    for (problem, method), runs in ns["runs"].items():
        if "10" not in method:  # which are not stable
            ends = [ns["curve"](run)[2, -1] for run in runs]
            assert sum(ends) / len(ends) < 0.7, (problem, method)  # from 0.94 and 1


def every_class(ns):
    """Each class is drawn where its data are; 200 points against as many have an energy distance of 0.01."""
    for (_, c), points in ns["drawn"].items():
        real = ns["x"][ns["labels"] == c]
        assert float(ns["EnergyDistance"](Particles(real)).value(Particles(points))) < 0.1


def all_modes(ns):
    """Every seed reaches all modes but at most one; of a law that is uniform on the square, a quarter would be inside of one."""
    for modes, inside in ns["ends"]:
        assert modes >= 24
        assert inside > 0.75
    assert ns["coverage"](ns["runs"][0][0])[0] < 15  # and the source does not


def same_time(ns):
    assert len(ns["curves"]) == 5
    for curve in ns["curves"].values():
        assert ns["SECONDS"] <= curve[-1][0] < 1.5 * ns["SECONDS"]
        assert curve[-1][1] < 0.5 * curve[0][1]
    assert min(ns["covered"](ns["ends"][name]) for name in ("S-JKO", "W1-FE")) >= 6


def game_in_one_picture(ns):
    """Mass is kept, smoothed data lead back to the data, and a wrong start comes nearer all the way."""
    assert ns["masses"] == pytest.approx([1.0] * 5, abs=1e-12)
    assert ns["error"] < 1e-6
    assert all(a > b > 0 for a, b in zip(ns["divergence"], ns["divergence"][1:], strict=False))


def without_noise(ns):
    """BRWP ends nearer than as many independent draws, before SVGD, and a metric does away with a condition number of 100."""
    ends = {name: curve[-1] for name, curve in ns["curves"].items()}
    assert ends["BRWP"] < 0.9 * ns["floor"] < ends["ULA"]
    assert ns["curves"]["BRWP"][3] < ns["curves"]["SVGD"][3]
    assert ns["valley"]["preconditioned"][10] < 0.2 * ns["valley"]["BRWP"][10]


def copies_or_not(ns):
    """A third of a nat and more over the best round kernels; 500 draws know a share of 0.1 up to 0.04, three standard errors."""
    gain = ns["fit"].law.log_prob(ns["fresh"]).mean() - ns["kde"].log_prob(ns["fresh"]).mean()
    assert float(gain) > 1 / 3
    ours, theirs = ns["rows"]["kernel score model"], ns["rows"]["empirical kernel"]
    assert abs(ours["memorized"] - ours["memorized_chance"]) < 0.05
    assert theirs["memorized"] > 0.97


SCRIPTS = {
    "plot_25_gaussians": all_modes,
    "plot_classes": every_class,
    "plot_classic_jko": chain_of_convex_networks,
    "plot_compare_discretizations": compared,
    "plot_film": end_of_film,
    "plot_five_methods": same_time,
    "plot_your_own": own_parts,
    "plot_mean_field_game": game_in_one_picture,
    "plot_momentum_and_reaction": masses,
    "plot_two_modes": frozen_and_moving,
    "plot_interaction": known_shapes,
    "plot_one_step_generators": one_step_fields,
    "plot_orders": orders,
    "plot_porous_medium": profiles,
    "plot_proximal_samplers": without_noise,
    "plot_sampling": stationary_variances,
    "plot_w1_fe_vs_wgan": persistent_targets,
    "plot_wpo_no_memorisation": copies_or_not,
}
FAST = ("plot_film", "plot_your_own", "plot_momentum_and_reaction")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in SCRIPTS])
def test_what_the_gallery_shows(name, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    SCRIPTS[name](runpy.run_path(str(EXAMPLES / f"{name}.py")))


def test_every_script_of_the_gallery_is_here_or_tested_elsewhere():
    others = {"plot_entropies", "plot_gaussian_jko"}
    assert {p.stem for p in EXAMPLES.glob("plot_*.py")} == SCRIPTS.keys() | others
