"""What the documentation tells people to type and to open."""

import re
import shlex
import subprocess
import sys

import pytest

from clipjax.evaluate.select import ALIASES, RULES
from tests.conftest import REPO

PAGES = sorted(REPO.glob("docs/*.md"))


def commands():
    """Every `clipjax ...` line of a code block."""
    for page in PAGES:
        for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.S | re.M):
            for line in block.splitlines():
                if line.startswith("clipjax "):
                    yield pytest.param(line, id=line.removeprefix("clipjax "))


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line):
    """absl reads the config and every override, then leaves before anything runs."""
    command = [sys.executable, "-m", *shlex.split(line), "--only_check_args"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_dann_page_names_every_selection_rule():
    text = (REPO / "docs/reading-a-dann-run.md").read_text()
    assert all(f"`{rule}`" in text for rule in (*RULES, *ALIASES))
