"""What a comparison gives: a table that fits, a picture, and a file that can be read again."""

import json
from dataclasses import replace

import pytest

import wgflow as wg
from wgflow import bench
from wgflow.bench import tables
from wgflow.bench.result import Result


@pytest.fixture(scope="module")
def result() -> Result:
    """Rows of all kinds."""
    problem = bench.ornstein_uhlenbeck(1, 30)
    methods = {
        "forward Euler": wg.ForwardEuler(),
        "a method with a name that is longer than a narrow terminal is wide": wg.Heun(),
        "W1 only": wg.Proximal(),
        "Langevin": wg.Langevin(),
    }
    return bench.compare(problem, methods, step_sizes=[0.2, 0.1, 0.05], seeds=2, progress=False)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits_and_loses_no_column(result, width):
    lines = result.table(width=width).splitlines()
    assert max(map(len, lines)) <= width
    heads = "\n".join(lines)
    for head in ("h = 0.2", "h = 0.1", "h = 0.05", "order", "gradients/step", "ms/step"):
        assert head in heads
    assert "refused" in heads


def test_a_table_says_what_it_is_of(result):
    text = str(result.table())
    assert text == repr(result.table()) == str(result)
    assert result.problem in text
    assert (result.about["commit"]["id"] or "?")[:10] in text
    assert "mean ± standard error of 2 seeds" in text
    reason = next(row.reason for row in result.rows if row.status == "refused")
    assert f"W1 only, refused: {reason}" in text
    assert text.count(reason) == 1


def test_a_terminal_is_asked_for_its_width(monkeypatch, capsys):
    assert tables.terminal() is None
    monkeypatch.setenv("COLUMNS", "72")
    assert tables.terminal() == 72
    monkeypatch.setenv("COLUMNS", "7")
    assert tables.terminal() == 40


def test_columns_that_do_not_fit_follow_below_beside_the_first():
    lines = tables.rows(["", "one", "two", "three"], [["label", "1", "2", "3"]], width=18)
    assert lines == ["         one  two", "  label    1    2", "", "         three", "  label      3"]
    wide = tables.rows(["", "one", "two", "three"], [["label", "1", "2", "3"]])
    assert wide == ["         one  two  three", "  label    1    2      3"]


def test_what_is_saved_is_what_is_loaded(result, tmp_path):
    path = result.save(tmp_path / "new folder" / "mine.json")
    again = bench.load(path)
    assert again == result
    assert again.table(width=80) == result.table(width=80)
    assert [again.order(m) for m in again.methods] == [result.order(m) for m in result.methods]


def test_errors_that_are_not_finite_are_null(result, tmp_path):
    problem = replace(bench.ornstein_uhlenbeck(1, 30), error=lambda m, exact: float("nan"))
    kept = bench.compare(problem, {"Euler": wg.ForwardEuler()}, step_sizes=[0.2], progress=False)
    (row,) = kept.rows
    assert row.errors == ((None,),)
    assert kept.unstable(row)
    assert "unstable" in kept.table()
    with pytest.raises(wg.BadInput, match="finite"):
        replace(row, errors=((float("inf"),),))
    path = kept.save(tmp_path / "mine.json")
    assert bench.load(path) == kept


def change(name, value):
    return lambda held: held.update({name: value})


def in_results(name, value):
    return lambda held: held["results"].update({name: value})


def in_row(name, value):
    return lambda held: held["results"]["rows"][0].update({name: value})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (change("wgflow_comparison", 99), "of format 99, this version of wgflow reads 1"),
        (lambda held: held.pop("wgflow_comparison"), "no entry wgflow_comparison"),
        (lambda held: held.pop("results"), "results"),
        (lambda held: held.pop("commit"), "does not say its commit"),
        (in_results("rows", []), "at least one row"),
        (in_results("times", [-1.0]), "positive"),
        (in_results("more", 1), "more"),
        (in_row("step_size", "small"), "step_size='small'"),
        (in_row("step_size", -0.1), "positive"),
        (in_row("status", "fine"), "status='fine'"),
        (in_row("errors", [[1.0, 2.0]]), "not one error a seed and time"),
        (in_row("errors", [["import os"]]), "errors"),
        (in_row("seconds", []), "not one error a seed and time"),
        (lambda held: held["results"]["rows"][0].pop("method"), "method"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(result, tmp_path, damage, words):
    path = result.save(tmp_path / "mine.json")
    held = json.loads(path.read_text())
    damage(held)
    path.write_text(json.dumps(held))
    with pytest.raises(wg.BadInput) as refused:
        bench.load(path)
    assert str(refused.value).startswith(f"{path} is not a saved comparison of wgflow: ")
    assert words in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", '{"wgflow_comparison": NaN}', "[" * 100_000, "\udcff"])
def test_what_is_no_comparison_at_all_is_refused(tmp_path, text):
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(wg.BadInput, match="is not a saved comparison of wgflow"):
        bench.load(path)


def test_what_is_not_a_file_is_refused(tmp_path):
    with pytest.raises(wg.BadInput, match="not a file"):
        bench.load(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_said(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(wg.CannotWrite):
        result.save(tmp_path / "file" / "mine.json")


def test_the_picture_has_a_curve_for_every_method_with_errors(result):
    pytest.importorskip("matplotlib")
    figure = result.plot()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(" (")[0] for label in labels] == [m for m in result.methods if m != "W1 only"]
    assert str(result.order("forward Euler")) in labels[0]
    left, right = figure.axes
    for panel, number in ((left, lambda row: row.step_size), (right, lambda row: row.cpu_seconds)):
        drawn = panel.containers[0].lines[0]
        assert drawn.get_xdata() == pytest.approx([number(row) for row in result.of("forward Euler")])
        assert drawn.get_ydata() == pytest.approx([row.error() for row in result.of("forward Euler")])


def test_a_picture_may_be_drawn_in_a_figure_that_is_there(result):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    assert result.plot(figure=figure) is figure
    assert len(figure.axes) == 2
    with pytest.raises(wg.BadInput, match="expected a figure of matplotlib"):
        result.plot(figure=figure.axes[0])


def test_a_picture_of_nothing_is_refused(result):
    with pytest.raises(wg.BadInput, match="nothing to draw"):
        replace(result, rows=result.of("W1 only")).plot()


def test_an_unknown_method_is_named(result):
    with pytest.raises(wg.BadInput, match=r"no method 'Euler'.*'forward Euler'"):
        result.order("Euler")
