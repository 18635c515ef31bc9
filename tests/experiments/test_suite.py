"""The report's tables as configs, and the suite that runs them."""

import os
import subprocess
import sys

import pytest

from clipjax.evaluate.rows import row
from configs import tables
from experiments.suite import published, table_studies
from tests.conftest import REPO, methods_of, read_json


@pytest.mark.parametrize("table", tables.TABLES)
def test_every_row_of_a_table_can_be_built(table):
    config = tables.get_config(str(table))
    built = methods_of(config, 28)
    assert list(built) == list(tables.methods(table))
    assert set(tables.PUBLISHED[table]) <= {"zero_shot", *built}


def test_rows_change_what_the_report_changed():
    built = methods_of(tables.get_config("3"), 28)
    assert [len(m.heads.classifier) for m in built.values()] == [1, 1, 2, 2, 4, 4]
    assert {m.phases[0].optim.schedule for m in built.values()} == {"step", "cosine"}
    five = methods_of(tables.get_config("5"), 28)
    assert [m.phases[0].optim.lr for m in five.values()] == [1e-2, 1e-3, 1e-3]
    six = methods_of(tables.get_config("6"), 28)
    assert [[p.epochs for p in m.phases] for m in six.values()] == [[3, 5]] * 3
    assert [m.phases[1].options["domain_weight"] for m in six.values()] == [0.0, 1.0, 1.0]
    assert [m.phases[1].options["lam_max"] for m in six.values()] == [0.3, 0.3, 0.6]


def test_domainnet_gets_the_reports_domains_and_lengths():
    found = table_studies(list("123456"), data="domainnet", root="/data/domainnet", model="a/b")
    for study in found.values():
        data = study.data
        assert (data.source, data.target) == ("real", "clipart")
        assert (data.name, data.root, study.encoder.model) == (
            "domainnet",
            "/data/domainnet",
            "a/b",
        )
    assert {phase.optim.lr for method in found["2"].trained for phase in method.phases} == {1e-3}
    assert {method.epochs for method in found["6"].trained} == {20}
    assert {method.epochs for method in found["5"].trained} == {10}
    prepared = table_studies(["5"], data="tfds:domainnet")["5"]
    assert (prepared.data.name, prepared.data.source) == ("tfds:domainnet", "real")
    short = table_studies(["6"], data="domainnet", root="/data", smoke=True)["6"]
    assert {method.epochs for method in short.trained} == {2}


def test_published_numbers_stand_beside_ours_where_the_source_is_the_reports():
    rows = [
        row(
            "ensemble", "real", "test", 9, {"accuracy": [x], "macro_accuracy": [x]}, variant=variant
        )
        for variant, x in {"last": 0.815, "average": 0.1}.items()
    ]
    results = {"data": {"source": "real"}, "rows": rows}
    assert "| ensemble | real | 82 | 81.5 |" in published("4", results)
    assert published("4", results | {"data": {"source": "sketch"}}) == ""


def suite(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.suite", *map(str, arguments)],
        cwd=REPO,
        env=os.environ | {"CI": "true"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_unknown_tables_and_choices_are_refused(tmp_path):
    for options, word in (
        (["--tables=7"], "1, 2, 3, 4, 5, 6"),
        (["--data=domainnet"], "--data_root"),
        (["--data=imagenet"], "known: emoji, folder, lists, domainnet, parquet, tfds:NAME"),
    ):
        done = suite(f"--workdir={tmp_path}", *options)
        assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_suite_runs_and_resumes(tmp_path, folder_dataset):
    data = (f"--data_root={folder_dataset}", "--source=real", "--target=sketch")
    options = (f"--workdir={tmp_path}", "--tables=1,4", "--smoke", *data)
    done = suite(*options)
    assert done.returncode == 0, done.stderr
    rows = read_json(tmp_path / "table1" / "results.json")["rows"]
    whole = {(r["domain"], r["n"]) for r in rows if r["split"] == "all"}
    assert whole == {("real", 18), ("sketch", 18)}
    rows = read_json(tmp_path / "table4" / "results.json")["rows"]
    ensembles = [r for r in rows if r["method"].startswith("ensemble")]
    assert all(len(r["members"][0]) == 3 and len(r["disagreement"]) == 1 for r in ensembles)
    page = (tmp_path / "suite.md").read_text()
    assert "whole domains" in page and "3 members" in page
    links = (tmp_path / "suite.html").read_text()
    assert 'href="table1/report.html"' in links and 'href="table4/report.html"' in links
    assert (tmp_path / "table4" / "report.html").exists()
    (tmp_path / "table4" / "results.json").unlink()
    again = suite(*options)
    assert again.returncode == 0 and "finished" in again.stdout
    assert (tmp_path / "suite.md").read_text() == page
