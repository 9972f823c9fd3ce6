"""Comparisons: errors and orders against theory, counts that are known, and rows in the place of crashes."""

import math
from dataclasses import dataclass, replace
from threading import Thread

import pytest
import torch
from _exact import double

import wgflow as wg
from wgflow import bench
from wgflow.bench.counting import counted

EXPLICIT = {"Euler": (wg.ForwardEuler(), 1), "Heun": (wg.Heun(), 2), "RK4": (wg.RK4(), 4)}
JKO = wg.JKO(optim=wg.LBFGS(tolerance=1e-9), iters=1)
X = double([[1.0], [-0.5]])


def quadratic(**more: object) -> bench.Problem:
    """x' = -x."""
    V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    settings = {"times": (1.0,), "step_sizes": (0.2, 0.1, 0.05)} | more
    return bench.Problem(V, wg.Particles(X), lambda t: math.exp(-t) * X, **settings)


def compare(problem: bench.Problem, methods: object = None, **options: object) -> bench.Result:
    return bench.compare(problem, methods, progress=False, **options)


def test_errors_are_those_of_the_formulas() -> None:
    """A step multiplies by 1 - h, by 1 - h + h²/2, or by 1 / (1 + h)."""
    steps = {"Euler": lambda h: 1 - h, "Heun": lambda h: 1 - h + h * h / 2, "JKO": lambda h: 1 / (1 + h)}
    result = compare(quadratic(), {"Euler": wg.ForwardEuler(), "Heun": wg.Heun(), "JKO": JKO})
    size = math.sqrt(0.625)  # root mean square of the start
    for method, step in steps.items():
        for row in result.of(method):
            expected = size * abs(step(row.step_size) ** row.steps - math.exp(-1))
            assert row.error() == pytest.approx(expected, abs=1e-7)
    assert result.start_errors == pytest.approx((size * (1 - math.exp(-1)),))


@pytest.mark.parametrize("name", EXPLICIT)
def test_orders_are_those_of_the_schemes(name: str) -> None:
    solver, order = EXPLICIT[name]
    found = compare(quadratic(step_sizes=(0.1, 0.05, 0.025)), {name: solver}).order(name)
    assert found.value == pytest.approx(order, abs=0.1)
    assert 0 < found.spread < 0.05  # the slopes fall towards the limit


def test_errors_are_taken_at_every_time() -> None:
    result = compare(quadratic(times=(0.4, 1.0)), {"Euler": wg.ForwardEuler()})
    size = math.sqrt(0.625)
    for row in result.rows:
        expected = [size * abs((1 - row.step_size) ** round(t / row.step_size) - math.exp(-t)) for t in (0.4, 1.0)]
        assert row.errors[0] == pytest.approx(expected, abs=1e-12)
    assert result.order("Euler", 0.4).value == pytest.approx(1, abs=0.2)
    with pytest.raises(wg.BadInput, match=r"time=0\.3"):
        result.order("Euler", 0.3)


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (wg.ForwardEuler(), 1),
        (wg.Heun(), 2),
        (wg.RK4(), 4),
        (wg.ODE(), 4),
        (wg.Langevin(), 1),
        (wg.MetropolisLangevin(), 2),
    ],
    ids=lambda v: getattr(type(v), "registered_name", None),
)
def test_gradients_of_a_step(solver: wg.Solver, calls: int) -> None:
    target = wg.Gaussian(double([0.0]), double([[1.0]]))
    F = wg.KL(target) if solver.splits_entropy else quadratic().functional
    result = compare(replace(quadratic(), functional=F), {"it": solver}, seeds=2)
    assert [row.gradients for row in result.rows] == [calls * row.steps for row in result.rows]
    assert {row.networks for row in result.rows} == {0}


def test_calls_of_networks_and_maps_count_once_however_deep_they_go() -> None:
    x = torch.zeros(3, 2)
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 2))
    ode, affine = wg.maps.NeuralODE(2, net=inner, steps=2), wg.maps.Affine(2)
    with counted() as counts:
        inner(x)
        ode(x)
        ode.with_logdet(x)
        affine.inverse(affine(x))
    assert counts.networks == 5
    assert counts.gradients == 0
    inner(x)
    assert counts.networks == 5


