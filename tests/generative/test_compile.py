"""Compiled training: the numbers of eager code, whole runs to the last bit, nothing of it in files, and refusals before work starts."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wgflow as wg
from wgflow import BadInput, MissingDependency
from wgflow.cli import main
from wgflow.core import compiling
from wgflow.generative import ImageData, Recipe, Runtime, load_generator, runtime, sample, train
from wgflow.storage.describe import describe

pytestmark = pytest.mark.skipif(torch.__version__ < (2, 11), reason="this torch cannot compile a gradient penalty")
CPU = torch.device("cpu")
LOSSES = {
    "s_jko, R1": {"method": "s_jko", "r1": 0.2, "instance_noise": True},
    "w1_fe, slopes of at most 1": {"method": "w1_fe", "critic_iters": 1},
}


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace, differentiate and split graphs as ever, and run them without the minutes that a C++ compiler takes."""
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")


def started(recipe: Recipe, compile: bool) -> tuple[Any, Any]:
    pixels = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flow = recipe.flow(ImageData(pixels, flip=True), Runtime(CPU, recipe.precision, compile=compile))
    torch.manual_seed(0)
    return flow, flow.solver.init(flow.functional, flow.initial, torch.Generator().manual_seed(0))


def updated(recipe: Recipe, compile: bool, updates: int = 3) -> tuple[Any, dict[str, torch.Tensor]]:
    flow, state = started(recipe, compile)
    for _ in range(updates):
        state, info = flow.solver.update(flow.functional, state, flow.step_size)
    return state, info


@pytest.mark.parametrize("name", LOSSES)
def test_compiled_updates_are_those_of_eager_code(name: str) -> None:
    recipe = Recipe(network="conv", channels=4, batch=8, **LOSSES[name])
    (state, info), (eager, told) = updated(recipe, True), updated(recipe, False)
    assert info.keys() == told.keys()
    for key, value in told.items():
        torch.testing.assert_close(info[key], value, rtol=1e-4, atol=1e-6, msg=key)
    nets = [state.estimator.net, eager.estimator.net]
    assert list(nets[0].state_dict()) == list(nets[1].state_dict())
    assert describe(nets[0]).keys() == describe(nets[1]).keys()
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert nets[0]._compiled_call_impl is not None
    assert nets[1]._compiled_call_impl is None


def test_half_precision_is_compiled_too() -> None:
    recipe = Recipe(network="conv", channels=4, batch=4, precision="bf16", method="s_jko", r1=0.2)
    (_, info), (_, told) = updated(recipe, True, 1), updated(recipe, False, 1)
    for key, value in told.items():
        torch.testing.assert_close(info[key], value, rtol=0.02, atol=1e-3, msg=key)  # bfloat16 has 3 digits


def counted(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    graphs: list[torch.Size] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(inputs[-1].shape)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return graphs


def test_rates_and_noise_that_change_compile_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an update reads on the host is no part of a graph: from the second time step on all of them are there."""
    graphs = counted(monkeypatch)
    flow, state = started(
        Recipe(network="conv", channels=4, batch=8, first_iters=3, iters=3, **LOSSES["s_jko, R1"]), True
    )
    rates, compiled = [], []
    for _ in range(9):
        state, _ = flow.solver.update(flow.functional, state, flow.step_size)
        rates.append(state.estimator.descent.optimizer.param_groups[0]["lr"])
        compiled.append(len(graphs))
    assert len(set(rates)) == len(rates)
    assert state.k == 3
    assert compiled[0] > 0
    assert compiled[-1] == compiled[5]


def test_a_copy_is_compiled_with_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with parametrizations copies all that it holds, what was compiled of it as well."""
    graphs, x = counted(monkeypatch), torch.randn(3, 2)
    net = compiling.mark(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 1)), True)
    before = compiling.run(net, x).detach()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.bias.add_(100.0)
    assert float((compiling.run(other, x).detach() - before).min()) > 50
    compiled = len(graphs)
    assert float((compiling.run(other, x).detach() - before).min()) > 50
    assert len(graphs) == compiled
    assert float((compiling.run(other.eval(), x).detach() - before).min()) > 50


