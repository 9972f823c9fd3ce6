"""Pictures hold what they say: positions, weights, exact curves, the frames of a film."""

import copy
import math
import os
import pickle
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.quiver import Quiver  # noqa: E402
from PIL import Image  # noqa: E402

from wgflow import (  # noqa: E402
    RBF,
    Annealed,
    Autograd,
    BadInput,
    Blob,
    CannotWrite,
    Critic,
    Dataset,
    EnergyDistance,
    Evaluate,
    ForwardEuler,
    GaussianMixture,
    InteractionEnergy,
    KernelDensity,
    MedianRBF,
    MissingDependency,
    NearestRBF,
    Particles,
    PotentialEnergy,
    PowerLaw,
    Save,
    SlicedWasserstein,
    SquaredMMD,
    StandardNormal,
    Stein,
    Unnormalised,
    plotting,
    solve,
)
from wgflow.estimators.probe import velocity_at  # noqa: E402
from wgflow.metrics import FunctionalValue, Memorization  # noqa: E402
from wgflow.reference import Barenblatt  # noqa: E402


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def square(x):
    return 0.5 * x.flatten(1).square().sum(1)


V = PotentialEnergy(square)


def cloud(n=30, d=2, weighted=False, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=rng, dtype=dtype)
    return Particles(x, torch.randn(n, generator=rng, dtype=dtype) if weighted else None)


def flow(d=2, steps=10, h=0.1, **options):
    return solve(V, ForwardEuler(), cloud(d=d), step_size=h, num_steps=steps, **options)


def dots(ax):
    return ax.collections[-1].get_offsets()


# Particles --------------------------------------------------------------------------------------------------------


def test_a_picture_a_time_with_the_particles_of_that_time():
    solution = flow()
    figure = plotting.particles(solution, over=StandardNormal(2), times=[0.0, 0.52, 1.0])
    assert [ax.get_title() for ax in figure.axes] == ["t = 0", "t = 0.5", "t = 1"]
    for ax, k in zip(figure.axes, (0, 5, 10), strict=True):
        np.testing.assert_allclose(dots(ax), solution.saved[k].x)


def test_areas_are_the_weights():
    rho = cloud(weighted=True)
    sizes = plotting.particles(rho, ax=plt.figure().gca()).collections[-1].get_sizes()
    np.testing.assert_allclose(sizes / sizes.sum(), rho.w, rtol=1e-5)


def test_a_density_is_darkest_where_it_is_highest():
    target = GaussianMixture(torch.tensor([[-2.0, 0.0], [2.0, 0.0]]), 0.5, torch.tensor([0.2, 0.8]))
    figure = plotting.particles(cloud(), over=target, limits=[(-4, 4), (-3, 3)])
    figure.canvas.draw()
    ax = figure.axes[0]
    pixels = np.asarray(figure.canvas.buffer_rgba())[::-1, :, 0]
    seen = {x: pixels[tuple(int(v) for v in ax.transData.transform((x, 0.0))[::-1])] for x in (-3.9, -2.0, 2.0)}
    contours = next(c for c in ax.collections if c.get_array() is not None)
    assert len(contours.levels) == 7  # six regions
    # particles may cover the right pixel: they are not grey, and darker still in red
    assert seen[2.0] < seen[-2.0] < seen[-3.9]


@pytest.mark.parametrize("shift", [0.0, 7.0])
def test_an_unnormalised_density_on_a_line_gets_mass_one(shift):
    target = Unnormalised(lambda x: shift - 0.5 * x[:, 0].square(), 1)
    ax = plotting.particles(cloud(d=1), over=target, limits=[(-2, 2)], ax=plt.figure().gca())
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-3)


