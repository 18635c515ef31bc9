"""`clipjax suite --study=few_shot`: every method, protocol and number of images a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from clipjax.errors import ConfigError

if TYPE_CHECKING:
    from clipjax.commands.choices import Choices
    from clipjax.data.dataset import Dataset
    from clipjax.evaluate.few_shot import Cell
    from clipjax.study import Study

ABLATIONS = "ablations"  # beside the protocols: CLIP-CITE taken apart, base to new
COOP = "coop"  # `data.name` under which the root holds a folder for each dataset


class Asked(NamedTuple):
    """What the flags ask for; empty is all."""

    protocols: Sequence[str] = ()
    shots: Sequence[str] = ()
    methods: Sequence[str] = ()


class Named(NamedTuple):
    """A dataset as a config names it."""

    data: str  # `data.name`
    root: str


class Place(NamedTuple):
    """A dataset of the comparison."""

    name: str
    data: str  # `data.name`
    root: str
    source: str
    dataset: Dataset


def few_shot_studies(given: Choices, asked: Asked | None = None) -> dict[Cell, Study]:
    """Return what runs, method by method: those that encode images once first.

    ConfigError: flags that this study does not take, or data that a protocol cannot be run on.
    """
    from clipjax.configs import few_shot, few_shot_ablations
    from clipjax.evaluate.few_shot import Cell
    from clipjax.study import parse
    from clipjax.study.defaults import check_model

    asked = asked or Asked()
    if given.target:
        told = "--study=few_shot tests on the source, and for dg on every other domain"
        raise ConfigError(f"{told}; leave --target={given.target} out.")
    apart = ABLATIONS in asked.protocols
    if apart and len(asked.protocols) > 1:
        raise ConfigError(f"--protocols={ABLATIONS} is of methods of its own; let it run alone.")
    config = few_shot.get_config("smoke" if given.smoke else None)
    if apart:
        config = few_shot_ablations.get_config("smoke" if given.smoke else None)
        asked = asked._replace(protocols=["bng"], shots=asked.shots or [str(config.data.shots)])
    given.put_into(config)
    names, slow = chosen(asked.methods, config.stages), few_shot.slow_methods()
    if given.smoke and not asked.methods and not apart:
        names = [name for name in names if name not in slow or name in few_shot.SMOKE_SLOW]
    usual = few_shot.SMOKE_SHOTS if given.smoke else few_shot.SHOTS
    shots = {name: _shots(asked.shots) or usual for name in names}
    if not asked.shots:
        usual = tuple(k for k in usual if k in few_shot.SLOW_SHOTS)
        shots |= {name: usual for name in names if name in slow}
    places = _places(given, config.data.name)
    second = _second(given, places)
    protocols = _protocols(asked.protocols, places, second)
    for place in places:
        _check_place(place, protocols, max(map(max, shots.values())))
    found = {}
    for name in names:
        for place in places:
            runs = _runs(protocols, shots[name], bool(_others(place)))
            if given.smoke:  # most of its time is compilation, for each number of classes anew
                runs = runs[:1] if name in few_shot.FIXED else runs[-1:]
            for classes, number in runs:
                for seed in config.seeds:
                    cell = Cell(name, place.name, classes, number, seed)
                    own = config.copy_and_resolve_references()
                    own.seeds, own.data.subset_seed, own.data.shots = (seed,), seed, number
                    own.methods, own.stages = {name: config.methods[name]}, (name,)
                    wide = _wide(protocols, shots[name], number)
                    _put_place(own, place, classes, wide, 1 if given.smoke else None)
                    if classes == "base" and name not in few_shot.FIXED:
                        elsewhere = None if second and second[:2] == place[1:3] else second
                        own.evaluations = _evaluations(protocols, elsewhere)
                    found[cell] = parse(own.to_dict())
    check_model(next(iter(found.values())).encoder)
    return found


def _protocols(asked: Sequence[str], places: Sequence[Place], other: Named | None) -> Sequence[str]:
    """Return the protocols asked for; by default those that the data allow."""
    from clipjax.evaluate.few_shot import PROTOCOLS

    if unknown := [name for name in asked if name not in PROTOCOLS]:
        known = ", ".join((*PROTOCOLS, ABLATIONS))
        raise ConfigError(f"--protocols={unknown[0]} is none; known: {known}.")
    impossible = {}
    if not any(map(_others, places)):
        impossible["dg"] = "tests on other domains with labels, and these data have none"
    if other is None:
        told = "tests on another dataset: the embedded one's other classes, or, with --data=coop,"
        impossible["cdg"] = f"{told} ImageNet"
    if wrong := [name for name in asked if name in impossible]:
        raise ConfigError(f"the protocol {wrong[0]} {impossible[wrong[0]]}; leave it out.")
    return asked or [name for name in PROTOCOLS if name not in impossible]


def chosen(asked: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the methods that are asked for, in order, all by default; ConfigError: no such."""
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"--methods={unknown[0]} is none; known: {', '.join(known)}.")
    return [name for name in known if name in asked] if asked else known


def _shots(asked: Sequence[str]) -> tuple[int, ...]:
    if wrong := [text for text in asked if not text.isdecimal() or not int(text)]:
        raise ConfigError(f"--shots={wrong[0]}: give numbers of images a class, as --shots=1,4,16.")
    return tuple(sorted({int(text) for text in asked}))


