"""Every constructor says what it expects in its annotations, and refuses anything else before it does anything with it."""

import dataclasses
import inspect
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_origin

import numpy as np
import pytest
import torch
from torch import nn

import wgflow
import wgflow.generative
from wgflow import (
    ESTIMATORS,
    FUNCTIONALS,
    KL,
    RBF,
    SOLVERS,
    Adam,
    Autograd,
    BadInput,
    Chain,
    Checkpoint,
    Dataset,
    EnergyDistance,
    Evaluate,
    Functional,
    Gaussian,
    GaussianMixture,
    JsonLog,
    Kernel,
    Measure,
    Particles,
    Progress,
    Pushforward,
    Save,
    StandardNormal,
    StopAt,
    StopWhen,
    StopWhenFlat,
    Unnormalised,
    maps,
    metrics,
    optim,
    presets,
    reference,
)
from wgflow.core.fields import Checked, Count, Finite, Positive, PositiveOrInfinite, checked, field_rules
from wgflow.core.rules import resolved, rule_of
from wgflow.driver import pacing, schedules
from wgflow.kernels import InverseMultiquadric, Laplace, Matern, PowerLaw, Riesz
from wgflow.optim import TridiagonalNewton
from wgflow.testing._arguments import refuses_wrong_arguments

NORMAL, CLOUD = StandardNormal(2), Particles(torch.zeros(3, 2))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))


MADE: dict[str, Any] = {
    **{f"functional {name}": lambda name=name: FUNCTIONALS[name].example() for name in FUNCTIONALS},
    **{f"estimator {name}": lambda name=name: ESTIMATORS[name].example() for name in ESTIMATORS},
    **{f"solver {name}": lambda name=name: SOLVERS[name].example(Autograd()) for name in SOLVERS},
    "multiple": lambda: 0.5 * EnergyDistance(NORMAL),
    "sum": lambda: KL(NORMAL) + EnergyDistance(NORMAL),
    "rbf": lambda: RBF(1.0),
    "laplace": lambda: Laplace(1.0),
    "imq": lambda: InverseMultiquadric(1.0),
    "matern": lambda: Matern(1.0),
    "riesz": Riesz,
    "power law": lambda: PowerLaw(2.0),
    "kernel sum": lambda: RBF(1.0) + RBF(2.0),
    "kernel density": lambda: wgflow.KernelDensity(RBF(1.0)),
    "chain": lambda: Chain(NORMAL, lambda: maps.Affine(2)),
    "pushforward": lambda: Pushforward(NORMAL, net),
    "regression": lambda: wgflow.Regression(Adam()),
    "grid": lambda: wgflow.Grid(torch.ones(3), (0.0,), (1.0,)),
    "dataset": lambda: Dataset(torch.zeros(3, 2)),
    "smoothed": lambda: wgflow.Smoothed(NORMAL, lambda k: 0.1),
    "adam": Adam,
    "sgd": lambda: optim.SGD(0.1),
    "lbfgs": optim.LBFGS,
    "newton": TridiagonalNewton,
    "cosine": lambda: optim.Cosine(10, 0.1),
    "geometric": lambda: schedules.Geometric(1.0, 0.5),
    "power decay": lambda: schedules.PowerDecay(1.0, 0.5),
    "piecewise": lambda: schedules.Piecewise((1.0, 0.5), (3,)),
    "halving": lambda: schedules.Halving(1.0, 3),
    "equal movement": lambda: pacing.EqualMovement(0.1, 0.1),
    "r1": lambda: wgflow.R1(0.1),
    "evaluate": lambda: Evaluate([metrics.Moments()]),
    "stop at": lambda: StopAt(1.0),
    "stop when": lambda: StopWhen(lambda row: False),
    "stop when flat": lambda: StopWhenFlat("key"),
    "checkpoint": lambda: Checkpoint("folder"),
    "save": Save,
    "moments": metrics.Moments,
    "functional value": lambda: metrics.FunctionalValue(EnergyDistance(NORMAL)),
    "memorization": lambda: metrics.Memorization(torch.eye(7), n=7),
    "sinkhorn metric": lambda: metrics.SinkhornMetric(NORMAL, n=4, blur=1.0),
    "tableau": lambda: wgflow.Tableau(((0.5,),), (0.0, 1.0)),
    "flow": lambda: presets.ula(NORMAL, CLOUD),
    "barenblatt": lambda: reference.Barenblatt(2, 2.0, 1.0),
    "ornstein-uhlenbeck": lambda: reference.OrnsteinUhlenbeck(torch.eye(2), torch.zeros(2)),
}


@pytest.mark.parametrize("name", MADE)
def test_a_wrong_value_is_refused_or_meant(name: str) -> None:
    """Nothing but the library's own errors leaves a constructor, whatever is given for any of its fields."""
    refuses_wrong_arguments(MADE[name]())


def ours() -> list[type]:
    found, left = set(), [Checked]
    while left:
        kinds = left.pop().__subclasses__()
        left += kinds
        found |= {k for k in kinds if dataclasses.is_dataclass(k) and k.__module__.startswith("wgflow.")}
    return sorted(found, key=lambda k: k.__qualname__)


