"""The sections of a run's page as lists of items, empty where the run has nothing to show."""

import json
from typing import Any

import numpy as np

from clipjax.data.unlabelled import NO_LABEL, labelled
from clipjax.evaluate import choice as choices
from clipjax.evaluate import (
    class_sets,
    episodes,
    forgetting,
    measures,
    prompt_words,
    rule_table,
    sweeps,
)
from clipjax.evaluate import results as report
from clipjax.evaluate.report.card import accuracies, colours
from clipjax.evaluate.report.charts import COLOURS, Bar, bars
from clipjax.evaluate.report.figures import (
    FIRST,
    kept,
    learning_charts,
    scatter,
    sweep_chart,
    wise_chart,
)
from clipjax.evaluate.report.matrices import pair_map
from clipjax.evaluate.report.tables import Facts, Grid, Item, Listing, Note, Sheet, Table
from clipjax.evaluate.rows import own_rows
from clipjax.io.texts import capital, counted

BEYOND = class_sets, forgetting, episodes  # results among other classes than the run's


def headline(results: dict) -> list[Item]:
    """Show the accuracies of methods: on one axis, then tables on all domains, macro."""
    target, tables = f"{results['data']['target']} (target)", []
    for header, body in (report.cells(results), *measures.tables(results)):
        title = "" if header[0] == "method" else f"{header[0][0].upper()}{header[0][1:]}, %"
        kept = [i for i, head in enumerate(header) if head != "mark"]  # beside the names above
        header, *body = [[line[i] for i in kept] for line in (header, *body)]
        mark = header.index(target) if target in header else -1
        tables.append(Table(header, body, title, mark=mark, folded=bool(title)))
    below = {told for kind in BEYOND for told in kind.notes(results)}  # `beyond` has these
    said = [words for words in report.notes(results) if words not in below]
    said += [report.facts(results), *report.data_notes(results)]
    notes = [Note(capital(words)) for words in said]
    along = wise_chart(results, colours(results))
    return [accuracies(results), *tables, *([Grid([along])] if along else []), *notes]


def beyond(results: dict) -> list[Item]:
    """Show what methods answer among other classes, what they forgot, and few-shot episodes."""
    said = [Note(capital(told)) for kind in BEYOND for told in kind.notes(results)]
    of = lambda kind: Table(
        *kind.cells(results), folded=False, words=-1 if kind is forgetting else 1
    )
    return [*map(of, BEYOND), *said]


def prompts(results: dict) -> list[Item]:
    """Show what words learned prompts are nearest to."""
    said = [Note(capital(told)) for told in prompt_words.notes(results)]
    return [Table(*prompt_words.cells(results), folded=False, words=1), *said]


def sweep(results: dict) -> list[Item]:
    """Compare the settings of a sweep, the best by validation data marked."""
    if "sweep" not in results:
        return []
    note = "* best of its stage by validation data; test accuracy decides nothing here."
    charts = [sweep_chart(results, field) for field in sweeps.fields(results)]
    chosen = gains(results)
    return [Grid(charts), Grid([chosen]), Table(*sweeps.cells(results), folded=False), Note(note)]


def gains(results: dict) -> str:
    """Draw what the best settings of each stage add to zero-shot, by target; "" of one target."""
    found, test = results["sweep"], own_rows(results["rows"])
    best = [row for row in found["rows"] if row["method"] in found["best"].values()]
    stages = list(dict.fromkeys(row["stage"] for row in best))
    targets = list(dict.fromkeys(row["target_domain"] for row in best))
    values = np.full((len(stages), len(targets)), np.nan)
    for row in best:
        target, after = row["target_domain"], row["target"]["mean"]
        before = (test.get(("zero_shot", target)) or {}).get("accuracy_mean")
        if None not in (after, before):
            at = stages.index(row["stage"]), targets.index(target)
            values[at] = np.nanmax([values[at], 100 * (after - before)])
    title = f"From {results['data']['source']}: points above zero-shot, best settings"
    return pair_map(title, stages, targets, values, signed=True) if len(targets) > 1 else ""


def learning(results: dict, metrics: list[dict]) -> list[Item]:
    """Show curves of every measure."""
    data = results["data"]
    found = learning_charts(metrics, data["source"], data["target"], colours(results))
    seeds = ", and over seeds; bands from lowest to highest." * (len(results["seeds"]) > 1)
    note = f"Mean of each epoch{seeds}"
    more = Grid(found[FIRST:], f"{len(found) - FIRST} more curves")
    return [Note(note), Grid(found[:FIRST], big=True), more] if found else []


