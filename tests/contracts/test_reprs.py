"""What is printed of an object: at most ten lines, however large its tensors, and without waiting for a device."""

import functools
import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wgflow as wg
import wgflow.functionals
from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, MAPS, MEASURES, SOLVERS, Particles, presets
from wgflow.bench import PROBLEMS
from wgflow.generative import NETWORKS, RECIPES, Recipe

REGISTRIES = (FUNCTIONALS, ESTIMATORS, SOLVERS, KERNELS, MAPS, MEASURES, presets.PRESETS, PROBLEMS, NETWORKS, RECIPES)
BIG = torch.zeros(20_000, 3)


class Untouched(TorchDispatchMode):
    """Refuses every operation on a tensor that is large or not in the memory of the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for t in tree_leaves((args, kwargs)):
            assert not isinstance(t, torch.Tensor) or (t.device.type == "cpu" and t.numel() <= 6), func
        return func(*args, **(kwargs or {}))


def printed(value: object) -> str:
    with Untouched():
        text = repr(value)
    assert len(text) <= 1000
    assert len(text.splitlines()) <= 10
    assert max(map(len, text.splitlines())) <= 100
    assert " object at 0x" not in text
    return text


def _examples():
    for registry in (FUNCTIONALS, ESTIMATORS, KERNELS, MAPS, MEASURES):
        for name in registry:
            yield pytest.param(registry[name].example, id=f"{registry.kind}-{name}")
    for name in SOLVERS:
        yield pytest.param(functools.partial(SOLVERS[name].example, wg.Autograd()), id=f"solver-{name}")
    yield from (pytest.param(PROBLEMS[name], id=f"problem-{name}") for name in PROBLEMS)
    yield from (pytest.param(functools.partial(RECIPES.__getitem__, name), id=f"recipe-{name}") for name in RECIPES)


@pytest.mark.parametrize("make", list(_examples()))
def test_a_registered_part_is_printed_in_a_few_lines(make) -> None:
    value = make()
    assert printed(value).startswith((type(value).__name__, "PowerLaw"))  # a sum begins with its first term


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_functional_with_a_large_target_is_printed_in_a_few_lines(name: str) -> None:
    F = FUNCTIONALS[name].example()
    if not F.targets():
        return
    try:
        with_points = F.with_measures(lambda m: Particles(BIG))
    except wg.BadInput:  # it needs a density
        return
    assert "<tensor (20000, 3) float32 cpu>" in printed(with_points)


BIG_ONES = {
    "particles": lambda: Particles(BIG, BIG[:, 0], BIG[:, 1]),
    "dataset": lambda: wg.Dataset(BIG, labels=torch.arange(20_000)),
    "gaussian": lambda: wg.Gaussian(torch.zeros(50), torch.eye(50)),
    "mixture": lambda: wg.GaussianMixture(BIG, 0.1),
    "grid": lambda: wg.Grid(torch.full((200, 200), 1 / 40_000), (0.0, 0.0), (1.0, 1.0)),
    "pushforward": lambda: wg.Pushforward(
        wg.StandardNormal(3), torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(50)))
    ),
    "sum": lambda: sum((wg.KL(Particles(BIG)) for _ in range(30)), wg.W1(Particles(BIG))),
    "meta": lambda: Particles(torch.zeros(2, 2, device="meta")),
    "noncontiguous": lambda: Particles(BIG[:2].T),
    "flow": lambda: presets.svgd(wg.StandardNormal(3), Particles(BIG)),
    "points of a split": lambda: presets.PointSplit(BIG, BIG, BIG),
    "dual of KALE": lambda: wgflow.functionals.KALESolution(BIG[:, 0], BIG[:, 1], BIG[:, 2]),
    "nested": lambda: functools.reduce(lambda e, _: wg.EvaluationNoise(e, 0.1), range(50), wg.Autograd()),
}


@pytest.mark.parametrize("name", BIG_ONES)
def test_large_tensors_are_shown_by_their_shape(name: str) -> None:
    printed(BIG_ONES[name]())


def test_a_tensor_elsewhere_is_not_read_however_small() -> None:
    assert printed(BIG_ONES["meta"]()) == "Particles(x=<tensor (2, 2) float32 meta>)"


def test_short_tensors_of_the_host_show_their_entries_and_defaults_are_left_out() -> None:
    assert repr(Particles(torch.tensor([[0.5], [1.0]]))) == "Particles(x=tensor([[0.5], [1]]))"
    assert repr(wg.StandardNormal(3, 8, 8)) == "StandardNormal(3, 8, 8)"
    assert repr(wg.StandardNormal(3, dtype=torch.float64)) == "StandardNormal(3, dtype=torch.float64)"
    assert repr(wg.Langevin()) == "Langevin()"
    assert repr(wg.Langevin(batch=7)) == "Langevin(batch=7)"
    assert repr(wg.Stein(wg.RBF(0.5))) == "Stein(kernel=RBF(bandwidth=0.5))"


def test_sums_and_multiples_read_as_they_are_written() -> None:
    V, W = wg.PotentialEnergy(torch.linalg.norm), wg.Entropy()
    assert repr(V + 0.5 * W) == "PotentialEnergy(potential=linalg_norm) + 0.5 * Entropy()"
    assert repr(2 * (W + W)) == "2 * (Entropy() + Entropy())"
    assert repr(wg.RBF(1.0) - 2 * wg.RBF(2.0)) == "RBF(bandwidth=1.0) + -2 * RBF(bandwidth=2.0)"


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_a_registry_is_its_names_and_in_a_notebook_a_table(registry) -> None:
    text = printed(registry)
    assert text.startswith(f"{len(registry)} {registry.kind}s: ")
    assert [name for name in registry if not re.search(rf"\b{re.escape(name)}\b", text)] == []
    page = registry._repr_html_()
    assert page.count("<tr>") == 1 + len(registry)
    assert [name for name in registry if f"<td>{name}</td><td></td>" in page] == []


def test_a_registry_of_many_names_is_cut() -> None:
    many = wg.core.registry.Named("part", {f"a_rather_long_name_number_{i}": int for i in range(500)})
    assert printed(many).startswith("500 parts: ")


@pytest.fixture(scope="module")
def flow() -> wg.Solution:
    start = Particles(torch.randn(500, 2, generator=torch.Generator().manual_seed(0)))
    return presets.ula(wg.StandardNormal(2), start, step_size=0.05, num_steps=400).solve()


def test_a_solution_says_how_far_it_has_come(flow: wg.Solution) -> None:
    first, *rest = printed(flow).splitlines()
    assert re.fullmatch(r"Solution: done, 400 steps to t = 20 in .* s", first)
    assert rest[0] == "  measure: Particles(x=<tensor (500, 2) float32 cpu>)"
    assert rest[1] == "  saved: 401 states, t = 0 to 20"
    assert rest[2].startswith("  history: 400 records")
    page = flow._repr_html_()
    assert page.count("<tr>") == 13
    assert "<td>1</td>" in page
    assert "<td>400</td>" in page
    assert "Generator('cpu')" in printed(flow.state)


def test_a_solution_with_many_quantities_and_one_without_any(flow: wg.Solution) -> None:
    row = {f"a_quantity_of_a_long_name/{i}": float(i) for i in range(100)}
    printed(wg.Solution(flow.measure, flow.state, [0.0], [None], [{"k": 1, "t": 1.0} | row]))
    none = wg.Solution(flow.measure, flow.state)
    assert "saved: 0 states" in printed(none)
    assert none._repr_html_().count("<tr>") == 1


def test_a_recipe_shows_what_is_not_usual_and_reads_back() -> None:
    for recipe in (*RECIPES.values(), Recipe(method="w1_fe", persistent=2, flip=True)):
        assert eval(printed(recipe), {"Recipe": Recipe, "inf": np.inf}).plain().keys() == recipe.plain().keys()
    recipe = Recipe(method="w1_fe", persistent=2, flip=True)
    assert eval(repr(recipe), {"Recipe": Recipe}) == recipe
    assert repr(recipe) == "Recipe(data='fashion-mnist-10k', flip=True, method='w1_fe', persistent=2)"
    assert recipe._repr_html_().count("<tr>") > 10


@pytest.mark.parametrize(
    "value",
    [
        wg.Callback(),
        wg.Progress(["a"], disable=True),
        wg.Checkpoint("runs/x"),
        wg.Save(every=3),
        wg.Evaluate([wg.metrics.FunctionalValue(wg.KL(Particles(BIG)))]),
        wg.Adam(),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_a_run_is_given_is_printed_too(value: object) -> None:
    assert printed(value).startswith(type(value).__name__)


def test_a_message_names_an_object_in_one_line() -> None:
    with pytest.raises(wg.BadInput) as caught:
        wg.solve(Particles(BIG), wg.Langevin(), Particles(BIG), step_size=0.1, num_steps=1)
    assert "F=Particles(x=<tensor (20000, 3) float32 cpu>)" in str(caught.value)