@pytest.mark.parametrize("kind", ours(), ids=lambda k: k.__qualname__)
def test_every_field_of_ours_has_a_rule_that_bounds_numbers(kind: type) -> None:
    """An annotation that is not understood, or a bare float or int, would let anything through."""
    rules = {name for name, _ in field_rules(kind)}
    for f in dataclasses.fields(kind):
        if not f.init or f.name.startswith("_"):
            continue
        owner = next(c for c in kind.__mro__ if f.name in inspect.get_annotations(c))
        hint = resolved(f.type, owner.__module__)
        if hint is Any or get_origin(hint) is dict:
            continue
        assert f.name in rules
        assert hint not in (float, int), f"{kind.__name__}.{f.name}: say which numbers, such as Positive or Count"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Adam(lr="0.1"), r"Adam\(lr='0.1'\): expected a positive, finite number. That is text: write 0.1"),
        (lambda: Adam(betas=(2, 2)), r"Adam\(betas=\(2, 2\)\): expected a tuple of 2: a number from 0 up and below 1"),
        (lambda: wgflow.JKO(iters=2.5), r"JKO\(iters=2.5\): expected a whole number from 1 up"),
        (lambda: wgflow.JKO(iters=2.0), r"JKO\(iters=2.0\): expected a whole number"),
        (lambda: wgflow.JKO(iters=math.nan), r"JKO\(iters=nan\): expected a whole number"),
        (lambda: wgflow.JKO(optim=torch.optim.Adam), r"JKO\(optim=<class .*expected an Optim"),
        (lambda: wgflow.JKO(cost="max"), r"JKO\(cost='max'\): expected one of 'sum', 'mean'"),
        (lambda: wgflow.R1(0.1, every=math.nan), r"R1\(every=nan\)"),
        (lambda: Checkpoint("c", every_updates=math.nan), r"Checkpoint\(every_updates=nan\)"),
        (lambda: metrics.Moments(n=-3), r"Moments\(n=-3\): expected a whole number from 1 up"),
        (lambda: wgflow.Stein(wgflow.MedianRBF), r"That is the class: write MedianRBF\(\)"),
        (lambda: wgflow.Stein(RBF), r"That is the class: write RBF\(...\)"),
        (lambda: wgflow.Stein("median"), r"did you mean MedianRBF\(...\)\?"),
        (lambda: wgflow.SquaredMMD(CLOUD, 0.5), r"Wrap the bandwidth: RBF\(0.5\)"),
        (lambda: wgflow.Blob(RBF(1.0)), r"Wrap the kernel: KernelDensity\(kernel\)"),
        (lambda: wgflow.ForwardEuler(RBF(1.0)), r"Wrap the kernel: Stein\(kernel\), KDEScore"),
        (
            lambda: KL(torch.zeros(3)),
            r"KL\(target=<tensor of shape \(3,\).*points is floating-point and finite, of shape \(n, \*event\)",
        ),
        (lambda: KL([[0.0, 1.0]]), r"Make a tensor of the points: torch.tensor\(x\)"),
        (lambda: KL(lambda x: -x.square().sum(1)), r"Unnormalised\(log_prob, d\)"),
        (lambda: KL(torch.distributions.Normal(0.0, 1.0)), r"Unnormalised\(p.log_prob, d\)"),
        (lambda: Evaluate(metrics.Moments()), r"expected a list.*Put it into a list"),
        (lambda: Evaluate([EnergyDistance(NORMAL)]), r"FunctionalValue\(F\)"),
        (lambda: wgflow.PotentialEnergy(lambda: 0.0), "expected a function of 1 argument"),
        (
            lambda: Gaussian([0.0], torch.eye(1)),
            r"Gaussian\(mean=\[0.0\]\): expected a tensor. Convert it: torch.tensor",
        ),
        (lambda: StandardNormal(2, device="gpu"), "device='gpu'.*expected a device that torch has here"),
        (lambda: StandardNormal(2, dtype=torch.int64), "expected a floating-point dtype"),
        (lambda: JsonLog(None), r"JsonLog\(path=None\)"),
        (lambda: Progress(keys="loss"), r"Progress\(keys='loss'\): expected a list"),
        (lambda: maps.Affine(2.0), r"Affine\(event_shape=2.0\): expected a whole number"),
        (lambda: presets.svgd(CLOUD, NORMAL), r"initial=.*expected a MovingMeasure. It cannot be moved"),
        (lambda: wgflow.entropy("kl", NORMAL, batch=0), r"batch=0: expected a whole number from 1 up"),
    ],
)
def test_the_message_names_field_value_and_what_is_expected(make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
            r"not symmetric, cov\[0, 1\] = 0.5 and",
        ),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "not positive definite"),
        (lambda: Gaussian(torch.tensor([0.0, math.nan]), torch.eye(2)), r"mean\[1\] = nan"),
        (
            lambda: Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2)),
            "mean is torch.float64, cov is torch.float32",
        ),
        (lambda: Gaussian(torch.zeros(2, dtype=torch.int64), torch.eye(2)), "floating-point dtype, got torch.int64"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 1.0, torch.zeros(2)), "not all 0"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 1.0, torch.tensor([1.0, math.nan])), r"weights\[1\] = nan"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 1.0, torch.tensor([1.0, -0.5])), "nonnegative weights"),
        (lambda: Particles(torch.zeros(5, 0)), r"positions of shape \(n, \*event\)"),
        (
            lambda: Particles(torch.zeros(2, 1), log_w=[0.0, 0.0]),
            r"log_w must have shape \(2,\).*got \[0.0, 0.0\]. Convert it: torch.tensor",
        ),
        (
            lambda: Particles(torch.zeros(2, 1), log_w=np.zeros(2)),
            r"log_w must have .*got <array .*. Convert it: torch.as_tensor\(log_w\)",
        ),
        (lambda: Unnormalised(lambda x: -x.square().sum(1)), "expected the sizes of one point"),
    ],
)
def test_laws_that_are_none_are_refused(make: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(2), 2),
        (torch.tensor(0.5), 0.5),
        (torch.tensor(3), 3),
        (np.array(0.25), 0.25),
        (2, 2),
    ],
)
def test_scalars_of_numpy_and_torch_become_plain_numbers(value: Any, plain: float) -> None:
    lr = Adam(lr=value).lr
    assert lr == plain
    assert type(lr) is type(plain)