def features(results: dict, evidence: dict) -> list[Item]:
    """Show maps of the features, coloured by domain, then by class; domains' distances."""
    found = evidence.get("tsne") or {}
    collapsed = "The features of {} are all the same: nothing to map."
    said = [collapsed.format(name) for name in found.get("collapsed", [])]
    if not (maps := kept(found.get("maps", {}))):
        return [Note(" ".join(said)), Grid([distances(results)])]
    names, classes = [evidence["source"], evidence["target"]], evidence["classes"]
    sizes = len(found["source"]), len(found["target"])
    domain, label = np.repeat([0, 1], sizes), np.asarray(found["labels"])
    of_class = lambda k: "no label" if k == NO_LABEL else classes[k]
    notes = [f"{of_class(k)}, {names[d]}" for k, d in zip(label, domain, strict=True)]
    # A colour for each of the most frequent classes of the target, if known; ties by index.
    known, of_target = labelled(label), domain == 1
    counted = label[known & of_target] if (known & of_target).any() else label[known]
    present, times = np.unique(counted, return_counts=True)
    shown = sorted(present[np.argsort(-times, kind="stable")[:COLOURS]].tolist())
    group = [shown.index(k) if k in shown else -1 for k in label]
    rings: dict[str, Any] = {"shapes": domain, "shape_names": names}
    labels = [classes[k] for k in shown]
    sheet = found.get("sheet") or {}
    common: dict[str, Any] = {"notes": notes, "pictures": sheet.get("count", 0)}
    by_domain = [scatter(f"{k}, by domain", v, domain, names, **common) for k, v in maps.items()]
    by_class = [
        scatter(f"{k}, by class", v, group, labels, **rings, **common) for k, v in maps.items()
    ]
    others = len(set(label[known].tolist())) - len(shown)
    text = (
        f"t-SNE of the features of {sizes[0]} + {sizes[1]} test images, the same on every map "
        f"(seed {evidence['seed']}); only neighbourhoods mean something, not axes or distances "
        "between groups. Methods without an adapter leave CLIP's features as they are."
    )
    bare = ", images without a label" * (not known.all())
    text += f" By class: {len(shown)} classes, {others} others{bare} grey." if others else ""
    text += " By class: images without a label are grey." if bare and not others else ""
    items = [Note(" ".join([text, *said])), Grid(by_domain), Grid(by_class)]
    if sheet:
        count = sheet["count"]
        items[0] = Note(
            f"{items[0].text} Pointing at a dot shows its image, and marks it on every map."
        )
        title = f"The {count} images of these dots"
        items.append(Sheet(title, sheet["src"], sheet["tile"], sheet["columns"]))
    return [*items, Grid([distances(results)])]


def distances(results: dict) -> str:
    """Draw the proxy A-distances of source and target test images, mean over seeds."""
    kinds = colours(results)
    rows = [
        Bar(name, float(np.mean(v)), min(v), max(v), f"{len(v)} seeds", kinds.get(name, "c0"))
        for name, v in report.measured_distances(results).items()
    ]
    return bars("Proxy A-distance (0 alike, 2 apart)", rows, digits=2)


def choice(results: dict) -> list[Item]:
    """Show every method's label-free scores, of which the verdict's rule comes first."""
    if not (found := results.get("choice")):
        return []
    beside = ("zero_shot_agreement", "effective_classes", "prior_distance")
    names = [*choices.ACROSS_RULES, *beside]
    shown = [name for name in names if any(name in own for own in found["scores"].values())]
    shown.sort(key=lambda name: name != found["rule"])
    lines = [
        [name + " *" * (name == found["pick"]), *(_value(_whole(own.get(k)), 3) for k in shown)]
        for name, own in found["scores"].items()
    ]
    text = (
        f"Scores of {found['n']} validation images of {results['data']['target']} without their "
        f"labels, mean ± standard deviation over seeds; * taken by {found['rule']}. The highest is "
        f"best; atc and doc estimate target accuracy; {', '.join(beside)} take nothing alone."
    )
    out = [f"{name} is not taken: {why}." for name, why in found["refused"].items()]
    return [Note(text), Table(["method", *shown], lines, folded=False), Note(" ".join(out))]


def _whole(values: list | None) -> list | None:
    return None if values is None or None in values else values


def selection(results: dict) -> list[Item]:
    """Show what each rule picks: epochs of methods, and a method."""
    header, lines = rule_table.cells(results)
    table = Table(header, lines, folded=False, words=len(header) - 1)
    return [Note(rule_table.ABOUT.replace("`", "")), table] if lines else []


def _value(value: Any, digits: int, factor: float = 1) -> str:
    numbers = np.atleast_1d(np.asarray([] if value is None else value, float)) * factor
    if not len(numbers):
        return "–"
    spread = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
    return f"{numbers.mean():.{digits}f}{spread}"


def about(results: dict, config: dict) -> list[Item]:
    """Show the command, machine, times, versions and the whole config."""
    seconds, where = results.get("timing_s") or {}, results.get("machine") or {}
    spent = ", ".join(f"{name} {s:.1f} s" for name, s in seconds.items())
    known = {
        "command": results.get("command"),
        "machine": where
        and f"{where['devices']}; {where['processor']}, "
        f"{counted(where['cores'], 'core')}; {where['system']}",
        "versions": ", ".join(f"{k} {v}" for k, v in (results.get("versions") or {}).items()),
        "time": spent and f"{spent}; {sum(seconds.values()):.0f} s together",
    }
    lines = [json.dumps(config, indent=2, ensure_ascii=False)] if config else []
    return [Facts([(k, v) for k, v in known.items() if v]), Listing("Config", lines, folded=True)]
