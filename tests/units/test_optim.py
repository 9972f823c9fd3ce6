"""Inner minimisers against PyTorch's own and against closed forms."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wgflow import SGD, Adam, BadInput, Cosine
from wgflow.optim import average_gradients, update_average


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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(0, 0.1), r"Cosine\(updates=0, floor=0.1\): expected at least 1 update"),
        (lambda: Cosine(5, -0.1), r"floor=-0.1"),
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