def test_a_histogram_is_weighted_and_has_mass_one():
    rho = Particles(torch.tensor([[0.0], [1.0]]), torch.tensor([0.25, 0.75]).log())
    ax = plotting.particles(rho, ax=plt.figure().gca())
    bars = ax.patches[0].get_data()
    heights = bars.values[bars.values > 0]
    np.testing.assert_allclose(heights * np.diff(bars.edges)[0], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(dots(ax), [[0, 0], [1, 0]])


def test_beads_lie_on_the_potential():
    ax = plotting.particles(cloud(d=1), over=square, ax=plt.figure().gca())
    np.testing.assert_allclose(dots(ax)[:, 1], square(cloud(d=1).x), rtol=1e-6)
    graph = ax.lines[0].get_xydata()
    np.testing.assert_allclose(graph[:, 1], graph[:, 0] ** 2 / 2, atol=1e-5)


def test_samples_of_a_target_are_drawn():
    x = torch.rand(40, 2)
    ax = plotting.particles(cloud(), over=Dataset(x), ax=plt.figure().gca())
    drawn = {tuple(p) for p in np.round(ax.collections[0].get_offsets(), 5)}
    assert drawn <= {tuple(p) for p in np.round(x.double().numpy(), 5)}


def test_an_exact_law_moves_with_the_particles():
    exact = Barenblatt(d=1, m=2.0, time=0.1)
    solution = solve(V, ForwardEuler(), exact.draw(20, torch.Generator()), step_size=0.45, num_steps=2)
    figure = plotting.particles(solution, over=plotting.Moving(exact.flow), times=2)
    for ax, t in zip(figure.axes, (0.0, 0.9), strict=True):
        law = exact.flow(t)
        edge = ax.collections[0].get_paths()[0].vertices
        outline = edge[(edge[:, 1] > 1e-9), 0]
        assert np.abs(outline).max() == pytest.approx(law.radius, abs=0.01)


def test_chosen_coordinates_of_many():
    rho = cloud(d=5)
    ax = plotting.particles(rho, dims=(3, 1), over=StandardNormal(5), ax=plt.figure().gca())
    np.testing.assert_allclose(dots(ax), rho.x[:, [3, 1]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("coordinate 3", "coordinate 1")
    image = Particles(rho.x.view(30, 5, 1, 1))
    np.testing.assert_allclose(dots(plotting.particles(image, dims=2, ax=plt.figure().gca()))[:, 0], rho.x[:, 2])


# Paths, fields ----------------------------------------------------------------------------------------------------


def test_paths_are_those_of_the_particles():
    solution = flow()
    ax = plotting.trajectories(solution, over=square, count=4, ax=plt.figure().gca())
    (lines,) = [c for c in ax.collections if type(c).__name__ == "LineCollection"]
    chosen = [0, 10, 19, 29]
    for path, i in zip(lines.get_segments(), chosen, strict=True):
        np.testing.assert_allclose(path, torch.stack([s.x[i] for s in solution.saved]), rtol=1e-6)
    np.testing.assert_allclose(dots(ax), solution.saved[-1].x[chosen])


def test_paths_on_a_line_are_against_time():
    solution = flow(d=1)
    ax = plotting.trajectories(solution, over=StandardNormal(1), count=1, ax=plt.figure().gca())
    (path,) = ax.collections[0].get_segments()
    np.testing.assert_allclose(path, [[t, s.x[0].item()] for t, s in zip(solution.times, solution.saved, strict=True)])


def test_arrows_are_the_velocity():
    ax = plotting.vector_field(V, cloud(), grid=5, limits=[(-1, 1), (-2, 2)], ax=plt.figure().gca())
    arrows = next(c for c in ax.collections if type(c).__name__ == "Quiver")
    np.testing.assert_allclose(np.stack([arrows.U, arrows.V]), -np.stack([arrows.X, arrows.Y]), atol=1e-4)


def test_the_field_of_a_solution_is_that_of_its_last_law():
    c = InteractionEnergy(PowerLaw(2))
    start = Particles(cloud(d=1, dtype=torch.float64).x + 3)
    solution = solve(V, ForwardEuler(), start, step_size=0.5, num_steps=2)  # the mean falls to a quarter
    ax = plotting.vector_field(c, solution, grid=3, limits=[(0, 2)], ax=plt.figure().gca())
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), start.x.mean().item() / 4 - np.array([0, 1, 2]), atol=1e-5)


def test_a_critic_is_asked_where_it_is():
    from torch import nn

    es = type("State", (), {"net": nn.Linear(2, 1)})()
    critic = Critic(lambda: nn.Linear(2, 1))
    es = critic.init(EnergyDistance(StandardNormal(2)), torch.Generator())
    y = torch.randn(7, 2)
    v = velocity_at(critic, EnergyDistance(StandardNormal(2)), cloud(), es, y)
    np.testing.assert_allclose(v, es.net.weight.detach().expand(7, 2), rtol=1e-6)  # high on data


target = cloud(20, weighted=True, dtype=torch.float64)
CASES = {
    "potential": (V, Autograd()),
    "attraction": (InteractionEnergy(PowerLaw(2)), Autograd()),
    "mmd": (0.5 * SquaredMMD(Particles(target.x + 1), RBF(1.0)), Autograd()),
    "energy distance": (EnergyDistance(Particles(target.x + 1)), Autograd()),
    "sliced": (SlicedWasserstein(target, directions=10), Autograd()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_probe_sees_what_a_light_particle_sees(name):
    """Against a central difference of F in the mass of a small particle: phi(y) = dF/dm, v = -grad phi."""
    F, estimator = CASES[name]
    F = F.freeze(torch.Generator().manual_seed(0))
    rho = cloud(weighted=True, dtype=torch.float64)
    y = torch.tensor([[0.3, -0.2], [1.5, 2.0]], dtype=torch.float64)
    v = velocity_at(estimator, F, rho, None, y)

    def phi(point, mass=1e-6):
        w = torch.cat([rho.w * (1 - mass), rho.w.new_tensor([mass])])
        return F.value(Particles(torch.cat([rho.x, point[None]]), w.log())) / mass

    d = 1e-4
    for j, point in enumerate(y):
        slopes = [(phi(point + d * e) - phi(point - d * e)) / (2 * d) for e in torch.eye(2, dtype=torch.float64)]
        torch.testing.assert_close(v[j], -torch.stack(slopes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "estimator",
    [Stein(MedianRBF()), Blob(KernelDensity(NearestRBF(2.0))), Stein(RBF(0.7))],
    ids=["stein rule", "blob rule", "stein"],
)
def test_probes_on_particles_move_with_them_and_rules_do_not_see_probes(estimator):
    from wgflow import KL

    F = KL(StandardNormal(2, dtype=torch.float64))
    rho = cloud(weighted=True, dtype=torch.float64)
    v = velocity_at(estimator, F, rho, None, rho.x[:9])
    torch.testing.assert_close(v, estimator.velocity(F, rho, None)[:9], rtol=1e-5, atol=1e-6)


# Curves -----------------------------------------------------------------------------------------------------------


def test_energy_against_its_exact_curve():
    """Forward Euler on |x|²/2 multiplies the energy by (1 - h)² a step; the flow by exp(-2t)."""
    solution, start = flow(), V.value(cloud()).item()
    figure = plotting.energy({"Euler": solution}, V, exact=lambda t: start * math.exp(-2 * t), floor=0.01)
    exact, values, floor = figure.axes[0].lines
    np.testing.assert_allclose(values.get_xdata(), 0.1 * np.arange(11))
    np.testing.assert_allclose(values.get_ydata(), start * 0.81 ** np.arange(11), rtol=1e-5)
    np.testing.assert_allclose(exact.get_ydata(), start * np.exp(-2 * exact.get_xdata()), rtol=1e-6)
    assert set(floor.get_ydata()) == {0.01}
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["exact", "Euler", "floor"]


def test_logarithmic_where_it_says_something():
    assert plotting.energy(flow(steps=20), V).axes[0].get_yscale() == "log"
    assert plotting.energy(flow(steps=5), V).axes[0].get_yscale() == "linear"
    assert plotting.energy(flow(steps=20), V, minimum=1.0).axes[0].get_yscale() == "linear"  # negative values
    assert plotting.energy(flow(steps=20), V, scale="linear").axes[0].get_yscale() == "linear"


def test_a_key_of_the_history():
    solution = flow(callbacks=[Evaluate([FunctionalValue(V)])])
    ax = plotting.energy(solution, ax=plt.figure().gca())
    _, along = plotting.values_along(solution, V)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), along[1:], rtol=1e-6)


def test_what_changes_from_step_to_step_is_that_of_the_step_where_a_flow_goes_on():
    first = flow(steps=3)
    rest = solve(V, ForwardEuler(), first.measure, state=first.state, step_size=0.1, num_steps=6)
    times, values = plotting.values_along(rest, Annealed(lambda s: s * V, lambda k: 0.5**k))
    energies = plotting.values_along(rest, V)[1]
    np.testing.assert_allclose(values, np.array(energies) * 0.5 ** np.array([3, 4, 5, 6]), rtol=1e-6)
    assert times[0] == first.times[-1]


def test_a_function_of_particles():
    _, means = plotting.values_along(flow(), lambda rho: rho.x.mean())
    np.testing.assert_allclose(means, cloud().x.mean().item() * 0.9 ** np.arange(11), rtol=1e-5)


def test_one_batch_of_a_target_along_a_solution():
    standing = solve(PotentialEnergy(lambda x: 0 * x.sum(1)), ForwardEuler(), cloud(), step_size=1.0, num_steps=2)
    _, values = plotting.values_along(standing, EnergyDistance(StandardNormal(2)))
    assert values[0] == values[1] == values[2]


def test_orders_are_fitted_and_compared():
    h = np.array([0.1, 0.05, 0.025])
    figure = plotting.order(h, {"one": 3 * h, "two": h**2}, slopes=(1, 2))
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["one (1.00)", "two (2.00)"]
    for line, p in zip(figure.axes[0].lines[2:], (1, 2), strict=True):
        x, y = line.get_data()
        np.testing.assert_allclose(np.diff(np.log(y)) / np.diff(np.log(x)), p)


# Films ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "asked", "frames"), [(10, 150, 11), (10, 4, 4)])
def test_a_gif_has_the_frames_asked_for(tmp_path, steps, asked, frames):
    film = plotting.animate(
        flow(steps=steps), tmp_path / "flow.gif", square, quantity=V, max_frames=asked, fps=10, dpi=40, progress=False
    )
    with Image.open(film.path) as gif:
        assert gif.n_frames == film.frames == frames
        assert gif.size == (288, 144)
        assert gif.info["duration"] == 100
        stills = [np.asarray((gif.seek(i), gif.convert("RGB"))[1]).astype(int) for i in range(frames)]
    blue = [(s[..., 2] - s[..., 0] > 100) for s in stills]
    spread = [np.ptp(np.nonzero(b[:, :140])[0]) for b in blue]
    assert spread[-1] < 0.6 * spread[0]  # the cloud contracts by 0.9^10
    assert (stills[0][0, 0] == 255).all()
    assert film._repr_html_().startswith('<img src="data:image/gif;base64,R0lGOD')


@pytest.mark.parametrize(
    ("fps", "delays"),
    [(20, [50] * 11), (30, [30, 40, 30] * 3 + [30, 40]), (50, [20] * 11), (60, [20] * 9)],
)
def test_delays_of_a_gif_are_whole_hundredths_and_the_film_lasts_as_long(tmp_path, fps, delays):
    film = plotting.animate(flow(steps=10), tmp_path / "flow.gif", fps=fps, dpi=40, progress=False)
    with Image.open(film.path) as gif:
        found = [(gif.seek(i), gif.info["duration"])[1] for i in range(gif.n_frames)]
    assert found == delays
    assert film.frames == len(delays)


def test_equal_pictures_are_shown_as_long_as_they_would_be_one_by_one(tmp_path):
    rest = solve(PotentialEnergy(lambda x: 0 * x.sum(1)), ForwardEuler(), cloud(), step_size=1e-6, num_steps=6)
    film = plotting.animate(rest, tmp_path / "rest.gif", fps=20, dpi=40, progress=False)
    with Image.open(film.path) as gif:
        assert gif.n_frames == film.frames == 1
        assert gif.info["duration"] == 7 * 50


def test_a_film_makes_its_folder_and_takes_the_place_of_another_when_it_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b" / "flow.gif"
    plotting.animate(flow(), path, dpi=40, progress=False)
    before = path.read_bytes()

    def fails(*args, **kwargs):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(matplotlib.axes.Axes, "draw_artist", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        plotting.animate(flow(), path, dpi=40, progress=False)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["flow.gif"]


def test_a_film_that_cannot_be_written_says_so_before_it_is_drawn(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(matplotlib.axes.Axes, "draw_artist", None)
    with pytest.raises(CannotWrite, match=r"flow\.gif"):
        plotting.animate(flow(), tmp_path / "file" / "flow.gif", progress=False)


def test_a_film_of_a_moving_law_on_a_line(tmp_path):
    exact = Barenblatt(d=1, m=2.0, time=0.1)
    solution = solve(V, ForwardEuler(), exact.draw(20, torch.Generator()), step_size=0.5, num_steps=3)
    film = plotting.animate(solution, tmp_path / "a.gif", plotting.Moving(exact.flow), dpi=40, progress=False)
    with Image.open(film.path) as gif:
        grey = []  # the width of what has exactly the shade of a target
        for i in range(gif.n_frames):
            gif.seek(i)
            grey.append(np.ptp(np.nonzero((np.asarray(gif.convert("RGB")) == round(0.85 * 255)).all(2))[1]))
    assert grey[-1] > grey[0]  # the law spreads, the particles contract


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_an_mp4(tmp_path):
    film = plotting.animate(flow(), tmp_path / "flow.mp4", dpi=41, progress=False)
    assert film.path.read_bytes()[4:8] == b"ftyp"


def test_an_mp4_without_ffmpeg(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match=r"ffmpeg.*\.gif"):
        plotting.animate(flow(), tmp_path / "flow.mp4")


# Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plotting.particles(flow(save=Save(every=0))), r"Save\(every=1\)"),
        (lambda: plotting.particles(flow(save=Save(fn=lambda s: s.k))), "are int, not particles"),
        (lambda: plotting.particles(cloud(d=5)), r"dims=\(i, j\)"),
        (lambda: plotting.particles(cloud(d=5), dims=(1, 1)), "different coordinates"),
        (lambda: plotting.particles(cloud(d=5), dims=(0, 5)), "between 0 and 4"),
        (lambda: plotting.particles(cloud(d=5), over=square, dims=(0, 1)), "function of all 5 coordinates"),
        (lambda: plotting.particles(Particles(torch.tensor([[1.0, math.nan]]))), "not finite"),
        (lambda: plotting.particles("flow"), "expected a Solution, or a Particles"),
        (lambda: plotting.particles(cloud(), over=StandardNormal(3)), r"shape \(3,\)"),
        (lambda: plotting.particles(cloud(), over=3.0), "expected a Measure, a function of 1 argument"),
        (lambda: plotting.particles(cloud(), over=lambda x: x), "a potential must map"),
        (lambda: plotting.particles(flow(), times=[]), "empty"),
        (lambda: plotting.particles(flow(), times=0), "times=0"),
        (lambda: plotting.particles(flow(), times=3, ax=plt.figure().gca()), "do not fit"),
        (lambda: plotting.particles(cloud(), limits=[(0, 1)]), "expected 2 pairs"),
        (lambda: plotting.trajectories(flow(steps=1, save=Save(every=0))), "no saved states"),
        (lambda: plotting.trajectories(cloud()), "expected a Solution"),
        (lambda: plotting.vector_field(V, cloud(), grid=1), "grid=1"),
        (lambda: plotting.energy(flow()), "Pass the functional"),
        (lambda: plotting.energy({}), "at least one solution"),
        (lambda: plotting.energy(flow(), V, scale="cubic"), "cubic"),
        (lambda: plotting.order([0.1, 0.05], {"a": [0.1, 0.0]}), "positive"),
        (lambda: plotting.order([0.1, 0.05], {"a": [0.1]}), "one a step size"),
        (lambda: plotting.order([0.1, 0.05], {}), "at least one method"),
        (lambda: plotting.animate(flow(), "flow.avi"), r"\.gif or \.mp4"),
        (lambda: plotting.animate(flow(), "flow.gif", max_frames=10_000), "at most 600 frames"),
        (lambda: plotting.animate(flow(), "flow.gif", dpi=10_000), "pixels"),
        (lambda: plotting.animate(flow(), "flow.gif", dpi=1), "dpi=1: expected at least 10"),
        (lambda: plotting.animate(flow(), "flow.gif", fps=0), "fps=0"),
        (lambda: plotting.animate(flow(), "flow.gif", fps=12.5), "fps=12.5"),
        (lambda: plotting.animate(cloud(), "flow.gif"), "expected a Solution"),
        (lambda: plotting.animate(flow(), "flow.gif", fps=100), "at most 50 pictures a second"),
        (lambda: plotting.particles(cloud(), ax=plt.figure()), "expected Axes"),
        (lambda: plotting.trajectories(flow(), count=True), "count=True"),
        (lambda: plotting.particles(cloud(), color="bluish"), "expected a color"),
        (lambda: plotting.energy(flow(), lambda rho: rho.x), "must return a number"),
        (lambda: plotting.energy(flow(), V, exact=lambda t: None), "exact must return a number"),
        (lambda: plotting.vector_field(V, cloud(), seed=-1), "seed=-1"),
        (lambda: velocity_at(Autograd(), V, cloud(), None, torch.zeros(1, 3)), "unlike the particles"),
        (lambda: velocity_at(Autograd(), V, cloud(), None, torch.zeros(1, 2), mass=0.0), "mass=0"),
    ],
)
def test_what_cannot_be_drawn(call, says):
    with pytest.raises(BadInput, match=says):
        call()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "over",
    [None, square, StandardNormal(2), Dataset(torch.ones(2, 2))],
    ids=["nothing", "potential", "density", "samples"],
)
def test_particles_at_one_place_are_drawn_all_the_same(over, tmp_path):
    one = Particles(torch.ones(3, 2), torch.tensor([0.0, 0.0, -math.inf]))
    still = solve(PotentialEnergy(lambda x: 0 * x.sum(1)), ForwardEuler(), one, step_size=1.0, num_steps=1)
    plotting.particles(still, over=over).canvas.draw()
    plotting.trajectories(still, over=over).canvas.draw()
    plotting.vector_field(V, still, over=over).canvas.draw()
    assert plotting.animate(still, tmp_path / "a.gif", over, quantity=V, dpi=30, progress=False).frames == 2


@pytest.mark.filterwarnings("error")
def test_a_velocity_of_zero_is_drawn_without_a_division_by_it():
    nowhere = PotentialEnergy(lambda x: 0 * x.sum(1))
    figure = plotting.vector_field(nowhere, cloud(), grid=4)
    figure.canvas.draw()
    (arrows,) = (c for c in figure.axes[0].collections if isinstance(c, Quiver))
    assert arrows.U.shape == (16,)
    assert not np.any([arrows.U, arrows.V])


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependency, match=r"wgflow\[plot\]"):
        plotting.particles(cloud())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plotting.particles(cloud()),
        lambda: plotting.trajectories(flow()),
        lambda: plotting.vector_field(V, cloud()),
        lambda: plotting.energy(flow(), V),
        lambda: plotting.order([0.1, 0.05], {"a": [0.2, 0.1]}),
        lambda: plotting.training_curves([], [{"update": 1, "loss": 2.0}]),
        lambda: plotting.memorization(Memorization(cloud().x, n=20).report(cloud(20))),
    ],
)
def test_pyplot_keeps_no_figure(draw, tmp_path):
    plt.close("all")
    figure = draw()
    assert plt.get_fignums() == []
    figure.savefig(tmp_path / "figure.png")
    picture = np.asarray(Image.open(tmp_path / "figure.png"))
    assert picture.std() > 0
    for copied in (pickle.loads(pickle.dumps(figure)), copy.deepcopy(figure)):  # from another process, say
        copied.savefig(tmp_path / "copy.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "copy.png")), picture)
    assert plt.get_fignums() == []


def test_a_notebook_shows_figures_without_pyplot(monkeypatch):
    printers = {}
    formatter = types.SimpleNamespace(type_printers=printers)
    shell = types.SimpleNamespace(display_formatter=types.SimpleNamespace(formatters={"image/png": formatter}))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    figure = plotting.particles(cloud())
    assert printers[type(figure)](figure).startswith(b"\x89PNG")


def test_the_users_settings_are_left_alone():
    before = dict(matplotlib.rcParams)
    plotting.particles(cloud())
    assert dict(matplotlib.rcParams) == before


def test_importing_plotting_imports_no_matplotlib_and_a_backend_with_windows_is_not_asked_for_one():
    code = (
        "import sys, torch, wgflow as wg, wgflow.plotting; assert 'matplotlib' not in sys.modules\n"
        "wg.plotting.particles(wg.Particles(torch.zeros(2, 2))).canvas.draw()"
    )
    held = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    subprocess.run([sys.executable, "-c", code], check=True, env=held | {"MPLBACKEND": "TkAgg"})


def test_a_backend_that_matplotlib_does_not_know_is_named() -> None:
    code = "from wgflow import plotting; import torch, wgflow; plotting.particles(wgflow.Particles(torch.zeros(3, 2)))"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"MPLBACKEND": "nonsense"}, capture_output=True, text=True
    )
    last = ran.stderr.strip().splitlines()[-1]
    assert "MissingDependency" in last
    assert "MPLBACKEND='nonsense' in the environment: unset it" in last


