"""Inner minimisers against PyTorch's own and against closed forms."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wgflow import SGD, Adam, BadInput, Cosine
from wgflow.core.rng import replayed
from wgflow.optim import LBFGS, update_average
from wgflow.optim.descent import average_gradients


def test_cosine_values():
    cosine = Cosine(updates=8, floor=0.2)
    assert cosine(0, 1.0) == 1.0
    assert cosine(2, 1.0) == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))
    assert cosine(4, 1.0) == pytest.approx(0.6)
    assert cosine(8, 1.0) == 0.2
    assert cosine(100, 1.0) == 0.2
    assert cosine(4, 2.0) == pytest.approx(1.1)


def test_cosine_is_that_of_pytorch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs, ours = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=11, eta_min=0.01), Cosine(11, 0.01)
    for i in range(12):
        assert ours(i, 0.3) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        theirs.step()


def test_the_learning_rate_grows_linearly_to_that_of_the_cosine():
    warm, cosine = Cosine(20, 0.1, warmup=4), Cosine(20, 0.1)
    assert [warm(i, 1.0) / cosine(i, 1.0) for i in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert [Cosine(20, 1.0, warmup=2)(i, 1.0) for i in (0, 1, 10, 99)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(0, 0.1), r"Cosine\(updates=0\): expected a whole number from 1 up"),
        (lambda: Cosine(5, -0.1), r"floor=-0.1"),
        (lambda: Cosine(5, 0.1, warmup=0), r"warmup=0"),
        (lambda: Cosine(5, math.nan), r"floor=nan"),
        (lambda: Adam(0.0), r"Adam\(lr=0.0\): expected a positive, finite"),
        (lambda: Adam(math.inf), r"Adam\(lr=inf\)"),
        (lambda: SGD(-1.0), r"SGD\(lr=-1.0\)"),
        (lambda: SGD(math.nan), r"SGD\(lr=nan\)"),
        (lambda: Adam().build([]), "nothing to train"),
        (lambda: SGD(1.0).build(nn.Identity().parameters()), "nothing to train"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def fit(descent, w: torch.Tensor, updates: int) -> list[torch.Tensor]:
    """Minimise a parabola with curvatures 1, 4 and 9 and return where the parameters were."""
    path = []
    for _ in range(updates):
        descent.minimise(lambda: (torch.tensor([1.0, 4.0, 9.0]) * w.square()).sum() / 2)
        path.append(w.detach().clone())
    return path


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))


def test_a_description_builds_fresh_minimisers():
    description = Adam(1e-2)
    first, second = start(), start()
    assert torch.equal(
        fit(description.build([first]), first, 5)[-1], fit(description.build(iter([second])), second, 5)[-1]
    )
    assert description == Adam(1e-2)


def test_gradient_descent_on_a_parabola():
    w = start()
    fit(SGD(0.1).build([w]), w, 4)
    torch.testing.assert_close(w.detach(), start().detach() * torch.tensor([0.9, 0.6, 0.1]) ** 4)


def test_adam_is_that_of_pytorch_with_its_learning_rate_set_before_each_update():
    ours, theirs = start(), start()
    schedule = Cosine(6, 1e-3)
    path = fit(Adam(0.1, (0.5, 0.9), 1e-6, schedule).build([ours]), ours, 9)
    optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.5, 0.9), eps=1e-6)
    for i in range(9):
        optimizer.param_groups[0]["lr"] = 1e-3 + 0.5 * (0.1 - 1e-3) * (1 + math.cos(math.pi * min(i / 6, 1)))
        optimizer.zero_grad()
        ((torch.tensor([1.0, 4.0, 9.0]) * theirs.square()).sum() / 2).backward()
        optimizer.step()
        torch.testing.assert_close(path[i], theirs.detach(), rtol=1e-6, atol=0)


def test_a_first_step_of_adam_has_the_length_of_the_learning_rate():
    w = start()
    fit(Adam(0.01).build([w]), w, 1)
    torch.testing.assert_close(w.detach(), start().detach() - 0.01 * start().detach().sign())


def test_other_networks_are_left_alone():
    """A critic inside a generator's loss: neither its weights nor its gradients change."""
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    before = [p.detach().clone() for p in critic.parameters()]
    for p in critic.parameters():
        p.grad = torch.full_like(p, 7.0)
    descent = SGD(0.1).build(generator.parameters())
    for _ in range(3):
        descent.minimise(lambda: critic(generator(torch.ones(4, 2))).mean())
    assert all(torch.equal(p, b) for p, b in zip(critic.parameters(), before, strict=True))
    assert all(bool((p.grad == 7.0).all()) for p in critic.parameters())
    assert descent.updates == 3


def test_gradients_do_not_pile_up():
    w = start()
    descent = SGD(0.1).build([w])
    descent.minimise(lambda: w.sum())
    descent.minimise(lambda: w.sum())
    torch.testing.assert_close(w.detach(), start().detach() - 0.2)


