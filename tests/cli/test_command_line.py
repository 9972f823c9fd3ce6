"""The command line: any order of arguments, values as people write them, and errors of one line with exit status 2."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import wgflow.cli
from wgflow import ESTIMATORS, FUNCTIONALS, KERNELS, MAPS, MEASURES, SOLVERS, BadInput, presets
from wgflow.bench import PROBLEMS, records
from wgflow.cli import main
from wgflow.cli.arguments import command
from wgflow.cli.training import sections
from wgflow.core.words import read
from wgflow.generative import NETWORKS, RECIPES, Recipe, image_methods
from wgflow.generative.data import IMAGE_SETS
from wgflow.generative.evaluate import FEATURES
from wgflow.generative.methods import method

INF = float("inf")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    assert main(words) == 0
    return capsys.readouterr().out


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints when it is refused; warnings have lines of their own."""
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1
    assert lines[0].startswith("wgflow: ")
    return lines[0]


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "1e3", 1000),
        (float, "1e-4", 1e-4),
        (float, "5E-5", 5e-5),
        *((float, text, INF) for text in ("inf", ".inf", "Infinity", "+inf", "INF")),
        *((float | None, text, None) for text in ("none", "None", "null", "NULL", "~")),
        *((bool, text, True) for text in ("true", "True", "yes", "on")),
        *((bool, text, False) for text in ("false", "no", "OFF")),
        (str | None, "none", "none"),
        (int | None, 3.0, 3),
    ],
)
def test_values_are_read_as_people_write_them(hint: Any, text: Any, value: Any) -> None:
    found = read(hint, text, "x")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "text"),
    [(int, "1.5"), (int, "inf"), (int, True), (float, "1e999"), (float, 10**400), (float, True), (float, None), (bool, "1"),
     (int, "9" * 5000), (str, 3), (float, "none"), (int, [1])],
)  # fmt: skip
def test_what_would_lose_something_is_refused(hint: Any, text: Any) -> None:
    with pytest.raises(BadInput, match=r"^x=.*: expected"):
        read(hint, text, "x")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Recipe, Path]]:
    """What would be trained, in place of training it."""
    seen: list[tuple[Recipe, Path]] = []

    def no_training(recipe: Recipe, folder: Path, **_: Any) -> Any:
        seen.append((recipe, folder))
        return type("Solution", (), {"history": [], "status": "done"})()

    monkeypatch.setattr("wgflow.generative.train", no_training)
    return seen


ORDERS = [
    ["cifar10-small", "--folder", "r", "--batch", "8"],
    ["--folder", "r", "cifar10-small", "--batch", "8"],
    ["--folder", "r", "--batch", "8", "cifar10-small"],
    ["--batch=8", "--folder=r", "--", "cifar10-small"],
]


@pytest.mark.parametrize("words", ORDERS)
@pytest.mark.parametrize("file", [False, True])
def test_the_recipe_may_stand_anywhere(words: list[str], file: bool, asked: list[tuple[Recipe, Path]]) -> None:
    if file:
        RECIPES["cifar10-small"].save(Path("own.yaml"))
        words = ["own.yaml" if word == "cifar10-small" else word for word in words]
    assert main(["train", *words]) == 0
    ((recipe, folder),) = asked
    assert (recipe.data, recipe.network, recipe.options["batch"], recipe.flip) == ("cifar10", "small", 8, True)
    assert folder == Path("r")


def test_the_earlier_names_of_the_learning_rates_are_read(asked: list[tuple[Recipe, Path]]) -> None:
    assert main(["train", "fashion-mnist", "--lr_critic", "1e-4"]) == 0
    assert main(["train", "--lr-generator=3e-4", "--lr_critic", "1e-4", "cifar10-small"]) == 0
    (one, _), (both, _) = asked
    assert one.options["lr"] == (RECIPES["fashion-mnist"].options["lr"][0], 1e-4)
    assert both.options["lr"] == (3e-4, 1e-4)


def test_a_recipe_keeps_all_that_no_option_says(asked: list[tuple[Recipe, Path]]) -> None:
    assert (
        main(["train", "f-gan", "--lr-floor", "None", "--flip", "--download", "no", "--batch", "8", "--batch", "16"])
        == 0
    )
    ((recipe, folder),) = asked
    changes = {"lr_floor": None, "flip": True, "batch": 16}
    assert recipe == RECIPES["f-gan"].changed(**changes)
    assert folder == Path("runs/f-gan")


