"""What a run prints: nothing over the width, numbers aligned, the best marked, plain when piped."""

import re
import shlex
import sys

import numpy as np
import pytest

from clipjax.evaluate import results as report
from clipjax.evaluate import terminal
from clipjax.evaluate.rows import row
from clipjax.log import terminal as lines_of
from tests.evaluate import synthetic

EXPORT = "clipjax export --workdir={workdir} --out=adapted"
STYLES = [f"style-{i}" for i in range(12)]


def found(domains=("real", "sketch"), methods=("zero_shot", "finetune", "dann"), **more):
    """Results of made-up accuracies on some domains, with a verdict and a majority."""
    rng, rows = np.random.default_rng(0), []
    for method in methods:
        for domain in domains:
            hits = rng.uniform(0.2, 0.9, 1 if method == "zero_shot" else 2)
            measures = {"accuracy": hits, "macro_accuracy": hits / 2}
            rows.append(row(method, domain, "test", 40, measures))
    made = synthetic.results(methods=methods) | {"rows": rows, "selection_rules": {}} | more
    made |= {"majority": dict.fromkeys(domains, 0.31), "choice": synthetic.choice(methods)}
    made |= {"majority_macro": dict.fromkeys(domains, 0.25)}
    made["rows"] = report.marked(rows, "sketch", {}, made["majority"])
    made = synthetic.with_verdict(made)
    made["verdict"]["next"] = {"words": "export dann", "add": "", "command": EXPORT}
    return made


MANY = [f"a_method_with_quite_a_long_name_{i}" for i in range(30)]
LONG = "a-domain-with-a-very-long-name"
CASES = {
    "two domains": found(),
    "many domains": found(("real", "sketch", *STYLES)),
    "long names": found(("real", "sketch", LONG), ("zero_shot", "finetune", *MANY)),
    "long ends": found((LONG, "sketch"), data={"name": "x", "source": LONG, "target": "sketch"}),
}


@pytest.mark.parametrize("columns", [120, 100, 80])
@pytest.mark.parametrize("case", CASES)
def test_no_line_is_wider_than_the_terminal_and_none_has_control_characters(case, columns):
    text = terminal.show(CASES[case], "runs/" + "long/" * 8 + "x y", columns)
    assert max(map(len, text.splitlines())) <= columns
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert "…" not in text  # no number and no name is cut
    typed = text[text.index("clipjax export") :].split("\n\n")[0]
    words = shlex.split(typed.replace("\\\n", ""))  # as a shell reads it
    assert words[2] == f"--workdir=runs/{'long/' * 8}x y" and words[-1] == "--out=adapted"


def test_domains_that_are_no_end_become_one_column_where_they_do_not_fit():
    some = found(("real", "sketch", "clipart"))
    assert "clipart" in next(x for x in terminal.show(some).splitlines() if x.startswith("method"))
    text = terminal.show(CASES["many domains"])
    head = [line.split() for line in text[: text.index("──")].splitlines()[-3:]]
    assert {"12", "others,", "mean"} <= {word for line in head for word in line}
    assert not any(style in text for style in STYLES)
    rows = [r for r in CASES["many domains"]["rows"] if r["method"] == "dann"]
    mean = np.mean([r["accuracy_mean"] for r in rows if r["domain"] in STYLES])
    (line,) = (line for line in text.splitlines() if line.startswith("dann "))
    assert f"{100 * mean:.1f}" in line
    wide = terminal.show(CASES["many domains"], columns=400)
    assert all(style in wide for style in STYLES)


def test_the_best_of_each_column_has_a_star_and_points_align():
    lines = terminal.show(found(target_labels=["dann"])).splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("method"))
    table = lines[top + 2 : top + 6]
    assert [line.split()[0] for line in table] == ["zero_shot", "finetune", "dann", "most"]
    points = [[m.start() for m in re.finditer(r"\d\.\d", line)] for line in table]
    # Under each other: the mean of every line stands where zero-shot's does.
    assert all(set(points[0]) <= set(each) for each in points[1:3])
    measured = {r["method"]: r["accuracy_mean"] for r in CASES["two domains"]["rows"][1::2]}
    best = max(("zero_shot", "finetune"), key=measured.__getitem__)  # not of target labels
    at = lines[top].index("sketch")
    for line in table:
        wanted = line.startswith(best)
        assert ("*" in line[at : at + len("sketch (target)")]) == wanted
    assert "target labels" in table[2]


def test_what_has_no_labels_is_a_dash():
    made = found()
    for each in made["rows"]:
        if each["domain"] == "sketch":
            each |= {"accuracy_mean": None, "macro_accuracy_mean": None, "accuracy_std": None}
    text = terminal.show(made)
    (line,) = (line for line in text.splitlines() if line.startswith("zero_shot"))
    assert line.count("–") == 1 and "None" not in text and "nan" not in text


def test_a_terminal_gets_colours_and_a_pipe_none(monkeypatch):
    made = CASES["two domains"]
    plain = terminal.show(made)
    for name in ("CI", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    coloured = terminal.show(made)
    assert "\x1b[1;32mtake" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.show(made) == plain
    monkeypatch.setenv("COLUMNS", "70")
    assert max(map(len, terminal.show(made).splitlines())) <= 70


def test_a_broken_command_is_the_same_to_a_shell():
    words = ["clipjax", "export", "--workdir=a b  c", "--out=" + "d" * 30, "--seed=1"]
    told = lines_of.continued(shlex.join(words), columns=46)
    assert max(map(len, told.splitlines())) <= 46 and told.count("\n") == 2
    assert shlex.split(told.replace("\\\n", "")) == words


def test_the_number_of_test_images_is_that_of_each_domain():
    """The standard error is of the domain with fewest images, not of the table's first row."""
    many = found()
    assert "40 test images a domain (standard error of one accuracy near 50 %: 7.9 points)" in (
        report.facts(many)
    )
    for each in many["rows"]:
        each["n"] = {"real": 1600, "sketch": 25}[each["domain"]]
    told = "25 (sketch) to 1,600 test images a domain (standard error of one accuracy near 50 %: "
    assert f"{told}10.0 points at most)" in report.facts(many)
