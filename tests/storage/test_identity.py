"""What tells one run from another: whatever decides its result, in this process and in the next; nothing else."""

import collections
import dataclasses
import enum
import functools
import importlib
import json
import math
import operator
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _flows import Seen, files, flow, load, points
from torch import nn

import wgflow
from wgflow import (
    JKO,
    KL,
    Checkpoint,
    CheckpointError,
    Critic,
    Gaussian,
    Langevin,
    Particles,
    PotentialEnergy,
    Pushforward,
    StandardNormal,
    Unnormalised,
)
from wgflow.storage import files as checkpoint_files
from wgflow.storage.describe import UNKNOWN, describe, differences


def made(code: str, name: str = "f", **there: Any) -> Any:
    """An object of a module of the user's, from its source."""
    module = types.ModuleType("theirs")
    vars(module).update({"torch": torch, "nn": nn, "math": math, "dataclasses": dataclasses} | there)
    exec(compile(code, "theirs.py", "exec"), vars(module))
    return vars(module)[name]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Bowl:
    def __init__(self, centre: float) -> None:
        self._centre = centre

    def __call__(self, x):
        return (x - self._centre).square().sum(1)

    def energy(self, x):
        return (x - self._centre).square().sum(1)

    @functools.cached_property
    def doubled(self) -> float:
        return 2 * self._centre


Pair = collections.namedtuple("Pair", "a")


class Named(dict):
    def __init__(self, entries: dict, extra: int) -> None:
        super().__init__(entries)
        self.extra = extra


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a: int) -> None:
        self.a = a


def closed_over(centre: Any) -> Callable:
    return lambda x: (x - centre).square().sum(1)


def network(activation: nn.Module, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), activation)
    for name, value in changes.items():
        setattr(net[0], name, value)
    return net


def entries(*changed: int) -> torch.Tensor:
    t = torch.zeros(400_000)
    t[list(changed)] = 1.0
    return t