def _roots(given: Choices, name: str) -> list[Named]:
    """Return the datasets: one, or with `--data=coop` all that the root holds."""
    from clipjax.data.readers.coop import coop_tables
    from clipjax.data.readers.imagenet import BASE, NAMES
    from clipjax.io import as_path

    if given.data != COOP or coop_tables(root := as_path(given.root)):
        return [Named(name, given.root)]
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = [Named(COOP, str(path)) for path in folders if coop_tables(path)]
    if (root / BASE / NAMES).is_file():
        found.append(Named(BASE, given.root))
    if not found:
        told = f"--data_root={given.root} holds no folder with one of CoOp's datasets"
        raise ConfigError(f"{told}, as caltech-101 with split_zhou_Caltech101.json.")
    return found


def _places(given: Choices, name: str) -> list[Place]:
    """Open the datasets and find their sources."""
    from clipjax.data.open import is_embedded, open_dataset
    from clipjax.data.readers.imagenet import BASE
    from clipjax.study.defaults import SOURCE

    found = []
    for data, root in _roots(given, name):
        dataset = open_dataset(data, root or "")
        alone = dataset.domains[0] if len(dataset.domains) == 1 or data == BASE else ""
        source = given.source or (SOURCE if is_embedded(dataset) else alone)
        known = ", ".join(dataset.domains)
        if not source:
            raise ConfigError(f"--source is not named; the domains are {known}.")
        if source not in dataset.domains:
            raise ConfigError(f"--source={source} is no domain; known: {known}.")
        found.append(Place(dataset.name, data, root, source, dataset))
    return found


def _others(place: Place) -> list[str]:
    """Return the domains beside the source whose test images have labels."""
    from clipjax.data.dataset import has_labels

    domains = (d for d in place.dataset.domains if d != place.source)
    with_test = (d for d in domains if "test" in place.dataset.splits_of(d))
    return [d for d in with_test if has_labels(place.dataset, d, "test")]


def _check_place(place: Place, protocols: Sequence[str], most: int) -> None:
    """Raise ConfigError for data that a protocol cannot be run on."""
    import numpy as np

    from clipjax.data.dataset import has_labels
    from clipjax.data.unlabelled import labelled

    dataset, source = place.dataset, place.source
    if "train" not in dataset.splits_of(source) or not has_labels(dataset, source, "train", "test"):
        told = f"{place.name}: {source} has no training and test images with labels"
        raise ConfigError(f"{told}; name another domain by --source.")
    labels = np.asarray(dataset.source(source, "train").labels)
    counts = np.bincount(labels[labelled(labels)], minlength=len(dataset.classes))
    classes = int((counts > 0).sum())
    halves = {"bng", "cdg"} & set(protocols)
    if classes < (4 if halves else 2):
        what = f"{sorted(halves)[0]} needs four classes, two a half" if halves else "two are needed"
        raise ConfigError(f"{place.name}: {source} has {classes} of them to train on; {what}.")
    if most > counts.max():
        told = f"--shots={most} is more than any class of {place.name}/{source} has"
        raise ConfigError(f"{told}: at most {counts.max()} training images; give fewer.")


def _runs(protocols: Sequence[str], shots: Sequence[int], others: bool) -> list[tuple[str, int]]:
    """Return (classes, shots) of the runs that the protocols need."""
    most, found = max(shots), []
    if "fsl" in protocols:
        found += [("all", number) for number in shots]
    elif "dg" in protocols and others:
        found.append(("all", most))
    if {"bng", "cdg"} & set(protocols):
        found.append(("base", most))
    return found


def _wide(protocols: Sequence[str], shots: Sequence[int], number: int) -> bool:
    """Return whether a run is tested on other domains, too."""
    return "dg" in protocols and number == max(shots)


def _put_place(config, place: Place, classes: str, wide: bool, most: int | None) -> None:
    """Set a config's data; `wide`: tested on other domains too, at most so many."""
    others = _others(place)[:most] if wide and classes == "all" else []
    config.data.name, config.data.root = place.data, place.root
    config.data.source = config.data.target = place.source
    config.data.domains = (place.source, *others)
    config.data.classes = "base" if classes == "base" else "closed"


def _evaluations(protocols: Sequence[str], other: Named | None) -> dict:
    """Return the other classes that a run on base classes is tested on."""
    from clipjax.evaluate.few_shot import NEW, OTHER_BASE, OTHER_NEW

    found = {NEW: {"classes": "new"}} if "bng" in protocols else {}
    if other and "cdg" in protocols:
        for name, half in ((OTHER_BASE, "base"), (OTHER_NEW, "new")):
            found[name] = {"classes": half, "name": other.data, "root": other.root}
    return found


def _second(given: Choices, places: Sequence[Place]) -> Named | None:
    """Return what cdg tests on: the embedded data under other classes, or CoOp's ImageNet."""
    from clipjax.data.readers.imagenet import BASE

    if not given.root:
        return Named("emoji_regrouped", "")
    return next((Named(p.data, p.root) for p in places if p.data == BASE != given.data), None)
