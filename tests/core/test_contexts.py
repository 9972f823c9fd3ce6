"""A flow is the same whatever its caller has switched on, and leaves it as it was; threads and signals do not disturb it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from _compare import assert_same
from _flows import Seen, files, flow, newest, points, quadratic, tiny_pushforward
from torch import nn

import wgflow
from wgflow import (
    JKO,
    KL,
    RBF,
    Adam,
    BadInput,
    Callback,
    Critic,
    EnergyDistance,
    Evaluate,
    ForwardEuler,
    JsonLog,
    Langevin,
    MedianRBF,
    MetropolisLangevin,
    Particles,
    PotentialEnergy,
    Softplus,
    SquaredMMD,
    StandardNormal,
    Stein,
    StopWhen,
    solve,
)
from wgflow.core.context import full_precision


def cloud(n: int = 40, seed: int = 0) -> Particles:
    return Particles(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)))


def noisy_critic() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 1))


FLOWS: dict[str, Callable[[], dict[str, Any]]] = {
    "potential": lambda: {"F": PotentialEnergy(quadratic)},
    "MMD": lambda: {"F": SquaredMMD(cloud(30, 1), RBF(2.0)), "initial": cloud()},
    "energy distance": lambda: {"F": EnergyDistance(cloud(30, 1)), "initial": cloud()},
    "Langevin": lambda: {"F": KL(StandardNormal(2)), "solver": Langevin()},
    "MALA": lambda: {"F": KL(StandardNormal(2)), "solver": MetropolisLangevin()},
    "SVGD": lambda: {"F": KL(StandardNormal(5)), "solver": ForwardEuler(Stein(MedianRBF())), "initial": cloud()},
    "proximal": lambda: {"solver": JKO(optim=Adam(0.1), iters=3)},
    "S-JKO": lambda: {
        "F": Softplus(StandardNormal(2), batch=8),
        "solver": JKO(Critic(noisy_critic), Adam(1e-2), iters=2, batch=8),
        "initial": tiny_pushforward(),
    },
}


def result(kind: str, **options: Any) -> torch.Tensor:
    settings = {"F": PotentialEnergy(quadratic), "solver": ForwardEuler(), "initial": points(), "step_size": 0.1}
    measure = solve(**settings | {"num_steps": 3} | FLOWS[kind]() | options).measure
    return measure.x if isinstance(measure, Particles) else torch.cat([p.flatten() for p in measure.net.parameters()])


@contextlib.contextmanager
def default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


CONTEXTS: dict[str, Callable[[], AbstractContextManager]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast and no_grad": lambda: _both(torch.autocast("cpu", torch.bfloat16), torch.no_grad()),
}


@contextlib.contextmanager
def _both(*contexts: AbstractContextManager) -> Iterator[None]:
    with ExitStack() as stack:
        for c in contexts:
            stack.enter_context(c)
        yield


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_flow_is_the_same_inside_of_a_context(kind: str, context: str) -> None:
    plain = result(kind)
    with CONTEXTS[context]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
        found = result(kind)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")) == before
    assert torch.equal(found, plain)


@pytest.mark.parametrize("kind", ["potential", "Langevin", "S-JKO"])
def test_a_flow_is_the_same_under_a_default_device(kind: str) -> None:
    parts, plain = FLOWS[kind](), result(kind)
    with default_device("meta"):
        found = result(kind, **parts | {"initial": parts.get("initial", plain_points)})
    assert torch.equal(found, plain)


plain_points = points()


def test_a_default_dtype_does_not_reach_particles_of_another() -> None:
    parts = {"F": SquaredMMD(cloud(30, 1), RBF(2.0)), "initial": cloud()}
    plain = result("MMD")
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(result("potential", **parts), plain)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_tensor_of_inference_mode_in_a_function_is_named() -> None:
    with torch.inference_mode():
        scale = torch.ones(2)
    with pytest.raises(BadInput, match=r"made under torch\.inference_mode"):
        result("potential", F=PotentialEnergy(lambda x: (x * scale).square().sum(1)))


def test_values_and_velocities_are_those_of_float32_under_autocast() -> None:
    F, rho = SquaredMMD(cloud(30, 1), RBF(2.0)), cloud()
    velocity = lambda: wgflow.velocity_at(wgflow.Autograd(), F, rho, None, cloud(3, 2).x)  # noqa: E731
    value, there = F.value(rho), velocity()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(F.value(rho), value)
        assert torch.equal(velocity(), there)


def test_the_precision_of_products_comes_back_whoever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two threads may overlap in any order."""
    now = ["high"]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: now[0])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda p: now.__setitem__(0, p))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    first, second = full_precision(torch.device("cuda")), full_precision(torch.device("cuda"))
    seen = []
    for act in (first.__enter__, second.__enter__, lambda: first.__exit__(None, None, None)):
        act()
        seen.append(now[0])
    with contextlib.suppress(ValueError):
        second.__exit__(ValueError, ValueError(), None)
    assert (seen, now[0]) == (["highest"] * 3, "high")


# --- threads ----------------------------------------------------------------------------------------------------------