def test_what_is_evaluated_inside_of_an_estimator_is_one_gradient() -> None:
    V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    noisy = wg.EvaluationNoise(wg.Autograd(), 0.1)
    result = compare(quadratic(), {"noisy": wg.ForwardEuler(noisy)})
    assert [row.gradients for row in result.rows] == [row.steps for row in result.rows]
    with counted() as counts:
        wg.Autograd().velocity(V, wg.Particles(X), None)
    assert counts.gradients == 1


def test_a_critic_and_a_generator_are_networks_that_are_called() -> None:
    """In an update the generator makes the fake batch, its own and the snapshot's; the critic sees data, the fake batch and its own."""
    data = wg.Dataset(torch.zeros(8, 2))
    net = lambda: torch.nn.Linear(2, 2)  # noqa: E731
    flow = wg.presets.s_jko(
        data, wg.StandardNormal(2), net, lambda: torch.nn.Linear(2, 1), first_iters=3, iters=3, batch=4
    )
    problem = bench.Problem(
        flow.functional, flow.initial, lambda t: torch.zeros(2), lambda m, exact: 1.0, step_sizes=(0.5, 0.25)
    )
    rows = compare(problem, {"S-JKO": flow}).rows
    assert [row.networks for row in rows] == [6 * 3 * row.steps for row in rows]
    assert [row.gradients for row in rows] == [3 * row.steps for row in rows]


def test_what_is_refused_is_a_row_with_the_reason() -> None:
    result = compare(quadratic(), {"MALA": wg.MetropolisLangevin(), "Euler": wg.ForwardEuler()})
    refused = result.of("MALA")
    assert {row.status for row in refused} == {"refused"}
    assert refused[0].reason == wg.why_not(quadratic().functional, wg.MetropolisLangevin(), wg.Particles(X))
    assert refused[0].errors == ()
    assert result.order("MALA").value is None
    assert all(row.status == "done" for row in result.of("Euler"))


def test_what_is_refused_at_the_start_is_a_row_too() -> None:
    """The target has points of another dtype, which only solve() can see."""
    F = wg.KL(wg.Gaussian(torch.zeros(1), torch.eye(1)))
    (row,) = compare(replace(quadratic(), functional=F), {"Langevin": wg.Langevin()}, step_sizes=[0.2]).rows
    assert row.status == "refused"
    assert "float32" in row.reason


def test_what_diverges_is_a_row_with_the_step() -> None:
    quartic = wg.PotentialEnergy(lambda x: x.pow(4).sum(1))
    problem = replace(quadratic(), functional=quartic, initial=wg.Particles(100 * X))
    (row,) = compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=[0.1], seeds=3).rows
    assert row.status == "diverged"
    assert "became inf at update" in row.reason
    assert row.errors == row.seconds == ()


def test_what_is_unstable_has_errors_and_no_order() -> None:
    V = wg.PotentialEnergy(lambda x: 50 * x.square().sum(1))
    problem = bench.Problem(V, wg.Particles(X), lambda t: math.exp(-100 * t) * X, step_sizes=(0.1, 0.05))
    result = compare(problem, {"Euler": wg.ForwardEuler()})
    assert all(result.unstable(row) for row in result.rows)
    order = result.order("Euler")
    assert order.value is None
    assert order.reason == "unstable"
    assert "unstable" in result.table()


def test_an_inner_tolerance_that_is_missed_is_said_and_no_warning() -> None:
    few = wg.JKO(optim=wg.LBFGS(max_iter=1, tolerance=1e-12), iters=1)
    F = wg.PotentialEnergy(lambda x: x.pow(4).sum(1))
    result = compare(replace(quadratic(), functional=F), {"JKO": few}, step_sizes=[0.2])
    assert result.rows[0].status == "unconverged"
    assert "missed its tolerance in" in result.rows[0].reason
    assert "* JKO, unconverged" in result.table()