# Memorization -----------------------------------------------------------------------------------------------------


def test_the_closest_pairs_stand_one_above_the_other():
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = torch.cat([torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1)), x[[3]], x[[5]] * 0.99])
    figure = plotting.memorization(Memorization(x, n=40).report(drawn), pairs=10)
    histogram, *shown = figure.axes
    assert histogram.get_legend_handles_labels()[1] == ["real data", "model"]
    pictures = [ax.images[0].get_array() for ax in shown if ax.images]
    assert len(pictures) == 20
    for k, drawn_there in ((0, x[3]), (1, 0.99 * x[5])):
        np.testing.assert_allclose(shown[k].images[0].get_array(), drawn_there[0] / 2 + 0.5, atol=1e-6)
    np.testing.assert_allclose(shown[8].images[0].get_array(), x[3, 0] / 2 + 0.5, atol=1e-6)
    assert [ax.get_title() for ax in shown[:2]] == ["0.00", "0.01"]


def test_a_chance_level_is_a_line_among_the_curves_and_a_margin_is_none():
    rows = [{"update": u, "nn_ratio": 0.1 * u, "nn_ratio_chance": 0.8, "nn_ratio_margin": 0.1} for u in (0, 1)]
    titles = [ax for ax in plotting.training_curves([], rows).axes if ax.get_visible()]
    assert len(titles) == 1
    assert [line.get_ydata()[0] for line in titles[0].lines] == [0.0, 0.8]


