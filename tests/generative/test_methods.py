"""Every preset as the method of a recipe: trained, killed and gone on with, drawn from and measured; also one of another package."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import wgflow as wg
from wgflow import BadInput, Checkpoint, CheckpointError, Incompatible
from wgflow.cli import main
from wgflow.generative import Recipe, evaluate, image_methods, load_generator, sample, train
from wgflow.generative.methods import method
from wgflow.presets import PRESETS

pytest.importorskip("torchvision")

TINY: dict[str, dict[str, Any]] = {
    "s_jko": {"num_steps": 2, "first_iters": 4, "iters": 3},
    "uotm_source_fixed": {"iters": 6},
    "otm": {"iters": 6},
    "f_gan": {"iters": 6},
    "classic_jko": {"pca": 4, "num_steps": 2, "iters": 3, "width": 8, "cached": 20},
    "mmd_flow": {"kernel": "riesz(1.0)", "num_steps": 7},
    "sliced_w_flow": {"pca": 5, "num_steps": 7},
    "sinkhorn_flow": {"blur": 1.0, "num_steps": 7},
}
"""Options of a training of a moment. A method without an entry is trained with few time steps of its own."""
NAMES = [m.name for m in image_methods()]


def tiny(name: str, pictures: Path, **changes: Any) -> Recipe:
    m = method(name)
    sizes = {"batch": 8, "num_steps": 7, "first_iters": 3, "iters": 2, "critic_iters": 2}
    options = {k: v for k, v in sizes.items() if k in m.options} | TINY.get(name, {})
    networks = {"channels": 4} if m.trains else {}
    cloud = {"particles": 30} if m.moves_images else {}
    plain = {"data": str(pictures), "evaluate_every": 3, "sinkhorn_n": 10, "method": name}
    return Recipe(**plain | networks | cloud | options | changes)


@pytest.fixture(scope="module", params=NAMES)
def whole(request: pytest.FixtureRequest, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of a method."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    assert train(tiny(request.param, pictures), folder, device="cpu", progress=False).status == "done"
    return folder


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_to_the_same_bits(
    whole: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = Checkpoint.write, list[int]()

    def killed(self: Any, run: Any, callbacks: Any, **wait: Any) -> None:
        write(self, run, callbacks, **wait)
        written.append(run.updates)
        if len(written) == 4:
            raise Killed

    recipe, folder = tiny(whole.name, pictures), tmp_path / "r"
    monkeypatch.setattr(Checkpoint, "write", killed)
    monkeypatch.setattr(Checkpoint, "due", lambda self, run, **when: True)
    with pytest.raises(Killed):
        train(recipe, folder, device="cpu", progress=False)
    monkeypatch.undo()
    solution = train(recipe, folder, device="cpu", progress=False)
    assert solution.status == "done"
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    ours, theirs = load_file(folder / "generator.safetensors"), load_file(whole / "generator.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_is_drawn_from_measured_and_drawn_as_curves(whole: Path) -> None:
    law = load_generator(whole, "cpu")
    images = sample(law, 7, seed=3)
    assert images.shape == (7, 1, 8, 8)
    assert float(images.abs().max()) <= 1
    torch.testing.assert_close(sample(law, 3, seed=3, first=4), images[4:], rtol=0, atol=1e-5)
    numbers = evaluate(whole, n=20, features="random-conv", device="cpu")
    assert {"frechet", "sinkhorn_excess"} <= numbers.keys()
    assert (whole / "curves.png").stat().st_size > 1000


def test_the_command_that_is_written_beside_a_run_makes_it_again(whole: Path, tmp_path: Path) -> None:
    words = ["train", str(whole / "recipe.yaml"), "--folder", str(tmp_path / "r"), "--device", "cpu"]
    assert main(words) == 0
    assert (tmp_path / "r" / "recipe.json").read_bytes() == (whole / "recipe.json").read_bytes()
    assert (tmp_path / "r" / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()


def pixels_twice() -> Any:
    return lambda x: [x.flatten(1), x.flatten(1)[:, :5]]


NO_ENCODER = 3


@pytest.mark.parametrize("name", ["random-conv", f"{__name__}:pixels_twice"])
def test_a_drift_compares_the_features_that_a_recipe_names(name: str, pictures: Path, tmp_path: Path) -> None:
    recipe = tiny("energy_drift", pictures, encoder=name)
    solution = train(recipe, tmp_path / "r", device="cpu", progress=False)
    assert solution.status == "done"
    assert Recipe.from_dict(recipe.plain()) == recipe
    if ":" in name:
        with pytest.raises(BadInput, match="names code to run: encoder="):
            load_generator(tmp_path / "r", "cpu")
    assert sample(load_generator(tmp_path / "r", "cpu", allow_code=True), 2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "random-con"}, "did you mean 'random-conv'"),
        ({"encoder": f"{__name__}:NO_ENCODER"}, "is not a function without arguments"),
        ({"encoder": "random-conv", "pca": 4}, "encoder='random-conv' is for images: leave out pca"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, pictures: Path) -> None:
    recipe = tiny("energy_drift", pictures, **changes)
    with pytest.raises(BadInput, match=message):
        train(recipe, pictures.parent / "never", device="cpu", progress=False)
    with pytest.raises(BadInput, match="encoder='x' is not for method s_jko: it compares no features"):
        Recipe(encoder="x")


MODULE = """
from wgflow.generative import NetworkPair
from wgflow.generative.nets import ConvCritic, ConvGenerator