def test_error_bars_are_over_seeds() -> None:
    target = wg.Gaussian(double([0.0]), double([[1.0]]))
    problem = replace(bench.ornstein_uhlenbeck(1, 200), functional=wg.KL(target))
    result = compare(problem, {"Langevin": wg.Langevin()}, step_sizes=[0.2, 0.1], seeds=4)
    row = result.rows[0]
    errors = torch.tensor([e for (e,) in row.errors])
    assert len(set(errors.tolist())) == 4
    assert row.error() == pytest.approx(float(errors.mean()))
    assert row.spread() == pytest.approx(float(errors.std()) / 2)
    assert row.floor == pytest.approx(math.sqrt(1.5 / 200), rel=0.9)
    without_noise = compare(quadratic(), {"Euler": wg.ForwardEuler()}, seeds=3).rows[0]
    assert without_noise.spread() == 0


def test_seeds_draw_the_start_where_the_problem_says_how() -> None:
    law = wg.Gaussian(double([0.0]), double([[1.0]]))
    starts = []

    def initial(rng: torch.Generator) -> wg.Particles:
        starts.append(law.draw(5, rng).x)
        return wg.Particles(starts[-1])

    mean = lambda m, exact: abs(float(m.x.mean()))  # noqa: E731
    problem = replace(quadratic(), initial=initial, reference=lambda t: torch.zeros(1), error=mean)
    row = compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=[0.5], seeds=[3, 7]).rows[0]
    first, second = (e for (e,) in row.errors)
    assert first != second
    halved = {round(abs(float(x.mean())) / 4, 12) for x in starts}  # two steps of 1/2
    assert halved >= {round(first, 12), round(second, 12)}


def test_a_method_may_have_a_functional_a_start_and_step_sizes_of_its_own() -> None:
    twice = wg.Particles(X.repeat(2, 1))
    V = 2 * quadratic().functional
    methods = {
        "own": bench.Method(wg.ForwardEuler(), V, twice, step_sizes=(0.1, 0.05)),
        "flow": wg.Flow(V, wg.ForwardEuler(), twice, step_size=3.0, num_steps=1),
        "by step": lambda h: wg.Heun() if h < 0.1 else wg.ForwardEuler(),
    }
    problem = replace(
        quadratic(), reference=lambda t: math.exp(-2 * t) * X, error=lambda m, y: float((m.x[:2] - y).norm())
    )
    result = compare(problem, methods, step_sizes=[0.2, 0.1, 0.05])
    assert [row.step_size for row in result.of("own")] == [0.1, 0.05]
    assert [row.errors for row in result.of("own")] == [row.errors for row in result.of("flow")[1:]]
    assert [row.gradients for row in result.of("by step")] == [5, 10, 40]
    assert {row.points for row in result.of("own")} == {4}


def test_a_method_may_leave_seeds_out() -> None:
    F = wg.KL(wg.Gaussian(double([0.0]), double([[1.0]])))
    methods = {"once": bench.Method(wg.Langevin(), F, seeds=1), "each": bench.Method(wg.Langevin(), F)}
    result = compare(quadratic(), methods, step_sizes=[0.5], seeds=[4, 2, 9])
    (once,), (each,) = result.of("once"), result.of("each")
    assert [len(row.errors) for row in (once, each)] == [1, 3]
    assert once.errors[0] == each.errors[0]


def test_starts_of_different_sizes_are_noise() -> None:
    def initial(rng: torch.Generator) -> wg.Particles:
        n = int(torch.randint(3, 300, (), generator=rng))
        return wg.Particles(torch.randn(n, 1, generator=rng, dtype=torch.float64))

    moments = wg.reference.Moments(double([0.0]), double([[1.0]]))
    problem = replace(quadratic(), initial=initial, reference=lambda t: moments)
    assert compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=[0.5], seeds=2).rows[0].floor > 0