# What a person sees -------------------------------------------------------------------------------------------------


def test_two_solutions_stand_side_by_side_in_one_film(tmp_path):
    slow, fast = (solve(V, ForwardEuler(), cloud(), step_size=h, num_steps=4) for h in (0.05, 0.2))
    film = plotting.animate(
        {"slow": slow, "fast": fast}, tmp_path / "two.gif", square, quantity=V, fps=10, dpi=40, progress=False
    )
    with Image.open(film.path) as gif:
        assert gif.size == (3 * 144, 144)
        last = (gif.seek(gif.n_frames - 1), np.asarray(gif.convert("RGB")).astype(int))[1]
    blue, orange = (last[..., 2] - last[..., 0] > 100), (last[..., 0] - last[..., 2] > 100)
    assert blue[:, :144].any()
    assert orange[:, 144:288].any()
    assert np.ptp(np.nonzero(orange[:, 144:288])[0]) < np.ptp(np.nonzero(blue[:, :144])[0])
    with pytest.raises(BadInput, match="no solution to film"):
        plotting.animate({}, tmp_path / "none.gif")


def test_points_on_scales_that_differ_fill_the_panel():
    wide = Particles(cloud().x * torch.tensor([10.0, 1.0]))
    assert plotting.particles(wide).axes[0].get_aspect() == "auto"
    assert plotting.particles(cloud()).axes[0].get_aspect() == 1.0


