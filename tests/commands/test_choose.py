"""The command that compares rules over finished runs."""

import json

import pytest

from clipjax.commands.choose import compare
from clipjax.errors import ConfigError, DataError
from clipjax.evaluate import judged
from tests.evaluate import synthetic


def finished(folder, **more):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(synthetic.results() | more))


def test_runs_at_any_level_are_compared_and_the_page_is_filled(tmp_path):
    finished(tmp_path / "one", choice=synthetic.choice())
    finished(tmp_path / "deeper" / "two", choice=synthetic.choice())
    finished(tmp_path / "older")  # of a version that compared no methods
    page = tmp_path / "page.md"
    page.write_text(f"# Above\n{judged.BEGIN}\nold\n{judged.END}\n")
    made = compare(tmp_path, page)
    assert made.startswith("2 runs, photos, model tiny") and "| ensemble_agreement | 2 |" in made
    assert page.read_text() == f"# Above\n{judged.BEGIN}\n{made}\n{judged.END}\n"
    assert (tmp_path / "choosing.md").read_text() == made + "\n"


def test_what_cannot_be_compared_or_filled_is_said(tmp_path):
    finished(tmp_path / "older")
    with pytest.raises(DataError, match="has 1 finished runs and none that compares methods"):
        compare(tmp_path)
    finished(tmp_path / "one", choice=synthetic.choice())
    for page in (tmp_path / "missing.md", tmp_path / "empty.md"):
        if page.stem == "empty":
            page.write_text("no marks")
        with pytest.raises(ConfigError, match=f"--page=.*{page.name} cannot be filled"):
            compare(tmp_path, page)
    assert not (tmp_path / "choosing.md").exists()