def test_an_own_functional_in_ten_lines() -> None:
    @dataclass(frozen=True)
    class Quartic(wg.Functional):
        def value(self, rho: wg.Particles) -> torch.Tensor:
            return rho.mean(rho.x.pow(4).sum(1) / 4)

    x = double([[0.8], [0.6]])
    problem = bench.Problem(Quartic(), wg.Particles(x), lambda t: x / (1 + 2 * x * x * t).sqrt())
    result = compare(problem, {"Euler": wg.ForwardEuler(), "Heun": wg.Heun(), "JKO": JKO})
    assert [round(result.order(m).value, 1) for m in result.methods] == [1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"step_sizes": (0.3,)}, "step size 0.3 does not divide the time 1: take 1/3"),
        ({"step_sizes": (2.0,)}, "take 1/1"),
        ({"times": (1.0, 0.5)}, "increasing times"),
        ({"times": ()}, "at least one"),
        ({"times": (-1.0,)}, "positive"),
        ({"initial": X[:, 0]}, "MovingMeasure"),
        ({"reference": 3.0}, "a function of 1 argument"),
        ({"functional": JKO}, "Functional"),
    ],
)
def test_a_problem_is_checked_when_it_is_made(change: dict, words: str) -> None:
    with pytest.raises(wg.BadInput, match=words.replace("(", r"\(")):
        replace(quadratic(), **change)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"it": "heun"}}, r"methods\['it'\] is 'heun'"),
        ({"methods": {"it": wg.Heun}}, "expected a solver"),
        ({"methods": {3: wg.Heun()}}, "the label 3: expected a text"),
        ({"methods": {"it": lambda h: None}}, "gives None at step size"),
        ({"step_sizes": []}, "at least one"),
        ({"step_sizes": [0.1, 0.1]}, "each once"),
        ({"step_sizes": [0.07]}, "does not divide"),
        ({"methods": {"it": bench.Method(wg.Heun(), step_sizes=(0.25,))}}, r"takes none of the step sizes \[0\.2"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": [1, 1]}, "each once"),
    ],
)
def test_a_comparison_is_checked_before_it_runs(options: dict, words: str) -> None:
    with pytest.raises(wg.BadInput, match=words):
        compare(quadratic(), **({"methods": {"Euler": wg.ForwardEuler()}} | options))


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        (lambda t: X, lambda m, y: "far", "the error of a Problem must return a number"),
        (lambda t: X, lambda m, y: -1.0, "the error of a Problem is -1: expected a number from 0 up"),
        (lambda t: "a law", None, "the reference returned 'a law'"),
        (lambda t: X[:1], None, r"exact positions \(1, 1\), one a particle, and the flow has \(2, 1\)"),
    ],
)
def test_what_a_user_returns_is_looked_at(reference: object, error: object, words: str) -> None:
    with pytest.raises(wg.BadInput, match=words):
        compare(replace(quadratic(), reference=reference, error=error), {"Euler": wg.ForwardEuler()})


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=["an error", "Ctrl-C"])
def test_what_ends_a_comparison_says_where_and_keeps_what_there_is(error: BaseException) -> None:
    def far(measure: wg.Particles, exact: torch.Tensor) -> float:
        if abs(float(measure.x[0]) - (1 - 0.1 + 0.005) ** 10) < 1e-12:  # the end of Heun at 0.1
            raise error
        return bench.path_error(measure, exact)

    methods = {"Euler": wg.ForwardEuler(), "Heun": wg.Heun()}
    with pytest.raises(type(error)) as caught:
        compare(replace(quadratic(), error=far), methods)
    assert caught.value.__notes__ == ["in the comparison of 'PotentialEnergy', method 'Heun', step size 0.1"]
    kept = caught.value.result
    whole = compare(quadratic(), methods)
    assert [(r.method, r.step_size, r.errors) for r in kept.rows] == [
        (r.method, r.step_size, r.errors) for r in whole.rows[:4]
    ]
    assert kept.order("Euler") == whole.order("Euler")
    assert "Heun" in kept.table()


@pytest.mark.parametrize("times", [(1.0,), (0.4, 1.0)])
def test_a_measure_that_the_error_is_not_taken_of_is_a_row_with_the_reason(times: tuple[float, ...]) -> None:
    """Positions of two particles cannot be compared with those of four, at no time; other methods go on."""
    methods = {
        "four": bench.Method(wg.ForwardEuler(), initial=wg.Particles(X.repeat(2, 1))),
        "Euler": wg.ForwardEuler(),
    }
    result = compare(quadratic(times=times), methods)
    assert [row.status for row in result.rows] == ["refused"] * 3 + ["done"] * 3
    assert "exact positions (2, 1), one a particle, and the flow has (4, 1)" in result.rows[0].reason


