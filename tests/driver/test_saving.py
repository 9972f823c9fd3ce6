"""States at chosen times, several flows as one, and what of a flow can be differentiated."""

import pytest
import torch

import wgflow as wg

V = wg.PotentialEnergy(lambda x: 0.5 * x.square().sum(1))
START = wg.Particles(torch.ones(1, 1, dtype=torch.float64))


def run(times, step_size=0.1, num_steps=30, **options):
    save = wg.Save(times=times)
    return wg.solve(V, wg.ForwardEuler(), START, step_size=step_size, num_steps=num_steps, save=save, **options)


def test_the_states_of_chosen_times_are_kept_and_no_others():
    """Sums of 0.1 are below and above 0.3, 0.7, ... by rounding: each is met once all the same."""
    times = tuple(k / 10 for k in range(31))
    flow = run(times)
    assert flow.times == pytest.approx(times)
    torch.testing.assert_close(torch.stack([p.x[0, 0] for p in flow.saved]), 0.9 ** torch.arange(31).double())
    assert run((0.3, 0.7, 2.0)).times == pytest.approx([0.3, 0.7, 2.0])
    assert run((2.0, 0.3)).times == pytest.approx([0.3, 2.0])


def test_times_in_single_precision_are_those_that_were_meant():
    """0.1 is there more than 0.1, by six parts in a hundred million: the state at 0.1 is what is asked for, not the next."""
    times = torch.linspace(0.0, 3.0, 31)
    assert run(times).times == pytest.approx(times.double().tolist(), rel=1e-6)
    for time in times[1:]:
        flow = wg.solve(V, wg.ForwardEuler(), START, step_size=0.1, num_steps=40, callbacks=[wg.StopAt(time)])
        assert flow.state.t == pytest.approx(float(time), rel=1e-6)


def test_a_time_between_two_steps_is_met_by_the_next():
    flow = run((0.25, 0.26, 0.9), step_size=lambda k: 0.2 * (k + 1), num_steps=4)
    assert flow.times == pytest.approx([0.6, 1.2])
    assert run((99.0,)).times == []
    assert run(()).times == []


def test_a_resumed_flow_goes_on_with_its_times(tmp_path):
    times = (0.0, 0.5, 1.0, 2.5)
    run(times, num_steps=8, checkpoint=wg.Checkpoint(tmp_path))
    again = run(times, checkpoint=wg.Checkpoint(tmp_path))
    assert again.times == run(times).times


@pytest.mark.parametrize("wrong", [(-1.0,), (float("nan"),), 0.5, ("a",)])
def test_other_times_are_refused(wrong):
    with pytest.raises(wg.BadInput, match="expected a tuple"):
        wg.Save(times=wrong)