def test_a_missing_energy_is_told_what_a_plotter_can_do():
    with pytest.raises(BadInput, match=r"Pass the functional, energy\(solution, F\)") as caught:
        plotting.energy(flow())
    assert "'flow/dissipation'" in str(caught.value)
    assert "seconds" not in str(caught.value)


def windows(names):
    return [{"update": 50 * i, "k": i // 3} | dict.fromkeys(names, float(i)) for i in range(1, 9)]


@pytest.mark.parametrize(("metrics", "reported", "panels"), [(1, 0, 1), (2, 3, 4), (2, 7, 8), (9, 30, 8), (0, 6, 6)])
def test_training_curves_fill_a_grid_of_at_most_eight_panels(metrics, reported, panels):
    rows = [{"update": u} | {f"metric{i}": 1.0 for i in range(metrics)} for u in (0, 100)]
    held = windows([f"critic/a{i}" for i in range(reported - 1)] + ["jko/transport"] * bool(reported))
    axes = plotting.training_curves(held, rows).axes
    assert len(axes) == panels
    assert all(ax.get_visible() and ax.lines for ax in axes)
    if reported:
        assert "jko/transport" in [ax.get_title() for ax in axes]  # before others


def test_the_energy_distance_is_the_first_curve_of_a_training():
    rows = [{"update": 0} | {f"metric{i}": 1.0 for i in range(6)} | {"energy_distance": 0.1}]
    assert plotting.training_curves([], rows).axes[0].get_title() == "energy distance"


@pytest.mark.parametrize(
    ("values", "beside", "scale"),
    [
        ((20.0, 0.5, 0.01), {}, "log"),
        ((20.0, math.nan, 0.9), {}, "log"),
        ((20.0, 1.0), {}, "linear"),
        ((20.0, 0.01, -0.01), {}, "symlog"),
        ((20.0, 0.01, -0.01), {"energy_distance_floor": 0.005}, "symlog"),
        ((20.0, 0.01, -2.0), {}, "linear"),
        ((20.0, 0.01), {"energy_distance_floor": 0.0}, "linear"),
        ((math.nan,), {}, "linear"),
    ],
)
def test_a_metric_of_a_wide_range_has_a_logarithmic_axis(values, beside, scale):
    rows = [{"update": u, "energy_distance": v} | beside for u, v in enumerate(values)]
    ax = plotting.training_curves([], rows).axes[0]
    assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    assert max(v for v in (*values, low) if math.isfinite(v)) <= high
    assert scale != "symlog" or low > 10 * min(values)  # no room for what is far below all values
    assert low <= min(v for v in (0.0 if scale == "linear" else math.inf, *values) if math.isfinite(v)) < high


def test_steps_of_a_training_are_marked_where_they_end():
    axes = plotting.training_curves(windows(["a"]), [], steps=[130, 270]).axes
    assert [line.get_xdata()[0] for line in axes[0].lines[1:]] == [130, 270]


def test_titles_are_inside_of_the_figure():
    name = "a_metric_with_a_name_that_is_longer_than_its_panel_is_wide_by_far"
    figure = plotting.training_curves([], [{"update": 0, name: 1.0}, {"update": 1, name: 2.0}])
    figure.canvas.draw()
    box, whole = figure.axes[0].title.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1
    assert box.y1 <= whole.y1


def test_figures_are_on_white_whatever_the_style_and_arrows_are_seen_on_black(tmp_path):
    with plt.style.context("dark_background"):
        figure = plotting.energy(flow(), V)
        figure.savefig(tmp_path / "a.png")
        fig, ax = plt.subplots()
        plotting.vector_field(V, cloud(), ax=ax)
        plt.close(fig)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert picture[0, 0] == 255
    assert picture.min() < 100
    assert figure.axes[0].xaxis.label.get_color() == "0.25"
    (arrows,) = [c for c in ax.collections if isinstance(c, matplotlib.quiver.Quiver)]
    assert arrows.get_facecolor()[0][0] > 0.4