LINEAR = "class f(nn.Module):\n    scale = {}\n    def forward(self, x):\n        return {}\n"
TWO = {
    "lambdas": (lambda x: x, lambda x: -x),
    "constants": (lambda x: 2 * x, lambda x: 3 * x),
    "an integer and a float": (lambda x: 2 * x, lambda x: 2.0 * x),
    "methods called": (lambda x: x.sin(), lambda x: x.cos()),
    "closures": (closed_over(0.0), closed_over(1.0)),
    "closures with tensors": (closed_over(torch.zeros(2)), closed_over(torch.ones(2))),
    "closures with functions": (closed_over(torch.sin), closed_over(torch.cos)),
    "defaults": (made("f = lambda x, a=1: a * x"), made("f = lambda x, a=2: a * x")),
    "keyword defaults": (made("f = lambda x, *, a=1: a * x"), made("f = lambda x, *, a=2: a * x")),
    "globals": (made("f = lambda x: a * x", a=1), made("f = lambda x: a * x", a=2)),
    "globals of globals": (
        made("g = lambda x: a * x\nf = lambda x: g(x)", a=1),
        made("g = lambda x: a * x\nf = lambda x: g(x)", a=2),
    ),
    "globals inside a comprehension": (
        made("def f(x): return [a * y for y in x]", a=1),
        made("def f(x): return [a * y for y in x]", a=2),
    ),
    "attributes of a module": (
        made("f = lambda x: settings.a * x", settings=vars(types)["SimpleNamespace"](a=1)),
        made("f = lambda x: settings.a * x", settings=vars(types)["SimpleNamespace"](a=2)),
    ),
    "bound objects": (Bowl(0.0).energy, Bowl(1.0).energy),
    "methods of one object": (Bowl(0.0).energy, Bowl(0.0).__call__),
    "callable objects": (Bowl(0.0), Bowl(1.0)),
    "slots": (Slotted(1), Slotted(2)),
    "partials": (functools.partial(torch.mul, 2), functools.partial(torch.mul, 3)),
    "keywords of partials": (functools.partial(torch.sum, dim=0), functools.partial(torch.sum, dim=1)),
    "cached functions": (functools.cache(lambda x: x), functools.cache(lambda x: -x)),
    "built-in functions": (torch.sin, torch.cos),
    "methods of tensors": (torch.zeros(2).add, torch.ones(2).add),
    "functions of libraries": (nn.functional.relu, nn.functional.gelu),
    "functions of numpy": (np.sin, np.cos),
    "activations": (network(nn.ReLU()), network(nn.Tanh())),
    "dropout": (network(nn.Dropout(0.1)), network(nn.Dropout(0.2))),
    "slopes": (network(nn.LeakyReLU(0.1)), network(nn.LeakyReLU(0.2))),
    "batch normalisation": (network(nn.BatchNorm1d(2)), network(nn.BatchNorm1d(2, momentum=0.3))),
    "modes": (network(nn.Dropout(0.1)), network(nn.Dropout(0.1)).eval()),
    "weights": (network(nn.ReLU()), network(nn.ReLU(), weight=nn.Parameter(torch.zeros(2, 2)))),
    "frozen weights": (network(nn.ReLU()), network(nn.ReLU()).requires_grad_(False)),
    "networks of one name": (made(LINEAR.format(1, "x"))(), made(LINEAR.format(1, "-x"))()),
    "constants of classes": (made(LINEAR.format(1, "x * self.scale"))(), made(LINEAR.format(2, "x * self.scale"))()),
    "factories": (lambda: nn.ReLU(), lambda: nn.Tanh()),
    "densities": (Unnormalised(lambda x: -x.square().sum(1), 2), Unnormalised(lambda x: -x.abs().sum(1), 2)),
    "an entry of a large tensor": (entries(), entries(399_999)),
    "an entry between those of a sample": (entries(), entries(1)),
    "arrays": (np.zeros(3), np.ones(3)),
    "arrays of objects": (np.array([None, 1]), np.array([None, 2])),
    "numbers of numpy": (np.float32(1), np.float32(2)),
    "sets": ({1, 2}, {1, 3}),
    "enumerations": (Colour.RED, Colour.BLUE),
    "sizes": (torch.Size([2]), torch.Size([3])),
    "dictionaries": ({"a": 1}, {"a": 2}),
    "lists of many numbers": (list(range(1000)), [*range(999), 0]),
    "distributions": (torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(0.0, 2.0)),
    "generators": (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
    "generators of numpy": (np.random.default_rng(0), np.random.default_rng(1)),
    "complex numbers": (1j, 2j),
    "bytes": (b"a", b"b"),
    "ranges": (range(3), range(4)),
    "polynomials": (np.poly1d([1, 2]), np.poly1d([1, 3])),
    "attributes of dictionaries": (Named({"a": 1}, 1), Named({"a": 1}, 2)),
    "entries of dictionaries of the user's": (Named({"a": 1}, 1), Named({"a": 2}, 1)),
    "compiled functions": (torch.compile(lambda x: x), torch.compile(lambda x: -x)),
    "gradients": (torch.func.grad(lambda x: x.sum()), torch.func.grad(lambda x: x.max())),
    "decorated functions": (torch.no_grad()(lambda x: x), torch.no_grad()(lambda x: -x)),
    "items and methods by name": (operator.itemgetter(0), operator.methodcaller("sum", 1)),
    "methods put on an object": (network(nn.ReLU()), network(nn.ReLU(), forward=lambda x: x)),
    "named tuples": (Pair(1), Pair(2)),
    "counters": (collections.Counter("a"), collections.Counter("b")),
}


@pytest.mark.parametrize("kind", TWO)
def test_two_things_are_told_apart(kind: str) -> None:
    one, other = (describe(obj) for obj in TWO[kind])
    assert UNKNOWN not in json.dumps([one, other])
    assert differences(one, other)
    assert not differences(one, describe(TWO[kind][0]))


def test_what_is_compiled_is_told_as_what_it_was() -> None:
    f, net = (lambda x: -x), nn.Linear(1, 1)
    for plain, compiled in ((f, torch.compile(f)), (net, torch.compile(net))):
        assert not differences(describe(plain), describe(compiled))


SAME = {
    "a comment": ("def f(x):\n    return x\n", "def f(x):\n    # the identity\n\n    return x  # it\n"),
    "a docstring": ("def f(x):\n    return x\n", "def f(x):\n    '''The identity.'''\n    return x\n"),
    "a docstring inside": (
        "def f(x):\n    def g(y): return y\n    return g(x)",
        "def f(x):\n    def g(y):\n        '''It.'''\n        return y\n    return g(x)",
    ),
    "another place": ("def f(x): return x", "import math\n\n\ndef g(x): return 2 * x\n\n\ndef f(x): return x"),
    "names of variables": ("def f(x):\n    y = 2 * x\n    return y", "def f(x):\n    z = 2 * x\n    return z"),
    "annotations": ("class f:\n    a = 1", "class f:\n    '''A class.'''\n    a: int = 1"),
}


@pytest.mark.parametrize("kind", SAME)
def test_an_edit_that_changes_nothing_counts_for_nothing(kind: str) -> None:
    assert describe(made(SAME[kind][0])) == describe(made(SAME[kind][1]))


def test_a_name_of_a_method_is_no_global_of_that_name() -> None:
    """``x.scale()`` reads no global called scale."""
    code = "f = lambda x: x.scale()"
    assert describe(made(code, scale=1)) == describe(made(code, scale=2))


def test_what_an_object_has_only_kept_is_no_part_of_it() -> None:
    bowl, normal = Bowl(2.0), torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    before = describe(bowl), describe(normal)
    assert (bowl.doubled, normal.covariance_matrix.shape) == (4.0, (2, 2))
    assert (describe(bowl), describe(normal)) == before


def test_an_object_inside_of_itself_is_described() -> None:
    a, b = {"a": 1}, {"a": 1}
    a["self"], b["self"] = [a], [b]
    assert describe(a) == describe(b)
    assert describe(made("def f(x): return f(x - 1) if x else 0")) != describe(
        made("def f(x): return f(x - 1) if x else 1")
    )
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert UNKNOWN in json.dumps(describe(deep))


def test_locks_and_devices_with_a_number_do_not_count() -> None:
    assert describe(threading.Lock()) == describe(threading.Lock())
    assert describe(torch.device("cuda:0")) == describe(torch.device("cuda:1")) != describe(torch.device("cpu"))
    assert not differences(describe(float("nan")), describe(float("nan")))


def test_an_example_of_everything_registered_can_be_told() -> None:
    for registry in (wgflow.FUNCTIONALS, wgflow.ESTIMATORS):
        for name in registry:
            assert UNKNOWN not in json.dumps(describe(registry[name].example())), name


def test_a_description_is_the_same_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another seed of the hashes, at other addresses."""
    (tmp_path / "theirs.py").write_text(
        "import torch\nfrom torch import nn\nimport wgflow\nCENTRES = {'a', 'b', 'c', 'd'}\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.act = nn.Tanh()\n"
        "    def forward(self, x):\n        return self.act(x) if x in {'p', 'q', 'r', 's'} else super().forward(x)\n"
        "def log_prob(x):\n    '''A density.'''\n    return -x.sum(1) * len(CENTRES)\n"
        "def parts():\n    c = torch.ones(3)\n"
        "    return [lambda x: log_prob(x) * c, Net(), wgflow.Unnormalised(log_prob, 2), torch.tanh, Net]\n"
    )
    code = (
        "import json, theirs; from wgflow.storage.describe import describe; print(json.dumps(describe(theirs.parts())))"
    )
    env = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    here = describe(importlib.import_module("theirs").parts())
    assert json.loads(said) == here
    assert UNKNOWN not in said


def test_a_module_that_is_loaded_again_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loaded_again.py").write_text(
        "class A:\n    def __call__(self, x):\n        return B * x\nB = 2\nf = lambda x: A()(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("loaded_again")
    before = describe([module.f, module.A()])
    assert describe([importlib.reload(module).f, module.A()]) == before


# --- in a folder ------------------------------------------------------------------------------------------------------


def langevin(folder: Path, log_prob: Callable, name: str | None = None, **options: Any) -> wgflow.Solution:
    checkpoint = Checkpoint(folder, name=name)
    return flow(folder, F=KL(Unnormalised(log_prob, 2)), solver=Langevin(), checkpoint=checkpoint, **options)


def first(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * x.square().sum(1)


def second(x: torch.Tensor) -> torch.Tensor:
    return -0.5 * (x - 5).square().sum(1)


def unnamed(n: int) -> Callable:
    return [lambda x: x.square().sum(1), lambda x: (x - 5).square().sum(1)][n]


torch.manual_seed(0)
weights = nn.Linear(2, 1).state_dict()


def critic(activation: nn.Module) -> Critic:
    net = nn.Sequential(nn.Linear(2, 1), activation)
    net[0].load_state_dict(weights)
    return Critic(net)


def sjko(activation: nn.Module) -> dict[str, Any]:
    start = Pushforward(StandardNormal(2), lambda: nn.Linear(2, 2))
    return {
        "F": wgflow.Softplus(StandardNormal(2), batch=4),
        "solver": JKO(critic(activation), iters=2),
        "initial": start,
    }


RUNS = {
    "densities": lambda n: {"F": KL(Unnormalised((first, second)[n], 2)), "solver": Langevin()},
    "lambdas": lambda n: {"F": PotentialEnergy(unnamed(n))},
    "bound methods": lambda n: {"F": PotentialEnergy(Bowl(float(n)).energy)},
    "step sizes": lambda n: {"step_size": [lambda k: 0.1, lambda k: 0.1 + 0.01 * k][n]},
    "activations": lambda n: sjko((nn.ReLU(), nn.Tanh())[n]),
    "starts": lambda n: {"initial": Particles(entries(*range(n)).view(-1, 2))},
}


@pytest.mark.parametrize("kind", RUNS)
def test_the_result_of_another_run_is_never_returned(tmp_path: Path, kind: str) -> None:
    flow(tmp_path, num_steps=2, **RUNS[kind](0))
    seen = Seen()
    flow(tmp_path, num_steps=2, callbacks=[seen], **RUNS[kind](0))
    assert seen.updates == 0
    with pytest.raises(CheckpointError, match=r"none can be used(?s:.*)is of another run"):
        flow(tmp_path, num_steps=2, **RUNS[kind](1))


def test_a_name_settles_what_code_cannot(tmp_path: Path) -> None:
    langevin(tmp_path, first)
    with pytest.raises(
        CheckpointError, match=r"code is .* here and .* there.*give it a name.*Checkpoint\(\.\.\., name="
    ):
        langevin(tmp_path, second)
    seen = Seen()
    langevin(tmp_path, second, name="mine", num_steps=7, callbacks=[seen])
    assert seen.updates == 1
    langevin(tmp_path, first, name="mine", num_steps=8)
    with pytest.raises(CheckpointError, match="its name is 'yours' here and 'mine' there"):
        langevin(tmp_path, second, name="yours", num_steps=8)


def test_a_name_does_not_settle_numbers_tensors_and_classes(tmp_path: Path) -> None:
    langevin(tmp_path, first, name="mine")
    for change, message in (
        ({"step_size": 0.2}, "step_size is 0.2 here and 0.1 there"),
        ({"initial": points(4)}, r"measure.x is 'tensor \(4, 2\)"),
        ({"seed": 1}, "seed is 1 here"),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            langevin(tmp_path, first, name="mine", **change)
        assert "give it a name" not in str(caught.value)


def test_what_cannot_be_told_is_said_and_settled_by_a_name(tmp_path: Path) -> None:
    def energy(lines: Any) -> PotentialEnergy:
        return PotentialEnergy(lambda x: x.square().sum(1) * (lines is not None))

    generator = (i for i in range(3))
    flow(tmp_path, F=energy(generator))
    with pytest.raises(
        CheckpointError, match=r"whether functional\..*lines, a builtins.generator, is the same cannot be told.*name"
    ):
        flow(tmp_path, F=energy(generator))
    seen = Seen()
    flow(tmp_path, F=energy(generator), checkpoint=Checkpoint(tmp_path, name="mine"), callbacks=[seen])
    assert seen.updates == 0


def test_weights_from_a_factory_are_no_part_of_a_run(tmp_path: Path) -> None:
    """They follow from the seed, and another machine may round them in another way."""
    start = Pushforward(StandardNormal(2), lambda: nn.Linear(2, 2))
    sizes = {"F": wgflow.Softplus(StandardNormal(2), batch=4), "solver": JKO(Critic(lambda: nn.Linear(2, 1)), iters=2)}
    flow(tmp_path, num_steps=1, initial=start, **sizes)
    assert load(files(tmp_path)[0])["run"]["measure"]["net"].keys() == {"function", "code", "globals"}


def test_a_passed_state_counts_as_a_whole(tmp_path: Path) -> None:
    def state(seed: int) -> wgflow.State:
        return wgflow.solve(KL(StandardNormal(2)), Langevin(), points(), step_size=0.1, num_steps=2, seed=seed).state

    def go_on(start: wgflow.State) -> wgflow.Solution:
        return flow(tmp_path, F=KL(StandardNormal(2)), solver=Langevin(), state=start)

    go_on(state(0))
    go_on(state(0))
    with pytest.raises(CheckpointError, match=r"state\.measure\.x is"):
        go_on(state(1))


def as_before(folder: Path) -> None:
    """Give every checkpoint the description that the first version of wgflow wrote."""
    described = {
        "functional": {"class": "PotentialEnergy", "potential": "quadratic", "proximal": None},
        "solver": {"class": "ForwardEuler", "estimator": {"class": "Autograd"}, "batch": 256},
        "step_size": 0.1,
        "seed": 0,
        "measure": {
            "class": "Particles",
            "x": "tensor (3, 2) torch.float32 9f1f833a",
            "log_w": None,
            "log_rho": None,
            "source": None,
        },
    }
    for path in files(folder):
        saved = load(path)
        saved["run"] = described
        torch.save(saved, folder / "it")
        (folder / "it").rename(folder / f"{path.name[:18]}{checkpoint_files._digest(folder / 'it')}.pt")
        path.unlink()


def test_a_folder_of_the_first_format_is_compared_as_it_was(tmp_path: Path) -> None:
    flow(tmp_path)
    as_before(tmp_path)
    seen = Seen()
    flow(tmp_path, num_steps=8, callbacks=[seen])
    assert seen.updates == 2
    assert load(files(tmp_path)[0])["run"]["version"] == 2


@pytest.mark.parametrize(("base", "method"), [(wgflow.estimators.Autograd, "gradient"), (wgflow.Measure, "log_prob")])
def test_a_check_around_a_method_leaves_no_trace(base: type, method: str) -> None:
    """Descriptions, in folders of earlier runs too, are those of the method, also where it names its own class by super()."""

    class Own(base):  # type: ignore[misc]
        def gradient(self, F, rho, es):
            return super().gradient(F, rho, es)

        def log_prob(self, x):
            return super().log_prob(x)

    with_check = describe(Own)
    written = vars(Own)[method].__wrapped__
    setattr(Own, method, written)
    assert describe(Own) == with_check


def test_a_covariance_counts_and_its_root_does_not() -> None:
    normal = Gaussian(torch.zeros(2), torch.eye(2))
    before = describe(normal)
    normal.log_prob(torch.zeros(1, 2))
    assert describe(normal) == before != describe(Gaussian(torch.zeros(2), 2 * torch.eye(2)))