class Mine(ConvGenerator):
    def forward(self, *inputs):
        return super().forward(*inputs) * SCALE

SCALE = 1.0
PAIR = NetworkPair(Mine, ConvCritic)

def encoder():
    return lambda x: x.flatten(1) * SCALE
"""


@pytest.mark.parametrize("what", ["network", "encoder"])
def test_a_run_does_not_go_on_with_changed_code_of_the_users(
    what: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    named = {"network": "edited_nets:PAIR", "encoder": "edited_nets:encoder"}
    recipe = tiny("energy_drift", pictures, num_steps=2, **{what: named[what]})

    def run(text: str) -> str:
        (tmp_path / "edited_nets.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("edited_nets", None)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "dont_write_bytecode", True)
            return train(recipe, tmp_path / "r", device="cpu", progress=False).status

    assert run(MODULE) == "done"
    assert run(f"# A comment is no change.\n{MODULE}") == "done"
    with pytest.raises(CheckpointError, match=f"{what} of code"):
        run(MODULE.replace("SCALE = 1.0", "SCALE = 0.5"))


def plugin(
    target: wg.Measure,
    latent: wg.Measure,
    generator: Any,
    *,
    pull: float = 1.0,
    kernel: wg.Kernel | None = None,
    rates: tuple[float, ...] = (1e-3,),
    hidden: Any = None,
    step_size: float = 0.5,
    num_steps: int = 4,
) -> wg.Flow:
    """A flow of another package: half of the MMD, followed by a generator."""
    F = 0.5 * pull * wg.SquaredMMD(target, kernel or wg.Riesz(1.0), 16)
    rho = wg.Pushforward(latent, generator, regression=wg.Regression(wg.Adam(rates[0]), batch=16))
    return wg.Flow(F, wg.ForwardEuler(), rho, step_size, num_steps)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(PRESETS._entries, "plugin", plugin)
    return "plugin"


def test_a_preset_of_another_package_is_a_method(plugged: str, pictures: Path, tmp_path: Path) -> None:
    options = method(plugged).options
    assert options.keys() == {"pull", "kernel", "rates", "step_size", "num_steps"}
    recipe = Recipe(
        method=plugged, data=str(pictures), channels=4, sinkhorn_n=0, pull=2, kernel="rbf(4.0)", rates="1e-2, 1e-3"
    )
    assert recipe.options["rates"] == (1e-2, 1e-3)
    assert Recipe.from_dict(recipe.plain()) == recipe
    solution = train(recipe, tmp_path / "r", device="cpu", progress=False)
    assert solution.state.k == 4
    assert sample(load_generator(tmp_path / "r", "cpu"), 2).shape == (2, 1, 8, 8)


def test_a_preset_without_annotations_has_the_options_that_its_defaults_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(target, initial, step_size=0.1, num_steps=20, kernel=None):
        """A flow."""

    monkeypatch.setitem(PRESETS._entries, "bare", bare)
    options = method("bare").options
    assert {name: o.hint for name, o in options.items()} == {"step_size": float, "num_steps": int}
    assert options["num_steps"].read("30", "num_steps") == 30


def test_options_are_told_from_those_of_other_methods(plugged: str) -> None:
    with pytest.raises(BadInput, match="a recipe by s_jko has no 'pull': it is an option of plugin"):
        Recipe(pull=2.0)
    with pytest.raises(BadInput, match="a recipe by plugin has no 'stepsize': did you mean 'step_size'"):
        Recipe(method=plugged, stepsize=2.0)
    with pytest.raises(BadInput, match="pull='much': expected a number"):
        Recipe(method=plugged, pull="much")
    with pytest.raises(BadInput, match=r"ema_half_life=5.0 is not for method plugin"):
        Recipe(method=plugged, ema_half_life=5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rbf()", "missing 1 required positional argument"),
        ("rbf(bandwith=1)", "unexpected keyword"),
        ("rbf(-1)", "expected a positive"),
        ("rbf(open('x'))", "expected a name with its numbers"),
        ("os.system('x')", "expected a name with its numbers"),
        ("(" * 500, "expected a name with its numbers"),
        (3, "expected the name of a kernel with its numbers"),
    ],
)
def test_a_kernel_is_a_name_with_numbers_and_nothing_that_runs(text: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Recipe(method="mmd_flow", kernel=text)


def test_another_method_starts_from_its_own_settings_and_keeps_the_data() -> None:
    kept = Recipe(data="mnist", batch=7, seed=3).changed(method="f_gan")
    assert (kept.data, kept.seed) == ("mnist", 3)
    assert kept == Recipe(data="mnist", seed=3, method="f_gan")
    assert kept.changed(method="sliced_w_flow").network is None
    assert kept.changed(pca=8).network == "toy"


def test_a_method_that_needs_a_density_is_refused_before_there_is_a_folder(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(Incompatible, match="method ula cannot be trained on images: KL"):
        train(Recipe(method="ula", data=str(pictures)), tmp_path / "r", device="cpu", progress=False)
    assert not (tmp_path / "r").exists()


def test_a_cloud_has_no_more_images_than_it_has(pictures: Path, tmp_path: Path) -> None:
    train(tiny("sliced_w_flow", pictures, num_steps=1), tmp_path / "r", device="cpu", progress=False)
    cloud = load_generator(tmp_path / "r", "cpu")
    everything = sample(cloud, 30, seed=1)
    assert len({tuple(image.flatten().tolist()) for image in everything}) == 30
    with pytest.raises(BadInput, match="a cloud of 30 images and has no others"):
        sample(cloud, 31)


EARLIER = {"lr_generator": 2e-3, "lr_critic": 1e-3, "r1": 0.2, "latent_coupling": "shared", "instance_noise": False}


def test_a_recipe_of_before_there_were_methods_is_one_of_s_jko() -> None:
    held = EARLIER | {"divergence": "kl", "batch": 32, "ema_half_life": 100, "snapshot": "ema", "r1_every": 2}
    found = Recipe.from_dict(held)
    expected = {"divergence": "kl", "batch": 32, "snapshot": "ema", "r1_every": 2, "lr": (2e-3, 1e-3)}
    assert found == Recipe(method="s_jko", ema_half_life=100.0, **expected)
    assert Recipe.from_dict({"lr_critic": 1e-4}).options["lr"] == (1e-3, 1e-4)
    with pytest.raises(BadInput, match="leave out lr_generator and lr_critic"):
        Recipe.from_dict({"lr_critic": 1e-4, "lr": "1e-3, 1e-3"})


def test_a_run_of_an_option_that_its_preset_got_later_goes_on(pictures: Path, tmp_path: Path) -> None:
    recipe = tiny("f_gan", pictures)
    train(recipe, tmp_path / "r", device="cpu", progress=False)
    known = tmp_path / "r" / "recipe.json"
    held = {k: v for k, v in json.loads(known.read_text()).items() if k != "method.r1_every"}
    known.write_text(json.dumps(held))
    assert train(recipe, tmp_path / "r", device="cpu", progress=False).status == "done"
    with pytest.raises(BadInput, match=r"method.r1_every is 2 here and 1 there"):
        train(recipe.changed(r1_every=2), tmp_path / "r", device="cpu", progress=False)
