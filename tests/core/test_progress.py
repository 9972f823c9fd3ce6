"""The bar of progress: alive on a terminal and in a notebook, a line a minute in a log."""

import io
import sys

import pytest

from wgflow.core.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Notebook(io.StringIO):
    """A stream of a notebook, which says that it is no terminal."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(
    ("stream", "least", "most"), [(Terminal, 1000, 4000), (Notebook, 1000, 4000), (io.StringIO, 5, 40)]
)
def test_a_bar_of_twenty_minutes_fills_no_log(stream, least, most, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr("sys.stderr", stream())
    monkeypatch.setattr("tqdm.tqdm.monitor_interval", 0)  # its thread has a clock of its own
    with progress_bar(total=12_000) as bar:
        for _ in range(12_000):
            now[0] += 0.1
            bar.update()
    mark = "\n" if stream is io.StringIO else "\r"
    assert least < sys.stderr.getvalue().count(mark) < most


def test_a_log_has_lines_and_nothing_that_draws_over_them(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar(total=3, desc="flow") as bar:
        for _ in range(3):
            bar.update()
    text = sys.stderr.getvalue()
    assert "\r" not in text
    assert "\n\n" not in text
    assert [line[:5] for line in text.splitlines()] == ["flow:"] * len(text.splitlines())
    assert "3/3" in text.splitlines()[-1]