def test_lists_become_tuples_where_a_tuple_is_declared() -> None:
    assert schedules.Piecewise([1.0, np.float64(0.5)], [np.int64(3)]) == schedules.Piecewise((1.0, 0.5), (3,))
    assert Adam(betas=[0.5, 0.9]) == Adam()


def test_a_tensor_stays_one_where_it_may() -> None:
    bandwidth = torch.tensor(0.5, requires_grad=True)
    assert RBF(bandwidth).bandwidth is bandwidth
    with pytest.raises(BadInput, match="expected a positive, finite number, or a 0-d tensor"):
        RBF(torch.ones(3))


@dataclass(frozen=True)
class Foreign(Functional):
    """Of another package: it calls nothing of ours."""

    target: Measure
    strength: float = 1.0
    rounds: "int" = None  # type: ignore[assignment]
    mystery: "NotImported" = 3  # type: ignore[name-defined] # noqa: F821
    note: Annotated[str, "a comment"] = "x"

    def __post_init__(self) -> None:
        assert isinstance(self.target, Measure), "checked before this"


def test_classes_of_other_packages_are_checked_without_a_call_of_theirs() -> None:
    assert Foreign(NORMAL, np.float64(2.0)).strength == 2.0
    assert Foreign(NORMAL).rounds is None  # a default is accepted whatever the annotation says
    assert Foreign(NORMAL, mystery="anything").mystery == "anything"
    for wrong, name in (
        ({"target": "x"}, "target"),
        ({"strength": math.nan}, "strength"),
        ({"rounds": 2.5}, "rounds"),
        ({"note": 3}, "note"),
    ):
        with pytest.raises(BadInput, match=rf"Foreign\({name}="):
            Foreign(**({"target": NORMAL} | wrong))


def test_fields_are_checked_once_however_deep_the_classes() -> None:
    looks = []

    class Counted(str):
        pass

    @dataclass(frozen=True)
    class Base(Kernel):
        scale: Positive = 1.0

        def __post_init__(self) -> None:
            looks.append(type(self).__name__)

    @dataclass(frozen=True)
    class Below(Base):
        other: Count = 1

        def __post_init__(self) -> None:
            super().__post_init__()

    with pytest.raises(TypeError):
        Below(scale=2.0)  # abstract, as any Kernel without a profile
    Below.__abstractmethods__ = frozenset()
    Below(scale=2.0)
    assert looks == ["Below"]
    with pytest.raises(BadInput, match=r"Below\(other=0\)"):
        Below(other=0)


def test_infinity_is_a_number_only_where_it_is_declared() -> None:
    assert rule_of(PositiveOrInfinite)(math.inf, "h={}") == math.inf
    for declared in (Positive, Finite):
        with pytest.raises(BadInput, match="h=inf: expected"):
            rule_of(declared)(math.inf, "h={}")


def test_the_arguments_of_functions_are_checked_by_their_names() -> None:
    @checked
    def scaled(x: Finite, *factors: Count, mode: Literal["a", "b"] = "a") -> float:
        return x * math.prod(factors)

    assert scaled(torch.tensor(2.0), 3, np.int64(4)) == 24.0
    with pytest.raises(BadInput, match="x='a': expected a finite number"):
        scaled("a")
    with pytest.raises(BadInput, match="factors=0: expected"):
        scaled(1.0, 2, 0)
    with pytest.raises(BadInput, match="mode='c': expected one of 'a', 'b'"):
        scaled(1.0, mode="c")
    with pytest.raises(TypeError, match="missing"):  # what is missing or unknown is said by Python
        scaled()