@pytest.mark.parametrize("describe", [Adam(0.1, schedule=Cosine(9, 0.01)), SGD(0.05, 0.9)], ids=["adam", "sgd"])
def test_a_restored_minimiser_goes_on_to_the_last_bit(describe):
    whole, parts = start(), start()
    path = fit(describe.build([whole]), whole, 8)
    first = describe.build([parts])
    fit(first, parts, 3)
    second = describe.build([parts])
    second.load_state_dict(first.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fit(second, parts, 5), path[3:], strict=True))


LAYOUTS = {
    "contiguous": lambda: torch.arange(24.0).view(4, 6),
    "transposed": lambda: torch.arange(24.0).view(4, 6).T,
    "not dense": lambda: torch.arange(48.0).view(4, 12)[:, ::2],
    "channels last": lambda: torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "float64": lambda: torch.arange(24.0, dtype=torch.float64),
}


def steps_of_adam(make, fused: bool | None, steps: int = 5) -> torch.Tensor:
    """Return where Adam of the library, or PyTorch's, has led a parameter against gradients that come in another layout."""
    p = make().clone(memory_format=torch.preserve_format) if make is not LAYOUTS["not dense"] else make()
    p = p.detach().requires_grad_(True)
    descent = Adam(0.1).build([p])
    if fused is not None:
        descent.optimizer = torch.optim.Adam([p], 0.1, (0.5, 0.9), fused=fused)
    slopes = torch.linspace(-2, 3, p.numel(), dtype=p.dtype).view(p.shape)
    for _ in range(steps):
        descent.minimise(lambda: (slopes * p.square()).sum() / 2)
    return p.detach()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adam_in_one_pass_is_adam_whatever_the_layout(layout):
    """The fused kernel of a CPU takes memory for dense: a parameter that is not would be moved by the gradients of others."""
    make = LAYOUTS[layout]
    torch.testing.assert_close(steps_of_adam(make, None), steps_of_adam(make, False), rtol=1e-6, atol=1e-6)


def test_adam_of_an_earlier_checkpoint_goes_on_as_it_was():
    """Its groups say that the plain loop made it; moments and counts are those of before, and so is every bit."""
    p, theirs = start(), start()
    ours, plain = Adam(0.1).build([p]), torch.optim.Adam([theirs], 0.1, (0.5, 0.9), fused=False)
    assert ours.optimizer.param_groups[0]["fused"]
    for _ in range(3):
        theirs.grad = theirs.detach().clone()
        plain.step()
    with torch.no_grad():
        p.copy_(theirs)
    ours.load_state_dict({"optimizer": copy.deepcopy(plain.state_dict()), "updates": 3})
    for _ in range(3):
        theirs.grad = theirs.detach().clone()
        plain.step()
        ours.minimise(lambda: p.square().sum() / 2)
    assert torch.equal(p, theirs)


def body() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.SiLU(), nn.Linear(4, 2))


def test_the_running_average_is_that_of_pytorch():
    torch.manual_seed(0)
    net = body()
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(net)  # the first call copies
    ours = body()
    ours.load_state_dict(net.state_dict())
    for _ in range(5):
        net(torch.randn(8, 3))  # moves the running statistics
        with torch.no_grad():
            for p in net.parameters():
                p += torch.randn_like(p)
        update_average(ours, net, 0.9)
        theirs.update_parameters(net)
    held = theirs.module.state_dict()
    for name, value in ours.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, held[name], rtol=1e-6, atol=1e-7)
    assert ours[1].num_batches_tracked == 5


def test_the_running_average_of_a_constant_approaches_it_geometrically():
    average, net = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(average.weight, 0.0)
    nn.init.constant_(net.weight, 1.0)
    for _ in range(10):
        update_average(average, net, 0.8)
    assert average.weight.item() == pytest.approx(1 - 0.8**10, rel=1e-12)
    assert net.weight.item() == 1.0


def test_a_single_process_averages_with_nobody():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1.0, 2.0])
    average_gradients([p, nn.Parameter(torch.ones(1))])
    assert p.grad.tolist() == [1.0, 2.0]


# --- quasi-Newton -----------------------------------------------------------------------------------------------------


