"""A part in the place of another kind of part is refused where it is given, with what to do, for every field of every part."""

import dataclasses
import inspect
import typing
from typing import Any

import numpy as np
import pytest
import torch
from test_fields import MADE
from torch import nn

import wgflow as wg
from wgflow import BadInput
from wgflow.core.errors import WgflowError
from wgflow.core.rules import resolved

NORMAL = wg.StandardNormal(2)
PARTS = {
    "functional": wg.EnergyDistance(NORMAL),
    "estimator": wg.Stein(wg.RBF(1.0)),
    "solver": wg.ForwardEuler(),
    "kernel": wg.RBF(1.0),
    "measure": NORMAL,
    "particles": wg.Particles(torch.zeros(3, 2)),
    "density model": wg.KernelDensity(wg.RBF(1.0)),
    "penalty": wg.R1(0.1),
    "flow": wg.presets.ula(NORMAL, wg.Particles(torch.zeros(3, 2))),
}
CLASSES = (wg.KL, wg.Stein, wg.ForwardEuler, wg.RBF, wg.StandardNormal, wg.KernelDensity, wg.R1, wg.Adam, wg.Solution)
RAW = {
    "array of numbers": np.zeros(3),
    "tensor of numbers": torch.zeros(3),
    "function": lambda x: -x.square().sum(1),
    "distribution": torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
}
EVERY = dict(MADE) | {
    f"{registry.kind} {name}": registry[name].example
    for registry in (wg.KERNELS, wg.MEASURES, wg.ESTIMATORS)
    for name in registry
}


def fields(made: Any) -> list[tuple[dataclasses.Field, tuple[type, ...]]]:
    """Return the fields of a dataclass that a user sets, each with the classes that its annotation names."""
    found = []
    for f in dataclasses.fields(made) if dataclasses.is_dataclass(made) else ():
        owner = next(c for c in type(made).__mro__ if f.name in inspect.get_annotations(c))
        if f.init and not f.name.startswith("_"):
            found.append((f, tuple(classes(resolved(f.type, owner.__module__)))))
    return found


def classes(hint: Any) -> list[type]:
    if isinstance(hint, type) and not typing.get_args(hint):
        return [] if getattr(hint, "_is_protocol", False) else [hint]
    origin = typing.get_origin(hint)
    if origin in (typing.Union, tuple, typing.Annotated) or "UnionType" in str(origin):
        return [c for part in typing.get_args(hint) for c in classes(part)]
    return []


def given(made: Any, field: str, value: Any) -> str | None:
    """Return what is said of a value for a field, None where it is taken."""
    try:
        dataclasses.replace(made, **{field: value})
    except WgflowError as error:  # a part of the right kind may be one that it has no law for
        return str(error)
    return None


@pytest.mark.parametrize("name", EVERY)
def test_another_kind_of_part_is_refused_with_what_to_do(name: str) -> None:
    made = EVERY[name]()
    for f, meant in fields(made):
        for kind, part in PARTS.items():
            said = given(made, f.name, part)
            if isinstance(part, meant):
                continue
            assert said is not None, f"{name}.{f.name} takes a {kind}"
            if type(made).__post_init__.__name__ == "first_checked" and "0-d" not in said:
                assert "expected" in said, said
                advice = said.partition("expected")[2]
                assert ". " in advice or " is a" in advice or "Wrap" in advice or "no position" in said, said


@pytest.mark.parametrize("name", EVERY)
def test_a_class_is_refused_where_an_object_is_meant(name: str) -> None:
    made = EVERY[name]()
    for f, _ in fields(made):
        for cls in CLASSES:
            assert given(made, f.name, cls) is not None, f"{name}.{f.name} takes the class {cls.__name__}"
        for network in (nn.ReLU, torch.optim.Adam):
            factory = "makes one" in str(f.type)
            assert factory or given(made, f.name, network) is not None, f"{name}.{f.name} takes {network.__name__}"


@pytest.mark.parametrize("name", EVERY)
def test_what_is_no_points_in_the_place_of_a_measure_says_what_to_write(name: str) -> None:
    made = EVERY[name]()
    for f, meant in fields(made):
        if wg.Measure not in meant or torch.Tensor in meant or type(made) is wg.Particles:
            continue
        for kind, value in RAW.items():
            said = given(made, f.name, value)
            assert said is not None, f"{name}.{f.name} takes a raw {kind}"
            assert "(n, *event)" in said or "Unnormalised(" in said, said