def test_a_law_without_draws_has_the_floor_of_its_start() -> None:
    """A flow that contracts to a point: its last covariance is singular."""
    law = lambda t: wg.reference.Moments(double([0.0]), double([[1.0 - t]]))  # noqa: E731
    draw = lambda rng: wg.Particles(torch.randn(20, 1, generator=rng, dtype=torch.float64))  # noqa: E731
    (row,) = compare(
        replace(quadratic(), initial=draw, reference=law), {"Euler": wg.ForwardEuler()}, step_sizes=[0.5], seeds=2
    ).rows
    start = draw(torch.Generator().manual_seed(0))
    assert 0 < row.floor < bench.moment_error(start, wg.reference.Moments(double([0.0]), double([[0.0]])))


@pytest.mark.gpu
def test_a_flow_on_a_device_has_the_floor_of_draws_of_a_reference_on_the_cpu(device: torch.device) -> None:
    V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
    draw = lambda rng: wg.Particles(torch.randn(20, 1, generator=rng, dtype=torch.float64).to(device))  # noqa: E731
    law = lambda t: wg.reference.Moments(double([0.0]), double([[math.exp(-2 * t)]]))  # noqa: E731
    (row,) = compare(bench.Problem(V, draw, law), {"Euler": wg.ForwardEuler()}, step_sizes=[0.5], seeds=2).rows
    assert row.status == "done"
    assert row.floor > 0


def test_the_error_goes_by_what_the_reference_is() -> None:
    """A shift by 3 is 3 in each of them."""
    there = X + 3
    moments = wg.reference.Moments.of(wg.Particles(there))
    rho = wg.Particles(X)
    assert bench.path_error(rho, there) == pytest.approx(3)
    assert bench.moment_error(rho, moments) == pytest.approx(3)
    assert bench.w2_error(rho, wg.Particles(there.flip(0))) == pytest.approx(3)
    for exact in (there, moments, wg.Particles(there)):
        problem = replace(quadratic(), reference=lambda t, exact=exact: exact)
        assert compare(problem, {"Euler": wg.ForwardEuler()}).start_errors == pytest.approx((3,))


def test_a_comparison_leaves_the_classes_and_the_random_numbers_as_they_were() -> None:
    before, state = wg.Autograd.surrogate, torch.get_rng_state()
    call = torch.nn.Module.__call__
    compare(quadratic(), {"Euler": wg.ForwardEuler(), "MALA": wg.MetropolisLangevin()})
    assert wg.Autograd.surrogate is before
    assert torch.nn.Module.__call__ is call
    assert torch.equal(torch.get_rng_state(), state)


def test_comparisons_in_two_threads_count_their_own() -> None:
    found = []

    def go(solver: wg.Solver) -> None:
        found.append([row.gradients / row.steps for row in compare(quadratic(), {"it": solver}).rows])

    call = torch.nn.Module.__call__
    threads = [Thread(target=go, args=(solver,)) for solver in (wg.Heun(), wg.RK4())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [[2] * 3, [4] * 3]
    assert torch.nn.Module.__call__ is call


def test_a_comparison_without_a_name_is_called_by_its_functional() -> None:
    result = compare(quadratic(), {"Euler": wg.ForwardEuler()}, step_sizes=[0.2])
    assert result.problem == "PotentialEnergy"
    assert result.table().startswith("PotentialEnergy\n")


def test_a_flow_that_is_already_there_has_no_error_and_no_order() -> None:
    result = compare(
        replace(quadratic(), initial=wg.Particles(0 * X), reference=lambda t: 0 * X), {"Euler": wg.ForwardEuler()}
    )
    assert [row.error() for row in result.rows] == [0, 0, 0]
    assert result.order("Euler").reason == "rounding"


def test_a_reference_that_does_not_know_the_start_has_no_floor() -> None:
    result = compare(replace(quadratic(), reference=lambda t: math.exp(-t) * X * (t / t)), {"Euler": wg.ForwardEuler()})
    assert {row.floor for row in result.rows} == {0.0}
    assert result.order("Euler").value == pytest.approx(1, abs=0.1)


def test_the_bar_is_shown_unless_it_is_not_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    bench.compare(quadratic(), {"Euler": wg.ForwardEuler()})
    assert "Euler" in capsys.readouterr().err
    compare(quadratic(), {"Euler": wg.ForwardEuler()})
    assert capsys.readouterr().err == ""