def test_flows_in_threads_are_the_flows_alone_and_leave_the_generator(tmp_path: Path) -> None:
    """The critics draw from the global generator, and all meet in the middle of every step."""
    alone = [result("S-JKO", seed=s, num_steps=4) for s in range(3)]
    torch.manual_seed(11)
    expected = torch.get_rng_state()
    meet = threading.Barrier(3)

    class Meet(Callback):
        def on_update(self, run, info):
            meet.wait(60)

    found: dict[int, torch.Tensor] = {}

    def work(seed: int) -> None:
        metric = lambda rho, rng: {"x": torch.rand(()).item()}  # noqa: E731
        found[seed] = result("S-JKO", seed=seed, num_steps=4, callbacks=[Meet(), Evaluate([metric])])

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for s in range(3):
        assert torch.equal(found[s], alone[s])
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_flow_inside_of_a_callback_does_not_change_the_outer_one() -> None:
    class Inner(Callback):
        def on_update(self, run, info):
            result("S-JKO", seed=9)

    plain = result("S-JKO")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert torch.equal(result("S-JKO", callbacks=[Inner()]), plain)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_comes_back_after_an_error() -> None:
    class Fail(Callback):
        def on_update(self, run, info):
            raise KeyError("no")

    before = torch.get_rng_state()
    with pytest.raises(KeyError):
        result("S-JKO", callbacks=[Fail()])
    assert torch.equal(torch.get_rng_state(), before)


# --- signals ----------------------------------------------------------------------------------------------------------


class Signal(Callback):
    """Sends this process a signal in the middle of a run."""

    def __init__(self, number: int, after: int, times: int = 1) -> None:
        self.number, self.after, self.times = number, after, times

    def on_update(self, run, info):
        if run.updates == self.after:
            for _ in range(self.times):
                signal.raise_signal(self.number)


@pytest.mark.parametrize("after", [3, 7])
def test_ctrl_c_saves_first_and_the_run_goes_on_bit_for_bit(tmp_path: Path, after: int) -> None:
    """Also in the middle of a time step."""
    settings = FLOWS["S-JKO"]() | {"solver": JKO(Critic(noisy_critic), Adam(1e-2), iters=4, batch=8), "num_steps": 3}
    at = lambda name: {"checkpoint": wgflow.Checkpoint(tmp_path / name)}  # noqa: E731
    flow(tmp_path, **settings | at("whole") | {"callbacks": [Seen()]})
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        flow(tmp_path, **settings | at("parts") | {"callbacks": [Signal(signal.SIGINT, after)]})
    assert signal.getsignal(signal.SIGINT) is handler
    assert newest(tmp_path / "parts")["ledger"]["updates"] == after
    seen = Seen()
    flow(tmp_path, **settings | at("parts") | {"callbacks": [seen]})
    assert seen.updates == 12 - after
    assert_same(newest(tmp_path / "parts"), newest(tmp_path / "whole"))


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        flow(tmp_path, callbacks=[Signal(signal.SIGINT, 3, times=2)])
    assert newest(tmp_path)["ledger"]["updates"] == 2


def test_a_handler_that_goes_on_gets_the_solution(tmp_path: Path) -> None:
    called = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: called.append(len(files(tmp_path))))
    try:
        solution = flow(tmp_path, callbacks=[Signal(signal.SIGTERM, 4)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (called, solution.status, solution.state.k) == ([3], "stopped", 4)
    assert flow(tmp_path).status == "done"


def test_without_a_checkpoint_ctrl_c_acts_at_once() -> None:
    seen = Seen()
    with pytest.raises(KeyboardInterrupt):
        result("potential", callbacks=[Signal(signal.SIGINT, 2), seen])
    assert seen.updates == 1


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_saves_and_then_ends_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, signal; sys.path[:0] = sys.argv[2:]\n"
        "import _flows, pathlib, test_contexts\n"
        "_flows.flow(pathlib.Path(sys.argv[1]), callbacks=[test_contexts.Signal(signal.SIGTERM, 4)])\n"
    )
    here = Path(__file__).parent
    folders = map(str, (here, here.parent, Path(wgflow.__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *folders], capture_output=True)
    assert done.returncode == -signal.SIGTERM
    assert newest(tmp_path)["ledger"]["updates"] == 4


# --- the last law -----------------------------------------------------------------------------------------------------


def test_the_last_law_of_a_stopped_run_is_evaluated(tmp_path: Path) -> None:
    metric = lambda rho, rng: {"x": float(rho.x.sum())}  # noqa: E731
    stop = StopWhen(lambda row: row["k"] >= 5)
    callbacks = [Evaluate([metric], every=3), JsonLog(tmp_path / "log"), stop]
    solution = flow(tmp_path / "run", num_steps=9, callbacks=callbacks)
    assert (solution.status, [row["k"] for row in solution.history if "x" in row]) == ("stopped", [3, 5])
    assert solution.history[-1]["x"] == float(solution.measure.x.sum())
    assert newest(tmp_path / "run")["history"][-1]["x"] == solution.history[-1]["x"]
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith('{"kind": "stop", "k": 5')
    assert f'"x": {solution.history[-1]["x"]}' in last
