"""The notebook, executed by a Jupyter kernel as it stands."""

import re

import pytest

from tests.conftest import REPO

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipywidgets")  # without it a notebook shows no bars


@pytest.mark.slow
def test_the_tour_runs_and_shows_what_it_promises(tmp_path, monkeypatch):
    monkeypatch.delenv("CI", raising=False)  # there bars are hidden
    book = nbformat.read(REPO / "docs/tour.ipynb", as_version=4)
    assert len(book.cells) <= 17
    client = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}})
    shown, take = [], client.process_message

    def process_message(message, *rest):
        shown.append(str(message["content"]))
        return take(message, *rest)

    client.process_message = process_message
    client.execute()  # raises for a cell that does
    # Progress reaches the page: the images that were handed over are new to the feature cache.
    assert any("encode target/train" in text and "0/448" in text for text in shown)
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    said = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 3
    shares = dict(re.findall(r"^(\S+) +([\d.]+)%$", said, re.M))
    assert float(shares["blend"]) > float(shares["zero-shot"])
    before, after = re.search(r"zero-shot ([\d.]+)%, adapted ([\d.]+)%", said).groups()
    assert float(after) > float(before)
    assert re.search(r"zero-shot [\d.]+%, CoOp [\d.]+%; its words: \['", said)
    assert (tmp_path / "adapted/heads.json").exists() and (tmp_path / "report.html").exists()


def test_what_is_kept_of_its_outputs_is_small_and_names_no_machine():
    file = REPO / "docs/tour.ipynb"
    assert file.stat().st_size < 200_000
    text = file.read_text()
    assert not re.search(r"/(home|root|tmp|work|Users)/", text)