@pytest.mark.parametrize(
    ("make", "solver"),
    [
        (lambda nu: 0.5 * wg.EnergyDistance(nu), wg.ForwardEuler()),
        (lambda nu: wg.SquaredMMD(nu, wg.RBF(1.0)), wg.Heun()),
        (lambda nu: wg.SinkhornDivergence(nu, blur=0.5), wg.ForwardEuler()),
    ],
)
def test_labelled_points_are_several_flows_at_once(make, solver):
    """Of unequally many points, with weights: each moves as it does alone."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda n: torch.randn(n, 2, generator=generator, dtype=torch.float64)  # noqa: E731
    data = wg.Dataset(normal(30), torch.linspace(0, 1, 30).double())
    starts = [normal(n) + shift for n, shift in ((5, -2.0), (12, 0.0), (8, 3.0))]
    labels = torch.cat([torch.eye(3).double()[c].expand(len(x), 3) for c, x in enumerate(starts)])
    together = wg.Particles(torch.cat([torch.cat(starts), labels], 1))
    options = {"step_size": 0.3, "num_steps": 4}
    moved = wg.solve(wg.PerClass(make(wg.OfEveryClass(data, 3))), solver, together, **options).measure.x
    assert torch.equal(moved[:, 2:], labels)
    for x, found in zip(starts, moved[:, :2].split([len(x) for x in starts]), strict=True):
        alone = wg.solve(make(data), solver, wg.Particles(x), **options).measure.x
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-6)
        assert (found - x).abs().max() > 0.05


def test_a_start_that_requires_gradients_is_refused():
    x = torch.ones(3, 2, requires_grad=True)
    weights = torch.zeros(3, requires_grad=True)
    for start in (wg.Particles(x), wg.Particles(x.detach(), weights), wg.Grid(weights + 1, (0.0,), (1.0,))):
        solver = wg.EntropicJKO(0.5) if isinstance(start, wg.Grid) else wg.ForwardEuler()
        F = V if not isinstance(start, wg.Grid) else wg.KL(wg.Gaussian(torch.zeros(1), torch.eye(1)))
        with pytest.raises(wg.BadInput, match="passes no gradients back"):
            wg.solve(F, solver, start, step_size=0.1, num_steps=1)
    assert wg.solve(V, wg.ForwardEuler(), wg.Particles(x.detach()), step_size=0.1, num_steps=1).status == "done"


def test_a_second_derivative_of_a_kernel_sum_is_refused():
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    F = wg.EnergyDistance(wg.Particles(torch.zeros(3, 2))).freeze(torch.Generator())
    (slope,) = torch.autograd.grad(F.value(wg.Particles(x)), x, create_graph=True)
    with pytest.raises(wg.Unsupported):
        slope.square().sum().backward()


def test_differences_with_one_seed_differentiate_a_random_flow():
    """Langevin in V = |x - m|²/2: the mean of the end is m (1 - (1 - h)^n) whatever the noise."""

    def end(m):
        F = wg.PotentialEnergy(lambda x: 0.5 * (x - m).square().sum(1)) + wg.Entropy()
        start = wg.Particles(torch.zeros(10, 1, dtype=torch.float64))
        return float(wg.solve(F, wg.Langevin(), start, step_size=0.1, num_steps=20, seed=4).measure.x.mean())

    assert (end(1e-4) - end(-1e-4)) / 2e-4 == pytest.approx(1 - 0.9**20, rel=1e-8)


def storages(saved):
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}.values())


def test_a_part_of_a_state_is_kept_and_written_without_the_rest(tmp_path):
    """Five of 20,000 points: a slice would hold the memory of all of them, and be written with it."""
    start = wg.Particles(torch.arange(40_000.0).reshape(-1, 2))
    keeps = {
        "slice": (lambda s: s.measure.x[:5], lambda kept: [kept]),
        "particles": (lambda s: wg.Particles(s.measure.x[:5], s.measure.x[:5, 0]), lambda kept: [kept.x, kept.log_w]),
        "by name": (
            lambda s: {"first": s.measure.x[:5], "rest": [s.measure.x[-5:], "five"]},
            lambda kept: [kept["first"], kept["rest"][0]],
        ),
    }
    for name, (fn, tensors) in keeps.items():
        settings = {"step_size": 0.1, "num_steps": 20, "save": wg.Save(fn=fn)}
        flow = wg.solve(V, wg.ForwardEuler(), start, checkpoint=wg.Checkpoint(tmp_path / name), **settings)
        last, expected = tensors(flow.saved[-1]), tensors(fn(flow.state))
        assert all(torch.equal(a, b) for a, b in zip(last, expected, strict=True))
        assert storages([t for s in flow.saved for t in tensors(s)]) <= 21 * 2 * 40
        assert sum(p.stat().st_size for p in (tmp_path / name).glob("*.states")) < 100_000


def test_a_network_whose_buffer_is_a_part_of_the_data_has_checkpoints_of_its_own_size(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self, data):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.register_buffer("centers", data[:10])

        def forward(self, x):
            return self.linear(x) + self.centers.mean(0)

    rho = wg.Pushforward(wg.StandardNormal(2), Net(torch.ones(100_000, 2)))
    solver = wg.JKO(wg.Critic(lambda: torch.nn.Linear(2, 1)), iters=2, batch=8)
    settings = {"step_size": 0.5, "num_steps": 2, "checkpoint": wg.Checkpoint(tmp_path, every_updates=1)}
    flow = wg.solve(wg.Softplus(wg.StandardNormal(2), batch=8), solver, rho, **settings)
    again = wg.solve(wg.Softplus(wg.StandardNormal(2), batch=8), solver, rho, **settings)
    assert max(p.stat().st_size for p in tmp_path.glob("update-*.pt")) < 100_000
    for name, t in flow.measure.net.state_dict().items():
        assert torch.equal(again.measure.net.state_dict()[name], t)
