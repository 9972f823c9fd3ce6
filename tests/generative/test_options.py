"""Options of trainings: sizes of levels, blocks that are computed twice, warm-up, momenta, clipping, accumulation."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from wgflow import BadInput
from wgflow.generative import ImageData, Recipe, Runtime, batch, train
from wgflow.generative.batch import with_batch
from wgflow.generative.nets import ConvGenerator, LargeCritic, LargeGenerator
from wgflow.generative.nets._recomputed import recompute

CPU = Runtime(torch.device("cpu"))
LARGE = dict(network="large", channels=32, multipliers="1,2", attention="8")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    return path


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_critic_whose_blocks_are_computed_twice_has_the_same_gradients_under_r1():
    torch.manual_seed(0)
    net = LargeCritic(image_shape=(3, 16, 16), channels=8)
    for p in net.parameters():
        p.data.normal_(0, 0.1)
    twice = copy.deepcopy(net)
    recompute(twice, "large")

    def gradients(net):
        x = torch.randn(4, 3, 16, 16, generator=rng(1)).requires_grad_()
        v = net(x)
        (slope,) = torch.autograd.grad(v.sum(), x, create_graph=True)
        loss = torch.expm1(-v).mean() + slope.square().sum()
        return torch.autograd.grad(loss, list(net.parameters()))

    ours, theirs = gradients(twice), gradients(net)
    assert all(map(torch.equal, ours, theirs))
    assert min(float(g.abs().max()) for g in theirs) > 0
    assert list(twice.state_dict()) == list(net.state_dict())


def test_blocks_are_computed_again_on_the_way_back():
    pytest.importorskip("diffusers")
    net = LargeGenerator(image_shape=(3, 8, 8), channels=32, multipliers=(1, 2), blocks_per_level=1)
    twice = copy.deepcopy(net)
    recompute(twice, "large")
    seen: list[int] = []
    twice.unet.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda *_: seen.append(1))
    x, z = torch.randn(2, 3, 8, 8, generator=rng(0)), torch.randn(2, 100, generator=rng(1))
    found = []
    for each in (net, twice):
        y = each(x, z)
        y.square().sum().backward()
        found.append([p.grad for p in each.parameters() if p.grad is not None])
    assert len(seen) == 2
    assert all(map(torch.equal, *found))
    with torch.no_grad():
        twice(x, z)
    assert len(seen) == 3


def test_levels_of_the_large_generator_come_from_the_recipe():
    pytest.importorskip("diffusers")
    recipe = Recipe(network="large", channels=64, multipliers="1, 1,2,2,4,4", attention="16,8")
    with torch.device("meta"):
        generator, critic = recipe.networks((3, 256, 256))
    config = generator.unet.config
    assert tuple(config.block_out_channels) == (64, 64, 128, 128, 256, 256)
    assert [name.startswith("Attn") for name in config.down_block_types] == [False] * 4 + [True] * 2
    assert len(critic.blocks) == 6
    usual, _ = Recipe(network="large", multipliers="1,2,2,2").networks((3, 32, 32))
    assert [n.startswith("Attn") for n in usual.unet.config.down_block_types] == [False, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": "1,x"}, "multipliers='1,x': expected whole numbers from 1 up with commas"),
        ({"multipliers": ""}, "multipliers='': expected whole numbers"),
        ({"multipliers": "1,0"}, "multipliers='1,0'"),
        ({"attention": "7"}, r"attention=\(7,\): expected sizes of levels, which are 8, 4, 2, 1"),
        ({"network": "conv", "multipliers": "1,2"}, "cannot be made with .*multipliers"),
        ({"network": "conv", "checkpointing": True}, "no blocks to be computed twice"),
    ],
)
def test_sizes_that_a_network_does_not_have(options, message):
    pytest.importorskip("diffusers")
    with pytest.raises(BadInput, match=message):
        Recipe(**({"network": "large", "channels": 32} | options)).networks((3, 8, 8))


def test_methods_without_a_generator_have_no_levels():
    with pytest.raises(BadInput, match="multipliers='1,2' is not for method sliced_w_flow: it has no generator"):
        Recipe(method="sliced_w_flow", multipliers="1,2")
    assert Recipe(multipliers="1,2", checkpointing=True).changed(method="sliced_w_flow").checkpointing is False


def test_options_of_optimizers_reach_both_networks():
    data = ImageData(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))
    options = dict(betas=(0.0, 0.9), clip=2.0, accumulate=3, warmup=10, critic_iters=2, lr_floor=None)
    flow = Recipe(channels=4, num_steps=2, first_iters=9, iters=3, **options).flow(data, CPU)
    ours, theirs = flow.solver.optim, flow.solver.estimator.optim
    for optim, lr, times in ((ours, 1e-3, 1), (theirs, 5e-4, 2)):
        assert (optim.betas, optim.clip, optim.accumulate) == ((0.0, 0.9), 2.0, 3)
        rates = [optim.schedule(times * i, optim.lr) for i in (0, 4, 9, 10, 1000)]
        # The critic makes two updates of its own for each of the generator.
        assert rates == pytest.approx(
            [lr * f for f in ((1 / (10 * times), (4 * times + 1) / (10 * times), 1, 1, 1))], rel=0.06
        )
    assert flow.solver.estimator.iters == 2


def test_a_training_with_all_of_them_goes_on_bit_for_bit(images, tmp_path, cut):
    pytest.importorskip("diffusers")
    pytest.importorskip("safetensors")
    options = dict(clip=1.0, accumulate=2, warmup=3, critic_iters=2, betas=(0.0, 0.9), checkpointing=True)
    sizes = dict(data=str(images), batch=4, num_steps=2, first_iters=4, iters=2, evaluate_every=3, sinkhorn_n=4)
    recipe = Recipe(**LARGE, **options, **sizes)
    train(recipe, tmp_path / "whole", device="cpu", progress=False)
    cut(recipe, tmp_path / "cut", 4)
    train(recipe, tmp_path / "cut", device="cpu", progress=False)
    for name in ("generator.safetensors", "metrics.csv"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    plain = Recipe(**LARGE, **(options | {"checkpointing": False}), **sizes)
    train(plain, tmp_path / "plain", device="cpu", progress=False)
    assert (tmp_path / "plain" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()


def short_of_memory(monkeypatch, largest: int) -> list[int]:
    """Let the generator run out of memory for more images than these; returns what it was asked for."""
    asked, forward = [], ConvGenerator.forward

    def limited(self, x, *others):
        asked.append(len(x))
        if len(x) > largest and torch.is_grad_enabled():
            raise torch.OutOfMemoryError(f"tried to allocate {len(x)} images")
        return forward(self, x, *others)

    monkeypatch.setattr(ConvGenerator, "forward", limited)
    return asked


def test_the_batch_that_fits_is_found_recorded_and_gone_on_with(images, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    asked = short_of_memory(monkeypatch, 20)
    sizes = dict(data=str(images), channels=4, num_steps=2, first_iters=2, iters=2, evaluate_every=3, sinkhorn_n=4)
    auto = Recipe(batch="auto", **sizes)
    train(auto, tmp_path / "r", device="cpu", progress=False)
    assert 64 in asked
    held = Recipe.load(tmp_path / "r" / "recipe.yaml")
    assert held.options["batch"] == 16
    numbers = (tmp_path / "r" / "metrics.csv").read_bytes()
    train(Recipe(batch=16, **sizes), tmp_path / "s", device="cpu", progress=False)
    assert (tmp_path / "s" / "metrics.csv").read_bytes() == numbers, "a trial leaves no trace in the run"
    asked.clear()
    short_of_memory(monkeypatch, 4)  # less memory now: the run goes on with the batch that it has
    train(auto, tmp_path / "r", device="cpu", progress=False)
    assert max(asked, default=0) <= 16
    short_of_memory(monkeypatch, 0)
    with pytest.raises(BadInput, match="not even one image a process fits"):
        train(auto, tmp_path / "t", device="cpu", progress=False)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("options", "count", "good"),
    [
        (
            {"accumulate": 5, "num_steps": 2, "first_iters": 8, "iters": 5},
            "8 updates of first_iters=8",
            {"first_iters": 10},
        ),
        ({"accumulate": 8, "num_steps": 2, "first_iters": 8, "iters": 4}, "4 updates of iters=4", {"iters": 16}),
        ({"accumulate": 9, "method": "otm", "iters": 8}, "8 updates of first_iters=8", {"accumulate": 8}),
    ],
)
def test_gradients_of_two_time_steps_are_not_averaged(options, count, good):
    recipe = Recipe(channels=4, batch=8, **options)
    data = ImageData(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadInput, match=f"accumulate={options['accumulate']} does not divide the {count}"):
        recipe.flow(data, CPU)
    recipe.changed(**good).flow(data, CPU)


def test_a_warmup_that_never_ends_is_refused():
    data = ImageData(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))
    recipe = Recipe(channels=4, num_steps=2, first_iters=4, iters=2, critic_iters=3, warmup=7)
    with pytest.raises(BadInput, match="warmup=7 is longer than the whole schedule of 6 updates"):
        recipe.flow(data, CPU)
    recipe.changed(warmup=6).flow(data, CPU)


def test_a_batch_is_tried_beyond_the_first_move_of_the_networks(monkeypatch, tmp_path):
    steps, step = [], torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self, *a, **k: (steps.append(1), step(self, *a, **k))[1])
    data = ImageData(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))
    with_batch(Recipe(channels=4, batch="auto", accumulate=4), tmp_path / "r", data, CPU)
    assert len(steps) == 2, "both have moved, and have their moments"


def test_a_batch_that_is_found_is_a_multiple_of_the_processes(monkeypatch, tmp_path):
    tried = []
    monkeypatch.setattr(batch, "_fits", lambda recipe, law, here: tried.append(recipe.options["batch"]))
    data = ImageData(torch.zeros(40, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadInput, match="not even one image a process"):
        with_batch(Recipe(batch="auto"), tmp_path / "r", data, Runtime(torch.device("cpu"), world=6))
    assert tried == [60, 30, 12, 6]


def test_a_batch_that_is_to_be_found_is_no_number_elsewhere():
    with pytest.raises(BadInput, match=r"batch='auto' is found by train\(\)"):
        Recipe(batch="auto").flow(ImageData(torch.zeros(4, 1, 8, 8, dtype=torch.uint8)), CPU)
    with pytest.raises(BadInput, match="batch='automatic': expected a whole number"):
        Recipe(batch="automatic")
    with pytest.raises(BadInput, match="iters='auto'"):
        Recipe(iters="auto")
