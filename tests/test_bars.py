"""Progress: a bar with the loss on a terminal, a line a minute elsewhere, nothing else."""

import os
import pty
import re
import subprocess
import sys

import pytest

from clipjax.log import bars
from clipjax.log.terminal import rendered
from tests.conftest import REPO

SCRIPT = """
from clipjax.log.bars import Bar, progress
with Bar(40, "train dann", "epoch", done=10, say=print) as bar:
    for i in range(30):
        bar.note = f"loss {i / 10:.3g}"
        bar.update()
        if i == 20:
            print("a line meanwhile")
            bar._shown.refresh()
print(list(progress(range(3), what="read", unit="file")))
"""


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(bars.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(bars, "is_quiet", lambda: True)
    return now


def test_where_no_bar_is_shown_a_line_a_minute_is_told(clock):
    said = []
    with bars.Bar(1000, "train dann", "epoch", done=100, say=said.append) as bar:
        for second in range(1, 301):
            clock[0] = float(second)
            bar.note = f"loss {second}"
            bar.update(2)
    assert len(said) == 5
    assert said[0] == "train dann: 220 of 1000 epochs, 2 epochs/s, loss 60, 6 min left"
    assert said[-1] == "train dann: 700 of 1000 epochs, 2 epochs/s, loss 300, 2 min left"


def test_what_is_short_or_has_no_say_tells_nothing(clock, capsys):
    said = []
    assert list(bars.progress(range(3), what="read", unit="file", say=said.append)) == [0, 1, 2]
    with bars.Bar(2, "a", "step") as bar:
        clock[0] = 1e4
        bar.update(2)
    assert said == [] and capsys.readouterr() == ("", "")


def test_a_terminal_shows_the_loss_in_a_bar_that_goes_away():
    """And lines that are printed meanwhile stay."""
    parent, child = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR")}
    env |= {"TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=child, stderr=child, env=env)
    os.close(child)
    shown = b""
    while True:
        try:
            more = os.read(parent, 1 << 16)
        except OSError:  # the other end is closed
            break
        shown += more
        if not more:
            break
    assert process.wait() == 0, shown
    text = re.sub(r"\x1b\[[\d;]*m", "", shown.decode())
    assert re.search(r"train dann .* 31/40 .*loss 2", text), text
    assert "a line meanwhile" in text and text.rstrip().endswith("[0, 1, 2]")
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # the cursor is back


def test_a_table_is_rendered_in_a_notebook_too_and_not_shown_by_itself(monkeypatch):
    """There rich would display what it is to render, and give back nothing."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert rendered("one line") == "one line"