def test_in_evaluation_mode_a_network_is_called_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        """As nn.Linear, whose own call only new versions of torch trace."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    graphs, net = counted(monkeypatch), compiling.mark(Own(2, 1), True)
    compiling.run(net, torch.randn(3, 2))
    net.eval()
    for n in (3, 4, 5):
        compiling.run(net, torch.randn(n, 2))
    assert len(graphs) == 1


@functools.cache
def tiny(pictures: Path) -> Recipe:
    return Recipe(
        data=str(pictures),
        channels=4,
        batch=8,
        num_steps=2,
        first_iters=4,
        iters=4,
        evaluate_every=4,
        sinkhorn_n=0,
        r1=0.2,
    )


def test_a_compiled_run_goes_on_to_the_last_bit_and_leaves_no_trace(pictures: Path, tmp_path: Path) -> None:
    recipe = tiny(pictures).changed(compile=True)
    whole = train(recipe, tmp_path / "whole", device="cpu", progress=False)
    first = wg.StopWhen(lambda row: row["k"] == 1)
    begun = train(recipe, tmp_path / "parts", device="cpu", callbacks=[first], progress=False)
    assert begun.status == "stopped"
    ended = train(recipe, tmp_path / "parts", device="cpu", progress=False)
    assert ended.status == whole.status == "done"
    for ours, theirs in zip(ended.measure.map.parameters(), whole.measure.map.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(*(sample(load_generator(tmp_path / name, "cpu"), 3) for name in ("whole", "parts")))
    held = [p for p in (tmp_path / "whole").rglob("*") if p.is_file()]
    assert not any(word in p.read_bytes() for p in held for word in (b"_orig_mod", compiling.MARK.encode()))


def test_a_run_goes_on_with_and_without(pictures: Path, tmp_path: Path) -> None:
    recipe = tiny(pictures)
    train(recipe, tmp_path / "run", device="cpu", progress=False)
    for steps, how in ((3, True), (4, False)):
        longer = recipe.changed(num_steps=steps, compile=how)
        assert train(longer, tmp_path / "run", device="cpu", progress=False).state.k == steps


def test_a_command_compiles(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(compiling, "_options", lambda how: asked.append(how) or {"backend": "eager"})
    assert main(["train", *options, "--num-steps", "1", "--compile", "--folder", str(tmp_path / "run")]) == 0
    assert set(asked) == {True}


def test_what_cannot_be_compiled_is_refused_before_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="CUDA graphs need a GPU"), runtime("cpu", compile="graphs"):
        pass
    for wrong in ("yes", 1, None, "Graphs"):
        with pytest.raises(BadInput, match="compile="), runtime("cpu", compile=wrong):
            pass
    with pytest.raises(BadInput, match="compile=True is not for method sliced_w_flow"):
        Recipe(method="sliced_w_flow", compile=True)
    assert Recipe(compile=True).changed(method="sliced_w_flow").compile is False
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependency, match="compiler"), runtime("cpu", compile=True):
        pass
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.10.1"))
    with pytest.raises(MissingDependency, match=r"torch 2\.11 or newer"), runtime("cpu", compile=True):
        pass


@pytest.mark.parametrize(
    ("options", "how", "message"),
    [
        (
            {"method": "gwf"},
            True,
            "compile=True: torch cannot trace a distance between learned features, which method gwf",
        ),
        ({"method": "s_jko", "accumulate": 2}, "graphs", "the replay of a graph writes over gradients that are held"),
    ],
)
def test_flows_that_cannot_be_compiled_are_refused_when_they_are_made(
    options: dict[str, Any], how: Any, message: str
) -> None:
    data = ImageData(torch.zeros(8, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(BadInput, match=message):
        Recipe(channels=4, batch=8, **options).flow(data, Runtime(CPU, compile=how))
    Recipe(channels=4, batch=8, **options).flow(data, Runtime(CPU))


def test_a_loss_that_cannot_be_traced_says_so() -> None:
    class Read(wg.KL):
        def f_star(self, u: torch.Tensor) -> torch.Tensor:
            return super().f_star(u if u.max() < 9 else u.clamp(max=9))

    net = compiling.mark(torch.nn.Linear(2, 1), True)
    critic, nu = wg.Critic(net), wg.Particles(torch.randn(8, 2))
    with pytest.raises(BadInput, match="cannot trace this loss"):
        wg.solve(Read(nu), wg.ForwardEuler(critic), wg.Particles(torch.randn(8, 2)), step_size=0.1, num_steps=1)


@pytest.mark.slow
def test_generated_code_gives_the_numbers_of_eager_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    compiling.check_compiles(True, CPU)
    recipe = Recipe(network="conv", channels=4, batch=8, method="s_jko", r1=0.2)
    (_, info), (_, told) = updated(recipe, True), updated(recipe, False)
    for key, value in told.items():
        torch.testing.assert_close(info[key], value, rtol=1e-3, atol=1e-5, msg=key)
