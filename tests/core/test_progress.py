"""The bar of progress: alive on a terminal and in a notebook, a line a minute in a log."""

import io

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
    assert least < bar.fp.getvalue().count("\r") < most