METHODS = [
    ["fashion-mnist", "--method", "w1_fe", "--method.persistent", "4", "--critic-iters", "2", "--flip"],
    ["--method.critic-iters=2", "--flip", "fashion-mnist", "--persistent=4", "--method=w1_fe"],
    [
        "fashion-mnist",
        "--method",
        "otm",
        "--flip",
        "yes",
        "--persistent",
        "4",
        "--method",
        "w1_fe",
        "--critic_iters",
        "2",
    ],
]


@pytest.mark.parametrize("words", METHODS)
def test_a_method_is_named_anywhere_and_its_options_with_and_without_prefix(
    words: list[str], asked: list[tuple[Recipe, Path]]
) -> None:
    assert main(["train", *words]) == 0
    ((recipe, folder),) = asked
    assert recipe == Recipe(network="fine", method="w1_fe", persistent=4, critic_iters=2, flip=True)
    assert folder == Path("runs/fashion-mnist-w1_fe")


def test_a_switch_of_a_method_stands_before_the_recipe(asked: list[tuple[Recipe, Path]]) -> None:
    assert main(["train", "--instance_noise", "cifar10-small", "--lr", "1e-3,2e-3"]) == 0
    ((recipe, _),) = asked
    assert recipe == RECIPES["cifar10-small"].changed(instance_noise=True, lr=(1e-3, 2e-3))


@pytest.mark.parametrize(
    ("words", "how"), [(["--compile"], True), (["--compile", "false"], False), (["--compile", "graphs"], "graphs")]
)
def test_a_switch_takes_a_word_of_its_own_and_leaves_the_recipe(
    words: list[str], how: bool | str, asked: list[tuple[Recipe, Path]]
) -> None:
    assert main(["train", *words, "cifar10-small"]) == 0
    assert main(["train", "cifar10-small", *words]) == 0
    assert [recipe.compile for recipe, _ in asked] == [how, how]


def test_a_recipe_file_keeps_its_method_and_options(asked: list[tuple[Recipe, Path]]) -> None:
    Path("own.yaml").write_text("method: w1_fe\npersistent: 2\nmethod.batch: 8\n")
    assert main(["train", "own.yaml", "--critic_iters", "9"]) == 0
    ((recipe, _),) = asked
    assert recipe == Recipe(method="w1_fe", persistent=2, batch=8, critic_iters=9)


