"""The page: what it shows, what it leaves out, and that no name can break it."""

import html.parser
import re
import types
import xml.etree.ElementTree as ET

import jinja2
import numpy as np
import pytest

from clipjax.data.unlabelled import NO_LABEL
from clipjax.evaluate import measures
from clipjax.evaluate import results as report
from clipjax.evaluate.report import page
from clipjax.evaluate.report import tables as chapters
from clipjax.evaluate.report.card import accuracies, card
from clipjax.evaluate.report.figures import curves
from clipjax.evaluate.verdict import decide
from clipjax.io import ASSETS
from tests.evaluate import synthetic

VOID = {"meta", "link", "img", "br"}
ALL = ["verdict", "results", "learning", "features", "confusions", "calibration", "classes"]
ALL += ["mistakes", "methods", "selection", "run", "reading"]


class Outline(html.parser.HTMLParser):
    """Checks that tags are closed in order; collects tags, section names and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sections, self.words, self.values = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.values += [value for _, value in attrs if value]
        if tag == "section":
            self.sections.append(dict(attrs)["id"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def full(**changes) -> str:
    parts = {
        "results": synthetic.with_verdict(
            synthetic.results()
            | {"selection_rules": synthetic.selection_rules(), "choice": synthetic.choice()}
        ),
        "metrics": synthetic.metrics(),
        "evidence": synthetic.found(),
        "config": {"prompts": synthetic.EVIL, "lr": 1e-3},
    }
    return page.run_page(**(parts | changes))


def drawings(text):
    """Every SVG of a page that shows data; raises unless each is well-formed."""
    every = [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.S)]
    return [svg for svg in every if svg.get("aria-hidden") != "true"]


def tracks(text):
    """name -> the drawing of each line of the axis of all methods."""
    found = re.search(r'<section id="results">.*?</section>', text, re.S)[0]
    every = [svg for svg in drawings(found) if svg.get("class").startswith("track")]
    return {svg.find("title").text.split(":")[0]: svg for svg in every}


def places(svg, kind):
    """Where the circles or lines of a class are, in per cent."""
    found = [e for e in svg if kind in (e.get("class") or "").split()]
    return [float((e.get("cx") or e.get("x1") or e.get("x")).rstrip("%")) for e in found]


def headings(text):
    return [svg.find("title").text for svg in drawings(text)]


def test_a_full_run_has_every_section():
    text = full()
    outline = Outline(text)
    assert outline.sections == ALL
    assert len(drawings(text)) >= 6 + 8 + 6 + 3 + 3 + 2
    for heading in (
        "Class loss on the source",
        "Domain loss",
        "Domain classifier's accuracy",
        "Strength of the reversal, lambda",
        "Learning rate",
        "Gradient norms, domain loss to class loss",
        "zero_shot, by domain",
        "dann, by class",
    ):
        assert heading in headings(text)
    assert "loss" not in headings(text)  # its parts are shown


def test_the_table_is_the_reports():
    text, results = full(), synthetic.results()
    words = set(Outline(text).words)
    header, lines = report.cells(results)
    assert {cell for line in [header, *lines] for cell in line} <= words | {"mark"}


def test_macro_accuracy_and_variants_have_their_lines():
    results = synthetic.with_variant(synthetic.results(), "dann", "average")
    text = full(results=results)
    words = Outline(text).words
    header, lines = measures.cells(results)
    assert header == ["macro accuracy", "real (source)", "sketch (target)", "clipart"]
    assert {cell for line in [header, *lines] for cell in line} <= set(words)
    gaps = [words[i + 4] for i, word in enumerate(words) if word == "dann average"]
    assert gaps.count("4.6") == 1  # in the table, behind three domains
    assert any(word.startswith("Macro accuracy in %: each class") for word in words)
    assert list(tracks(text)) == ["zero_shot", "finetune", "dann", "dann average"]


def test_the_verdict_comes_first_with_three_methods_and_their_intervals():
    results = synthetic.with_verdict(synthetic.results() | {"choice": synthetic.choice()})
    found, text = results["verdict"], full(results=results)
    card = re.search(r'<section id="verdict">.*?</section>', text, re.S)[0]
    assert text.index('id="verdict"') < text.index('id="results"')
    words = {word.strip() for word in Outline(card).words}
    assert "Take dann for sketch." in words
    for name in ("zero_shot", "finetune", "dann"):
        each = found["accuracies"][name]
        interval = f"{each['low']:.1f} to {each['high']:.1f}"
        assert {name, f"{each['points']:.1f}", interval} <= words
        (bar,) = [
            line
            for svg in drawings(card)
            if svg.find("title").text.startswith(f"{name}:")
            for line in svg
            if line.get("class") == "error"
        ]
        ends = [float(bar.get(end).rstrip("%")) for end in ("x1", "x2")]
        assert ends == pytest.approx([each["low"], each["high"]], abs=0.01)
    margin = f"{found['margins']['zero_shot']['points']:+.1f}".replace("-", "−")
    assert margin in words and any(word.startswith("Next: ") for word in words)
    warned = [each["words"] for each in found["warnings"]]
    assert card.count('class="warning"') == len(warned)


def test_the_axis_has_a_dot_for_each_seed_and_lines_at_chance_and_majority():
    results = synthetic.results()
    drawn = tracks(full(results=results))
    for each in results["rows"]:
        if each["domain"] in ("real", "sketch"):
            kind = "dot" if each["domain"] == "sketch" else "ring"
            wanted = [100 * v for v in each["accuracies"]]
            assert places(drawn[each["method"]], kind) == pytest.approx(wanted, abs=0.01)
    for svg in drawn.values():
        assert places(svg, "chance") == pytest.approx([100 / 6], abs=0.01)
        assert places(svg, "most") == [25.0]


def test_a_target_without_labels_is_said_and_breaks_nothing():
    results = synthetic.results() | {"choice": synthetic.choice(), "majority": {"real": 0.2}}
    keys = [f"{p}{key}" for p in ("", "macro_") for key in ("accuracy_mean", "accuracy_std")]
    blank = dict.fromkeys([*keys, "accuracies", "macro_accuracies"])
    results["rows"] = [r | blank if r["domain"] == "sketch" else r for r in results["rows"]]
    found = accuracies(results)
    assert [row.cells[0] for row in found.rows] == ["no labels"] * 3
    assert all("no labels: not measured" not in row.track for row in found.rows)  # the source is
    verdict = decide(results, {})
    words = [w for item in card(results | {"verdict": verdict}) if item.kind == "words"
             for w in item.notes]  # fmt: skip
    assert "Test accuracy on sketch: no labels: not measured." in words
    evidence = synthetic.found() | {"worst": {}, "per_class": {"n": [0] * 6, "accuracy": {}}}
    evidence["confusion"] = {name: {"classes": [], "counts": []} for name in synthetic.METHODS}
    evidence["calibration"] = dict.fromkeys(synthetic.METHODS, [])
    evidence["tsne"]["labels"][40:] = [NO_LABEL] * 40
    outline = Outline(full(results=results | {"verdict": verdict}, evidence=evidence))
    left_out = {"confusions", "calibration", "classes", "mistakes"}
    assert outline.sections == [name for name in ALL if name not in left_out]


def test_four_curves_come_first_and_the_others_are_folded():
    text = full()
    learning = re.search(r'<section id="learning">.*?</section>', text, re.S)[0]
    before, _, after = learning.partition("<details>")
    assert len(drawings(before)) == 4 and len(drawings(after)) == 4
    assert headings(before)[0] == "Class loss on the source" and "more curves" in after


def test_confusions_and_calibration_are_of_the_methods_compared():
    results = synthetic.with_verdict(synthetic.results() | {"choice": synthetic.choice()})
    evidence = synthetic.found()
    text = full(results=results, evidence=evidence)
    section = lambda name: re.search(rf'<section id="{name}">.*?</section>', text, re.S)[0]
    assert headings(section("confusions")) == ["dann", "zero_shot", "finetune"]  # the last: folded
    shown = drawings(section("confusions"))[0]
    right = sum(row[i] for i, row in enumerate(evidence["confusion"]["dann"]["counts"]))
    said = [t.text for t in shown.iter("title") if ", right: " in (t.text or "")]
    assert sum(int(re.search(r"\((\d+) of", word)[1]) for word in said) == right
    assert headings(section("calibration")) == ["zero_shot", "finetune", "dann"]


def test_the_script_is_small_and_only_for_thumbnails():
    text = full()
    script = (ASSETS / "report" / "page.js").read_text()
    assert len(script.encode()) <= 5_000 and text.count("<script>") == 1 and script.strip() in text
    sheet = synthetic.found()["tsne"]["sheet"]
    assert text.count(sheet["src"]) == 1 and sheet["count"] == 80
    dots = re.findall(r'data-i="(\d+)"', text)
    assert sorted(map(int, dots)) == sorted([*range(80)] * 6)  # three methods, two colourings
    evidence = synthetic.found()
    del evidence["tsne"]["sheet"]
    without = full(evidence=evidence)
    assert "<script" not in without and "data-i=" not in without


def test_the_page_says_how_to_repeat_the_run():
    words = Outline(full()).words
    assert f"clipjax run dann 'root={synthetic.EVIL}'" in words
    assert "How to read this page" in words
    assert any(word.startswith("1 x cpu; ") and "2 cores" in word for word in words)


def test_it_needs_nothing_from_anywhere():
    text = full()
    assert "http://" not in text and "https://" not in text
    assert all(re.match("data:|#", url) for url in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "@import" not in text and "fetch" not in text
    assert text.count("url(") == 1 and 'url("${sheet.src}")' in text


def test_names_are_only_text():
    text = full()
    assert Outline(text).tags.count("script") <= 1
    assert synthetic.EVIL in "".join(Outline(text).words)  # shown as it is written
    text.encode("utf-8")
    assert "\x07" not in text
    results = synthetic.results(methods=("zero_shot", synthetic.EVIL))
    results["data"] |= {"name": synthetic.EVIL}
    metrics = synthetic.metrics(methods=(synthetic.EVIL,))
    evidence = synthetic.found(methods=("zero_shot", synthetic.EVIL))
    text = full(results=results, metrics=metrics, evidence=evidence)
    assert Outline(text).tags.count("script") <= 1 and drawings(text)


def test_no_text_of_any_item_is_markup():
    """Whatever stands anywhere on a page is read back as it was given."""
    evil = f"{synthetic.EVIL} \"'&{{{{ 7 * 7 }}}} {{% raw %}} \udcff"
    picture = chapters.Picture('data:,"' + evil, evil, evil)
    items = [
        chapters.Note(evil),
        chapters.Link(evil, evil),
        chapters.Table([evil], [[evil]], evil, mark=0),
        chapters.Table([evil], [[evil]] * 30, evil),
        chapters.Listing(evil, [evil]),
        chapters.Cards(evil, [chapters.Card(evil, evil, [picture], evil)]),
    ]
    chapter = chapters.Chapter(evil, evil, [evil], items)
    text = page.document(evil, evil, [evil], [chapter])
    outline, shown = Outline(text), evil.replace("\udcff", "\\udcff")
    assert "script" not in outline.tags and outline.sections == [shown]
    said = [word.strip() for word in outline.words if word.strip()]
    assert said == [shown] * 51  # of the head and the chapter 7, then 1 + 1 + 3 + 32 + 2 + 5
    assert [v for v in outline.values if "script" in v] == [
        f"#{shown}", shown, shown, f'data:,"{shown}', shown
    ]  # fmt: skip


def test_what_the_templates_are_not_given_is_an_error():
    item = types.SimpleNamespace(kind="note", words="b")
    with pytest.raises(jinja2.UndefinedError, match="text"):
        page.document("t", "", [], [chapters.Chapter("a", "A", items=[item])])


def test_what_is_missing_leaves_no_section():
    results = synthetic.results(seeds=(0,), methods=("zero_shot",))
    for key in ("proxy_a_distance", "timing_s", "versions", "command", "machine"):
        del results[key]
    bare = full(results=results, metrics=[], evidence={}, config={})
    assert Outline(bare).sections == ["results", "reading"]
    assert "nan" not in bare.lower()
    untrained = full(results=results, metrics=[], evidence=synthetic.found(("zero_shot",)))
    shown = ["results", "features", "confusions", "calibration", "mistakes", "run", "reading"]
    assert Outline(untrained).sections == shown


def test_one_seed_one_epoch():
    text = full(results=synthetic.results(seeds=(0,)), metrics=synthetic.metrics(1, 1))
    assert "learning" in Outline(text).sections and "bands" not in text
    assert "nan" not in re.sub('"data:[^"]*', "", text).lower()


def test_maps_that_could_not_be_made_say_so():
    evidence = synthetic.found()
    evidence["tsne"] |= {"maps": {}, "collapsed": ["dann"]}
    text = full(evidence=evidence)
    assert "features of dann are all the same" in text


def test_hundreds_of_classes_show_the_best_and_the_worst():
    k, names = 345, ("zero_shot", "dann")
    evidence = synthetic.found(names, num_classes=k, n=300)
    before = [0.5] * k
    after = [None, *(0.5 + np.linspace(-0.4, 0.4, k - 1)).tolist()]
    before[0] = None
    evidence["per_class"] = {"n": [1] * k, "accuracy": {"zero_shot": before, "dann": after}}
    text = full(evidence=evidence)
    chart = next(d for d in drawings(text) if d.find("title").text.startswith("dann, 15 best"))
    said = [t.text for t in chart.iter("title")][1:]
    assert len(said) == 30
    assert said[0].startswith("class 338: +40.0")
    assert said[-1].startswith(f"{synthetic.CLASSES[1]}: −40.0")  # class 0 has no example
    assert len(text.encode()) < 2_000_000


def test_changes_are_sorted_and_classes_without_one_are_counted():
    evidence = synthetic.found(("zero_shot", "dann"))
    accuracy = {
        "zero_shot": [0.5, 0.5, 0.5, None, 0.2, 0.0],
        "dann": [0.4, 0.5, 0.9, None, 0.2, 0.1],
    }
    evidence["per_class"] = {"n": [10] * 6, "accuracy": accuracy}
    text = full(evidence=evidence)
    chart = next(d for d in drawings(text) if d.find("title").text == "dann, 2 unchanged")
    said = [t.text.rsplit(": ", 1)[1] for t in chart.iter("title") if ": " in t.text]
    assert [s.split(" ")[0] for s in said] == ["+40.0", "+10.0", "−10.0"]
    assert "50 % → 90 % of 10" in said[0]


def test_a_page_of_many_maps_stays_small():
    methods = ("zero_shot", *(f"m{i}" for i in range(9)))
    evidence = synthetic.found(methods, n=300)
    results = synthetic.results(methods=methods)
    text = full(results=results, evidence=evidence, metrics=synthetic.metrics(100, 3, methods[1:]))
    assert len(text.encode()) < 2_000_000


def test_curves_follow_phases_and_leave_out_what_is_no_measure():
    metrics = [
        {"method": "two", "phase": "head", "epoch": 1, "loss": [1.0, 3.0], "s_per_epoch": 9},
        {"method": "two", "phase": "head", "epoch": 2, "loss": [1.0, float("nan")]},
        {"method": "two", "phase": "all", "epoch": 1, "loss": [0.5, 0.5], "words": ["a"]},
        {"phase": "one", "epoch": 1, "loss": 2.0, "empty": [], "lam": [None]},
        {"phase": "evaluate", "method": "two", "information_maximization": {"real": [1]}},
    ]
    found = curves(metrics)
    assert found == {
        "two": {"loss": ([1, 2, 3], [2.0, 1.0, 0.5], [1.0, 1.0, 0.5], [3.0, 1.0, 0.5])},
        "one": {"loss": ([1], [2.0], [2.0], [2.0])},
    }


def test_phases_that_count_from_the_start_of_the_run_stay_where_they_are():
    metrics = [
        {"method": "m", "phase": p, "epoch": e, "loss": [0.0]}
        for p, e in (("a", 1), ("a", 2), ("b", 3), ("b", 4))
    ]
    assert curves(metrics)["m"]["loss"][0] == [1, 2, 3, 4]


def test_the_choice_of_a_method_shows_scores_and_what_was_refused():
    words = Outline(full()).words
    text = " ".join(words)
    how = "Best ensemble agreement among methods that agree with zero-shot on 60 % of 40 unlabelled"
    assert f"{how} images of sketch" in text
    assert "dann *" in words and "zero_shot *" not in words
    assert "finetune is not taken: predicts 1.0 effective classes, zero-shot 5.0." in words
    rules = ["ensemble_agreement", "source_val", "atc", "effective_classes"]
    at = words.index(rules[0])
    assert [word for word in words[at:] if word.strip()][:4] == rules


def test_what_other_rules_pick_is_one_table():
    words = Outline(full()).words
    assert {"epoch of dann", "3/4", "75.0", "55.0", "source_val", "last *"} <= set(words)


@pytest.mark.parametrize("published", [None, [("dann", "real", "83", "81.5")]])
def test_a_suite_links_its_runs(published):
    results = synthetic.results()
    entries = [
        ("Table 1", results, published, "table1/report.html"),
        (f"Table {synthetic.EVIL}", results, None, None),
    ]
    text = page.suite_page(entries)
    outline = Outline(text)
    assert outline.sections == ["part-0", "part-1"] and "script" not in outline.tags
    assert text.count('href="table1/report.html"') == 1
    assert ("81.5" in outline.words) == bool(published)
    assert page.suite_page([])
