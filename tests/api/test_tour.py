"""The notebook, executed by a Jupyter kernel as it stands."""

import re

import pytest

from tests.conftest import REPO

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")


@pytest.mark.slow
def test_the_tour_runs_and_shows_what_it_promises(tmp_path):
    book = nbformat.read(REPO / "docs/tour.ipynb", as_version=4)
    assert len(book.cells) <= 15
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}})
    client.execute()  # raises for a cell that does
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    shares = dict(re.findall(r"^(\S+) +([\d.]+)%$", said, re.M))
    assert float(shares["blend"]) > float(shares["zero-shot"])
    before, after = re.search(r"zero-shot ([\d.]+)%, adapted ([\d.]+)%", said).groups()
    assert float(after) > float(before)
    assert (tmp_path / "adapted/heads.json").exists() and (tmp_path / "report.html").exists()


def test_what_is_kept_of_its_outputs_is_small_and_names_no_machine():
    file = REPO / "docs/tour.ipynb"
    assert file.stat().st_size < 200_000
    text = file.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