def test_the_last_line_names_what_is_there(
    asked: list[tuple[Recipe, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r/samples").mkdir(parents=True)
    assert main(["train", "fashion-mnist", "--folder", "r"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"look at {Path('r/samples')}"
    Path("r/generator.safetensors").touch()
    assert main(["train", "fashion-mnist", "--folder", "r"]) == 0
    assert "wgflow sample r" in capsys.readouterr().out.splitlines()[-1]


def test_a_training_asks_for_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train"], ["train", "--seed", "3"]):
        message = refused(words, capsys)
        assert message.startswith("wgflow: which recipe?")
        assert all(name in message for name in RECIPES)
    assert not os.listdir()


def test_images_of_ones_own_need_no_recipe(asked: list[tuple[Recipe, Path]]) -> None:
    assert main(["train", "--data", "some/shoes"]) == 0
    assert main(["train", "--data", "shoes.npz", "--method", "otm"]) == 0
    (one, folder), (two, other) = asked
    assert (one.data, two.data) == ("some/shoes", "shoes.npz")
    assert (folder, other) == (Path("runs/shoes"), Path("runs/shoes-otm"))


EARLIER = Path(__file__).resolve().parents[1] / "data" / "before_the_move" / "training"


def test_a_folder_of_before_there_were_methods_goes_on_by_the_recipe_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(EARLIER, "run")
    words = ["train", "run/recipe.yaml", "--folder", "run", "--device", "cpu"]
    record = Path("run/recipe.json").read_bytes()
    assert "(method.batch is 16 here and 8 there)" in refused([*words, "--batch", "16"], capsys)
    assert main(words) == 0
    updates = [line.partition(",")[0] for line in Path("run/metrics.csv").read_text().splitlines()]
    assert updates == ["update", "0", "2", "4", "6", "8"]
    assert Path("run/recipe.json").read_bytes() == record


def test_a_negative_number_is_a_value_and_not_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "lr_floor=-1e-05: expected a nonnegative" in refused(["train", "--lr_floor", "-1e-5"], capsys)


COMMANDS = {"train": command(wgflow.cli.train)} | {
    name: command(getattr(wgflow.cli, name)) for name in ("sample", "evaluate", "bench")
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_described(name: str) -> None:
    assert_described([p for p in COMMANDS[name].params if isinstance(p, click.Option)])


@pytest.mark.parametrize("name", [m.name for m in image_methods()])
def test_the_help_of_a_training_describes_its_recipe_and_its_method(name: str) -> None:
    recipe, of_method = sections(["fashion-mnist", "--method", name])
    assert_described([*recipe.options, *of_method.options])
    shown = {str(o.name) for o in recipe.options if not o.hidden}
    assert shown == {n for n in Recipe().plain() if method(name).takes(n) and "." not in n}
    assert {o.opts[0] for o in of_method.options} == {f"--{n}" for n in method(name).options}
    assert method(name).about.rstrip(".") in of_method.title


def assert_described(options: list[click.Option]) -> None:
    said = {str(o.name): o.help for o in options}
    assert all(words and len(words.partition(" Default:")[0].split()) > 1 for words in said.values()), said


BAD = [
    ([], "a command is missing"),
    (["trian"], "Did you mean 'train'?"),
    (["--folder", "r", "train"], "No such option '--folder'"),
    (["train", "fashion-mnis"], "did you mean 'fashion-mnist'"),
    (["train", "fashion-mnist", "cifar10-small"], "unexpected extra argument (cifar10-small)"),
    (["train", "."], "is a folder: a recipe is a file"),
    (["train", "--num_step", "3"], "No such option '--num_step'. (Did you mean one of: '--method.num_steps', '--num_steps'?)"),
    (["train", "--folder"], "'--folder' requires an argument"),
    (["train", "--folder", ""], "folder is empty"),
    (["train", "--folder="], "folder is empty"),
    (["train", "--method", "s_jk"], "no method is called 's_jk': did you mean 's_jko'"),
    (["train", "--directions", "3"], "method s_jko has no directions: it is an option of sliced_w_flow"),
    (["train", "--method", "otm", "--method.divergence", "kl"], "method otm has no divergence: it is an option of"),
    (["train", "--method", "sliced_w_flow", "--network", "conv"], "network='conv' is not for method sliced_w_flow"),
    (["train", "--method", "classic_jko", "--particles", "9"], "particles=9 is not for method classic_jko"),
    (["train", "--method", "mmd_flow", "--kernel", "rbg(1)"], "no kernel is called 'rbg': did you mean 'rbf'"),
    (["train", "--method", "mmd_flow", "--kernel", "rbf(1"], "expected a name with its numbers"),
    (["train", "--method", "mmd_flow", "--kernel", "__import__('os')"], "no kernel is called '__import__'"),
    (["train", "--method", "ula"], "method ula cannot be trained on images"),
    (["train", "--lr_critic", "-1"], "lr_critic=-1.0: expected a positive"),
    (["train", "--lr", "1e-3,5e-4", "--lr_critic", "1e-4"], "leave out lr_generator and lr_critic"),
    (["train", "--method", "otm", "--lr_critic", "1e-4"], "lr_critic is part of lr now: --lr GENERATOR,CRITIC"),
    (["train", "--lr", "1e-4"], "lr='1e-4': expected 2 values with commas between them"),
    (["train", "--lr", "1e-4,-1"], "lr=-1.0: expected a positive"),
    (["train", "--pca", "100000"], "directions only"),
    (["train", "--pca", "8", "--network", "conv"], "networks are for vectors, such as toy"),
    (["train", "--num_steps", "1.5"], "num_steps='1.5': expected a whole number"),
    (["train", "--num_steps", "0"], "num_steps=0: expected a whole number from 1 up"),
    (["train", "--step_size", "0"], "step_size=0.0: expected a positive"),
    (["train", "--step_size", "nan"], "step_size=nan: expected a positive"),
    (["train", "--seed", "-1"], "seed=-1: expected a whole number from 0 up"),
    (["train", "--precision", "fp16"], "precision='fp16': expected one of"),
    (["train", "--flip", "maybe"], "no recipe and no file is called 'maybe'"),
    (["train", "--flip=maybe"], "flip='maybe': expected true or false"),
    (["train", "--checkpoint_seconds", "-1"], "checkpoint_seconds=-1.0"),
    (["train", "--data", "cifar11"], "did you mean 'cifar10'"),
    (["train", "--divergence", "kll"], "did you mean 'kl'"),
    (["train", "--network", "os:getcwd"], "expected a NetworkPair"),
    (["train", "--network", "torch.nn:Linear"], "expected a NetworkPair"),
    (["train", "--network", ":"], "cannot be imported"),
    *((["train", "--device", name], "expected auto, cpu, cuda or cuda:N") for name in ("mps", "xpu", "gpu", "tpu9", "meta", "cpu:3")),
    (["train", "--device", "cuda:99"], "torch sees"),
    (["sample"], "Missing argument 'RUN'"),
    (["sample", "no/such/run"], "not the folder of a run"),
    (["sample", "x" * 5000], "File name too long"),
    (["sample", "r", "-n", "0"], "n=0: expected a whole number from 1 up"),
    (["sample", "r", "--columns", "-3"], "columns=-3: expected a whole number from 1 up"),
    (["evaluate", "r", "--kid=perhaps"], "kid='perhaps': expected true or false"),
    (["bench", "../x"], "no table of that name"),
    (["bench", "--results", "nowhere"], "no record at"),
    (["list", "recipes"], "unexpected extra argument (recipes)"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), BAD, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "")
def test_wrong_input_is_one_line_and_no_folder(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = words[:1] == ["train"] and "--folder" not in " ".join(words)
    if named and not any(word in words for word in (*RECIPES, "fashion-mnis", ".", "--data")):
        words = [*words, "fashion-mnist"] if "--flip" not in words else words
    assert message in refused([*words, *(["--folder", "r"] if named else [])], capsys)
    assert not Path("r").exists()


BAD_OF_A_RUN = [
    (["sample", "RUN", "--n", "1000000000000"], "million pixels"),
    (["sample", "RUN", "--n", "100000000000000", "--out", "x.npy"], "MB free"),
    (["sample", "RUN", "--out", "x.jpg"], "expected a name that ends in .png or .npy"),
    (["sample", "RUN", "--out", "x.npy", "--columns", "2"], "columns=2 is for a .png grid"),
    (["sample", "RUN", "--out", "/dev/null/x.png"], "cannot write"),
    (["evaluate", "RUN", "--weights", "/nonexistent"], "no Inception weights file at /nonexistent"),
    (["evaluate", "RUN", "--features", "random-conv", "--weights", "x"], "leave it out"),
    (["evaluate", "RUN", "--features", "os:getcwd"], "returned a str: expected a FeatureExtractor"),
    (["evaluate", "RUN", "--features", "os:environ"], "is not a function without arguments"),
    (["evaluate", "RUN", "--features", "no_such_module:x"], "cannot be imported"),
    (["evaluate", "RUN", "--features", "random"], "did you mean 'random-conv'"),
    (["train", "RUN"], "a recipe is a file, such as"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD_OF_A_RUN, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else ""
)
def test_wrong_input_to_a_run_is_one_line(
    words: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = sorted(trained.rglob("*"))
    at = ["--device", "cpu"] if "RUN" in words[1:2] and words[0] != "train" else []
    assert message in refused([str(trained) if word == "RUN" else word for word in (*words, *at)], capsys)
    assert sorted(trained.rglob("*")) == held
    assert not os.listdir()


@pytest.mark.parametrize("words", [["-n", "9"], ["--n=9"], ["--n", "9e0"]])
def test_samples_go_into_new_folders(words: list[str], trained: Path) -> None:
    for name in ("a/b/x.npy", "c/x.png"):
        assert main(["sample", *words, "--out", name, str(trained), "--device", "cpu"]) == 0
    assert np.load("a/b/x.npy").shape == (9, 1, 8, 8)
    assert Path("c/x.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("output", ["list", "train --help"])
def test_who_reads_may_go_away(output: str) -> None:
    script = "import sys; from wgflow.cli import main; sys.exit(main(sys.argv[1:]))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", script, *output.split()], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_an_answer_that_cannot_be_written_is_an_error() -> None:
    script = "import sys; from wgflow.cli import main; sys.exit(main(['--version']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "wgflow: 'output': the disk is full\n")


NAMED = [
    name for r in (FUNCTIONALS, ESTIMATORS, SOLVERS, KERNELS, MAPS, MEASURES, presets.PRESETS, PROBLEMS) for name in r
]


@pytest.mark.parametrize(
    "name",
    [
        *NAMED,
        *RECIPES,
        *NETWORKS,
        *IMAGE_SETS,
        *FEATURES,
        *records.names(),
        "Moments",
        "SinkhornMetric",
        "FID",
        "KL",
        "Langevin",
        "forward-euler",
    ],
)
def test_show_says_what_a_name_is_without_marks_of_tex(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = shown(["show", name], capsys)
    assert text.splitlines()[0].startswith((f"{name.replace('-', '_')}: ", f"{name}: ", f"{name.lower()}: "))
    assert not re.search(r":math:|\\\\|``|\$", text)
    prose = [line for line in text.splitlines() if not line.startswith((" ", "=")) and " " in line[70:]]
    assert not [line for line in prose if len(line) > 70]
    assert "===" not in text  # tables have no rules
    bare = re.findall(r"^  (\w+)(?: = \S+)?$", text, re.MULTILINE)
    assert not bare  # every option is described


def test_show_tells_formula_options_sources_and_partners(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["show", "kl"], capsys)
    assert "functional wgflow.KL" in text
    assert "f(p)=p log p-p+1" in text
    assert "target: ν, the data" in text
    assert "choi2024scalable" in text
    partners = " ".join(text[text.index("works with estimators") :].split())
    assert all(word in partners for word in ("critic", "stein", "langevin", "jko", "pushforward"))
    assert "two_batch" in partners or "mean_shift" not in partners
    critic = shown(["show", "critic"], capsys)
    assert "entropy," not in critic[critic.index("works with functionals") :]
    assert "s_jko: method wgflow.presets.s_jko" in shown(["show", "fashion-mnist"], capsys)
    assert "wgflow train RECIPE --method w1_fe" in shown(["show", "w1_fe"], capsys)


def test_all_that_is_listed_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    listed = shown(["list"], capsys).partition("methods of wgflow train")[0]
    names = re.sub(r"^[a-z ]+:", ",", listed, flags=re.MULTILINE).replace("\n", " ").split(",")
    for name in (n.strip() for n in names if n.strip()):
        assert name.startswith(("a folder", "an .npy")) or _is_known(name), name


def _is_known(name: str) -> bool:
    from wgflow.cli.names import _kinds

    return any(name in known for known in _kinds().values())


def test_options_that_share_a_text_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(["show", "svgd"], capsys)
    assert "  target, initial: The law to go to" in text
    assert "  step_size = 0.1: The time step" in text
    assert "wgflow run svgd --target" in text


def test_show_names_what_may_have_been_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'forward_euler'" in refused(["show", "forward_eular"], capsys)
    assert "wgflow list" in refused(["show", "qqqqqq"], capsys)


def test_a_list_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = shown(["list"], capsys)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = shown(["list"], capsys)
    assert max(map(len, narrow.splitlines())) <= 60
    assert narrow.split() == whole.split()


def test_helps_have_no_marks_of_tex(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (m.name for m in image_methods()):
        text = shown(["train", "fashion-mnist", "--method", name, "--help"], capsys)
        assert not re.search(r":math:|\\\\|\$|\{", text), name


def test_a_pipe_that_is_closed_after_a_line_is_silent() -> None:
    script = "import sys; from wgflow.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        f"{sys.executable} -c {shlex.quote(script)} list | head -n 1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("recipes:")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_packages_are_imported_is_one_line(number: int, status: int) -> None:
    script = "import sys; sys.argv = ['wgflow', 'list']; import os, signal; from wgflow.core import startup; " + (
        f"os.kill(os.getpid(), {int(number)})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, "wgflow: stopped\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_mid_training_saves_first(
    number: int, status: int, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def send() -> None:
        while not (Path("r/log.jsonl").exists() and Path("r/log.jsonl").stat().st_size):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    words = [*options, "--first_iters", "5000", "--evaluate_every", "9999", "--folder", "r"]
    threading.Thread(target=send, daemon=True).start()
    assert main(["train", *words]) == status
    assert (
        capsys.readouterr().err.splitlines()[-1] == "wgflow: stopped; the same command goes on from the last checkpoint"
    )
    newest = max(Path("r/checkpoints").glob("update-*.pt")).name
    assert 50 <= int(newest[7:17]) < 5000


def test_a_signal_before_anything_is_saved_promises_nothing(
    options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wgflow.generative.train", stopped)
    assert main(["train", *options, "--folder", "r"]) == 130
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == "wgflow: stopped; the same command begins anew: nothing is saved yet"
    )


@pytest.mark.parametrize("name", ["images.npz", "IMAGES.NPY"])
def test_arrays_in_the_place_of_a_recipe_are_data(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"\x93NUMPY\xff")
    assert main(["train", name]) == 2
    assert f"{name} holds arrays and no recipe. Images are the data of one: wgflow train --data {name}" in (
        capsys.readouterr().err
    )


def test_a_recipe_is_printed_when_its_training_starts(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "nope"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("wgflow: no image set is called 'nope'")
    assert main(["train", *options, "--folder", "r"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("data: ")
    assert "\nfolder: r\n" in said
