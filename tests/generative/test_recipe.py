"""Recipes: plain data in and out, and the flow that they stand for."""

import dataclasses
import math

import pytest
import torch

from wgflow import JKO, BadInput, Softplus, why_not
from wgflow.generative import RECIPES, ImageData, NetworkPair, Recipe, Runtime
from wgflow.generative.nets import ConvCritic, ConvGenerator
from wgflow.measures import Smoothed

CPU = Runtime(torch.device("cpu"))
MINE = NetworkPair(ConvGenerator, ConvCritic)


def tiny_data() -> ImageData:
    rng = torch.Generator().manual_seed(0)
    return ImageData(torch.randint(256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8))


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_survives_yaml(name, tmp_path):
    RECIPES[name].save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == RECIPES[name] == Recipe.load(name)


def test_the_cifar_recipe_holds_the_published_hyper_parameters():
    r = RECIPES["cifar10-small"]
    published = dict(step_size=0.1, num_steps=50, first_iters=10_000, iters=2_000, batch=256, lr=(2e-4, 1e-4))
    assert {k: r.options[k] for k in published} == published
    assert 0.5 ** (256 / r.ema_half_life) == pytest.approx(0.9999, abs=1e-7)
    # tau = 1e-3 on the summed cost of 3072 coordinates, in the mean convention.
    assert RECIPES["cifar10-small-source-fixed"].options["step_size"] == pytest.approx(0.1628, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step_size": 0.0}, "step_size=0.0: expected a positive"),
        ({"step_size": math.nan}, "step_size=nan"),
        ({"num_steps": 0}, "num_steps=0: expected a whole number from 1 up"),
        ({"iters": 0}, "iters=0"),
        ({"batch": 0}, "batch=0"),
        ({"snapshot": "both"}, "snapshot='both': expected one of"),
        ({"latent_coupling": "no"}, "latent_coupling='no'"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(Recipe(), **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divergance: kl\n", "no 'divergance': did you mean 'divergence'"),
        ("batch: many\n", "batch='many': expected a whole number"),
        ("batch: 1.5\n", "batch=1.5: expected a whole number"),
        ("flip: 3\n", "flip=3: expected true or false"),
        ("options: 4\n", "options=4: expected a dictionary of options by name; a file has a line for each"),
        ("options:\n", "options=None: expected a dictionary"),
        ("method.batch: 4\nbatch: 8\n", "batch and method.batch are one option, and both are given"),
        ("attention: 16\n", "attention=16: expected text or nothing. In a file, text that reads as a number"),
        ("data: no\n", "data=False: expected text. In a file, text that reads as .* yes or no stands in quotes"),
        ("- a\n- b\n", "holds a list"),
        ("a: [\n", "not valid YAML"),
        ("flip: !!bool x\n", "not valid YAML"),
        ("seed: !!int ''\n", "not valid YAML"),
        ("data: !!timestamp x\n", "not valid YAML"),
        ("seed: 010\n", "'010', which YAML reads as 8"),
        ("seed: 1:30\n", "'1:30', which YAML reads as 90"),
        ("step_size: 1:30.5\n", r"'1:30.5', which YAML reads as 90.5"),
    ],
)
def test_bad_files_are_refused_by_name(text, message, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        Recipe.load(tmp_path / "r.yaml")


def test_numbers_as_people_write_them(tmp_path):
    (tmp_path / "r.yaml").write_text("lr: 1e-3, 1e-4\nstep_size: .inf\nnum_steps: 1\nmethod.lr_floor: null\n")
    o = Recipe.load(tmp_path / "r.yaml").options
    assert (o["lr"], o["step_size"], o["lr_floor"]) == ((1e-3, 1e-4), math.inf, None)


def test_unknown_names_list_near_misses():
    with pytest.raises(BadInput, match="did you mean 'fashion-mnist'"):
        Recipe.load("fashion-mnis")
    with pytest.raises(BadInput, match="did you mean 'small'"):
        Recipe(network="smal").networks((3, 32, 32))
    with pytest.raises(BadInput, match="cannot be imported"):
        Recipe(network="no_such_module:PAIR").networks((3, 32, 32))
    with pytest.raises(BadInput, match="expected a NetworkPair"):
        Recipe(network="math:pi").networks((3, 32, 32))
    with pytest.raises(BadInput, match="did you mean 'softplus'"):
        Recipe(divergence="sofplus").flow(tiny_data(), CPU)


def test_a_network_of_the_users_own():
    generator, critic = Recipe(network=f"{__name__}:MINE", channels=4).networks((1, 8, 8))
    assert isinstance(generator, ConvGenerator)
    assert isinstance(critic, ConvCritic)


def test_the_flow_is_the_composition_that_the_recipe_says():
    r = Recipe(channels=4, instance_noise=True, latent_coupling="independent", snapshot="ema", r1=0.3, r1_every=4)
    flow = r.flow(tiny_data(), CPU)
    assert why_not(flow.functional, flow.solver, flow.initial) is None
    assert isinstance(flow.functional, Softplus)
    assert isinstance(flow.functional.target, Smoothed)
    assert isinstance(flow.solver, JKO)
    assert (flow.solver.cost, flow.solver.latent, flow.solver.snapshot) == ("mean", "independent", "ema")
    assert (flow.solver.estimator.r1.gamma, flow.solver.estimator.r1.every) == (0.3, 4)
    assert flow.initial.ema == pytest.approx(0.5 ** (64 / 5000))


def test_a_batch_is_shared_evenly_over_the_ranks():
    two = Runtime(torch.device("cpu"), rank=1, world=2)
    assert two.share_of(64) == 32
    with pytest.raises(BadInput, match="batch=7 cannot be divided over 2"):
        two.share_of(7)