def rosenbrock(w: torch.Tensor) -> torch.Tensor:
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8])
def test_lbfgs_finds_the_minimum_in_one_update_whatever_the_scale(scale):
    w = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    descent = LBFGS(tolerance=1e-9).build([w])
    report = descent.minimise(lambda: scale * rosenbrock(w))
    torch.testing.assert_close(w.detach(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert report["residual"] <= 1e-7
    assert report["evaluations"] < 80
    assert descent.updates == 1


def test_lbfgs_reports_what_is_left_of_the_gradient():
    w = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    gradient = lambda: torch.autograd.grad(rosenbrock(w), w)[0].abs().max().item()  # noqa: E731
    first, evaluations = gradient(), []

    def objective() -> torch.Tensor:
        evaluations.append(1)
        return rosenbrock(w)

    report = LBFGS(max_iter=4).build([w]).minimise(objective)
    assert report["residual"] == pytest.approx(gradient() / first, rel=1e-12)
    assert report["evaluations"] == len(evaluations)
    assert report["residual"] > 1e-6  # four iterations are not enough, and the report says so


def test_lbfgs_stays_at_a_minimum_and_at_what_is_not_finite():
    for value in (1.0, math.nan):
        w = nn.Parameter(torch.tensor([1.0, value], dtype=torch.float64))
        before = w.detach().clone()
        report = LBFGS().build([w]).minimise(lambda w=w: rosenbrock(w))
        assert torch.equal(w.detach().nan_to_num(7), before.nan_to_num(7))
        assert report["evaluations"] == 1


def test_a_restored_lbfgs_goes_on_to_the_last_bit():
    def descend(descent, w):
        descent.minimise(lambda: rosenbrock(w))

    whole, parts = (nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64)) for _ in range(2))
    one, two = (LBFGS(max_iter=3).build([w]) for w in (whole, parts))
    for _ in range(2):
        descend(one, whole)
    descend(two, parts)
    three = LBFGS(max_iter=3).build([parts])
    three.load_state_dict(two.state_dict())
    descend(three, parts)
    assert torch.equal(whole, parts)
    assert three.updates == one.updates == 2


def test_bad_settings_of_lbfgs():
    for bad in ({"max_iter": 0}, {"tolerance": 0.0}, {"tolerance": 1.0}, {"history": 0}):
        with pytest.raises(BadInput, match=r"LBFGS\("):
            LBFGS(**bad)


def test_an_objective_that_draws_sees_the_same_numbers_at_every_evaluation():
    generator, twin = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    draw = replayed(lambda rng: torch.rand(3, generator=rng), generator)
    first = draw()
    assert torch.equal(first, torch.rand(3, generator=twin))
    torch.rand(2, generator=generator)  # somebody else goes on
    torch.rand(2, generator=twin)
    assert torch.equal(draw(), first)
    assert torch.equal(generator.get_state(), twin.get_state())


@pytest.mark.parametrize("make", [lambda **more: Adam(0.1, **more), lambda **more: SGD(0.1, 0.9, **more)])
def test_a_gradient_is_clipped_as_by_pytorch(make):
    """The gradient (6, 8) is of length 10, and 5 is its half; shorter ones stay."""
    x, target = nn.Parameter(torch.zeros(2)), torch.tensor([-3.0, -4.0])
    descent = make(clip=5.0).build([x])
    half = make().build([y := nn.Parameter(torch.zeros(2))])
    found = descent.minimise(lambda: (x - target).square().sum())
    half.minimise(lambda: (y - target).square().sum() / 2)
    assert float(found["gradient"]) == pytest.approx(10.0)
    torch.testing.assert_close(x.detach(), y.detach())
    generous, free = (
        make(clip=1e3).build([a := nn.Parameter(torch.ones(2))]),
        make().build([b := nn.Parameter(torch.ones(2))]),
    )
    for _ in range(3):
        generous.minimise(lambda: a.square().sum())
        free.minimise(lambda: b.square().sum())
    torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [lambda **more: Adam(0.1, **more), lambda **more: SGD(0.1, 0.9, clip=1.0, **more)])
def test_accumulated_gradients_are_those_of_one_large_batch(make):
    batches = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, y = (nn.Parameter(torch.ones(5, dtype=torch.float64)) for _ in range(2))
    small, large = make(accumulate=4).build([x]), make().build([y])
    for _ in range(3):
        before = x.detach().clone()
        for i, batch in enumerate(batches):
            assert torch.equal(x.detach(), before), i
            small.minimise(lambda batch=batch: (batch @ x - 1).square().mean())
        large.minimise(lambda: (batches.flatten(0, 1) @ y - 1).square().mean())
        torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-12, atol=0)
    assert (small.updates, large.updates) == (12, 3)


def test_a_minimiser_goes_on_in_the_midst_of_an_accumulation():
    def run(interrupted):
        x = nn.Parameter(torch.ones(3, dtype=torch.float64))
        descent = Adam(0.1, accumulate=3).build([x])
        for i in range(9):
            if i == interrupted:
                saved = copy.deepcopy(descent.state_dict())
                x = nn.Parameter(x.detach().clone())
                descent = Adam(0.1, accumulate=3).build([x])
                descent.load_state_dict(saved)
            descent.minimise(lambda i=i, x=x: ((i + 1) * x).square().sum())
        return x.detach()

    assert all(torch.equal(run(None), run(i)) for i in (1, 2, 3, 4, 8))


def test_a_warmup_is_no_longer_than_the_schedule():
    assert Cosine(8, 0.1, warmup=8)(7, 1.0) == Cosine(8, 0.1)(7, 1.0)
    with pytest.raises(BadInput, match="warmup=9 is longer than the whole schedule of 8 updates"):
        Cosine(8, 0.1, warmup=9)


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"clip": math.nan}, {"accumulate": 0}, {"accumulate": 1.5}])
def test_bad_clips_and_counts(wrong):
    for make in (Adam, lambda **more: SGD(0.1, **more)):
        with pytest.raises(BadInput, match="expected"):
            make(**wrong)