@pytest.mark.parametrize("name", EVERY)
def test_points_are_taken_for_a_measure_as_particles_of_them_are(name: str) -> None:
    made, x = EVERY[name](), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    for f, meant in fields(made):
        if not {wg.Measure, wg.MovingMeasure} & set(meant) or torch.Tensor in meant or type(made) is wg.Particles:
            continue
        wrapped = given(made, f.name, wg.Particles(x))
        for points in (x, x.numpy()):
            if wrapped is not None:
                assert given(made, f.name, points) == wrapped
                continue
            kept = getattr(dataclasses.replace(made, **{f.name: points}), f.name)
            assert isinstance(kept, wg.Particles)
            assert torch.equal(kept.x, x)
            assert kept.log_w is None


def test_a_tensor_keeps_its_type_and_an_array_is_copied_into_the_default_one() -> None:
    x = np.arange(10, dtype=np.float64).reshape(5, 2)[::-1]
    F = wg.EnergyDistance(x)
    x[:] = 0
    assert F.target.x.dtype == torch.float32
    assert F.target.x[0].tolist() == [8.0, 9.0]
    assert wg.EnergyDistance(torch.as_tensor(x.copy())).target.x.dtype == torch.float64
    torch.set_default_dtype(torch.float64)
    try:
        assert wg.EnergyDistance(x.astype(np.float16)).target.x.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((0, 2)),
        np.zeros((5, 2), dtype=int),
        np.full((5, 2), np.nan),
        np.full((5, 2), 1e300),  # not a number of float32
        np.zeros((5, 2), dtype=complex),
        np.array([["0.0", "1.0"]]),
        np.ma.masked_greater(np.eye(2), 0.5),
        torch.zeros(5, 2, dtype=torch.int64),
        torch.full((5, 2), torch.inf),
        torch.eye(2).to_sparse(),
        torch.zeros(5, 2, device="meta"),
    ],
    ids=lambda x: f"{type(x).__name__} {tuple(x.shape)} {x.dtype}",
)
def test_points_that_are_none_are_refused(x: Any) -> None:
    with pytest.raises(
        BadInput, match=r"target=<.* expected a Measure. An array of points is floating-point and finite"
    ):
        wg.EnergyDistance(x)


def test_a_flow_from_points_is_that_from_particles() -> None:
    x, y = torch.randn(13, 2, generator=torch.Generator().manual_seed(0)).split([6, 7])

    def end(start: Any, data: Any) -> torch.Tensor:
        assert wg.why_not(wg.EnergyDistance(data), wg.ForwardEuler(), start) is None
        return wg.solve(wg.EnergyDistance(data), wg.ForwardEuler(), start, step_size=0.1, num_steps=3).measure.x

    wrapped = end(wg.Particles(x), wg.Particles(y))
    assert torch.equal(end(x, y), wrapped)
    assert torch.equal(end(x.numpy(), y.numpy()), wrapped)
    flow = wg.presets.mmd_flow(y.numpy(), x.numpy(), kernel=wg.RBF(1.0), num_steps=2).solve()
    assert flow.measure.x.shape == x.shape


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: wg.KL(lambda x: x.sum(1)), r"Unnormalised\(log_prob, d\)"),
        (lambda: wg.ForwardEuler(wg.Stein), r"That is the class: write Stein\(...\)"),
        (lambda: wg.ForwardEuler(wg.JKO()), r"JKO is a solver: how time is discretized, solve\(F, solver, start"),
        (lambda: wg.JKO(wg.KL(NORMAL)), r"The functional goes first: solve\(F, solver, initial"),
        (lambda: wg.PotentialEnergy(NORMAL), r"StandardNormal is a measure"),
        (lambda: wg.PotentialEnergy(wg.RBF(1.0)), r"RBF is a kernel: give it to"),
        (lambda: wg.PotentialEnergy(nn.ReLU), r"expected a function of 1 argument. That is the class: write ReLU\(\)"),
        (lambda: wg.Stein(wg.KernelDensity(wg.RBF(1.0))), r"KernelDensity is a model of a density"),
        (lambda: wg.Particles(torch.zeros(2, 2), source=wg.RBF(1.0)), r"expected the Measure"),
        (lambda: wg.solve(wg.ForwardEuler(), wg.KL(NORMAL), NORMAL, step_size=1.0, num_steps=1), r"F=ForwardEuler"),
    ],
)
def test_what_is_said(make: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        make()
