"""Opens what a study names, and refuses what cannot run before anything expensive."""

from collections.abc import Iterable

import numpy as np

from clipjax.data.classes import match_classes
from clipjax.data.dataset import (
    Dataset,
    Part,
    Skipped,
    check_domain,
    has_labels,
    open_parts,
    reasons,
)
from clipjax.data.derived import DEALT, UNUSED, Dealt, JoinedDataset, LabelledDomains
from clipjax.data.few_shot import CoopValidation
from clipjax.data.open import open_dataset
from clipjax.data.readers.files import is_image_name
from clipjax.data.readers.places import WithPlace, is_place
from clipjax.data.recognise import recognise
from clipjax.errors import ConfigError, DataError
from clipjax.io.texts import some
from clipjax.model.prompts import fill_prompts
from clipjax.model.text import confusable
from clipjax.study.config import Study
from clipjax.study.coverage import (
    few_for_covariances,
    scored_among,
    short_epochs,
    thin_classes,
)
from clipjax.study.defaults import (
    USUAL_PROMPTS,
    check_ends,
    check_model,
    choices,
    is_demo,
    pair_rule,
    settled,
)
from clipjax.study.elsewhere import open_elsewhere
from clipjax.study.episode_sizes import check_all_episodes
from clipjax.study.epochs import planned_epoch, planned_sizes
from clipjax.study.evaluations import check_others, other_data
from clipjax.study.image_only import check_image_only
from clipjax.study.methods import Method, build_methods
from clipjax.study.model_opened import open_model
from clipjax.study.needs import (
    as_recorded,
    check_each_class,
    check_readable,
    check_selection,
    check_targets,
    check_unreadable,
    with_labels,
)
from clipjax.study.prepared import (
    NOTHING,
    Opened,
    Plan,
    Recorded,
    check_machine,
    check_masks,
)
from clipjax.study.prompt_sets import all_names, kept_tokens, read_prompts
from clipjax.study.teacher import with_teacher
from clipjax.study.words import check_steps, with_words

FEWEST_FOR_DISTANCE = 20  # images a domain, below which a proxy A-distance means nothing


def prepare(
    study: Study,
    *,
    training: bool = True,
    recorded: Recorded | None = None,
    opened: Opened = NOTHING,
) -> Plan:
    """Open everything the study names; raise ClipjaxError for whatever cannot run.

    With `training` this machine must have the devices and the memory. `recorded` is what a finished
    run has kept of its data, which are then not opened.
    """
    study = settled(study)
    encoder = study.encoder
    if all((study.data.source, study.data.target)):
        check_model(encoder)  # before the data are read
    dataset, notes = (recorded, []) if recorded else matched_data(study, opened.dataset)
    if recorded:
        study = as_recorded(study, [name for names in recorded.programs for name in names])
    else:
        study, left_out = with_labels(study, dataset)
        notes = [*notes, *left_out]
    methods = build_methods(study, tuple(dataset.classes))
    if recorded:
        names, others = recorded.class_names, {}
    else:
        check_parts(study, dataset)
        check_all_episodes(study, dataset, methods.values())
        check_each_class(dataset, methods.values())
        notes += too_little(study, dataset, methods.values())
        called = all_names(encoder.class_names, dataset)
        names = tuple(called[name] for name in dataset.classes)
        others, more = other_data(study, dataset, evaluated(study, dataset))
        notes += more
    elsewhere = open_elsewhere(study) if training and not recorded else None
    for name in names:  # before a model is downloaded
        fill_prompts(name, encoder.prompts)
    model = opened.model or open_model(study)

    def tokens_of(names: tuple[str, ...]) -> np.ndarray | None:
        if not model["module"].config.text:
            return None
        read = lambda: read_prompts(encoder, names, model["model"])
        return kept_tokens(study.features, names, encoder.prompts, model["identity"], read)

    tokens = tokens_of(names)
    plan = Plan(study, dataset, names, methods=methods, tokens=tokens, **model)
    if tokens is None:
        notes = [*(n for n in notes if n != USUAL_PROMPTS), check_image_only(plan)]
    else:
        notes += confusable(tokens, dataset.classes, fill_prompts(names[0], encoder.prompts))
    if not recorded:
        width = plan.clip_config.projection_dim
        notes += few_for_covariances(dataset, methods.values(), width)
    plan = with_words(plan._replace(notes=tuple(notes)))
    for method in methods.values():
        check_masks(plan, method)

    def among(other: Dataset, named: tuple[str, ...]) -> Plan:
        return with_words(plan._replace(dataset=other, class_names=named, tokens=tokens_of(named)))

    names_of = lambda x: tuple(called.get(c) or x.texts.get(c, c) for c in x.classes)
    more = {key: among(other, names_of(other)) for key, other in others.items()}
    if elsewhere:
        texts = tuple(elsewhere.texts.get(name, name) for name in elsewhere.classes)
        plan = plan._replace(elsewhere=among(elsewhere, texts))
    check_others(plan := plan._replace(others=more))
    if training:
        plan = with_teacher(plan)
        check_machine(plan)
        check_steps(plan)
    return plan


def open_data(study: Study, dataset: Dataset | None = None) -> tuple[Dataset, list[str]]:
    """Open the study's dataset, unless it is given, and check its source and targets.

    Also returns notes on what the data decided.
    """
    data, name = study.data, study.data.name
    notes = [*pair_rule(data, study.encoder), *choices(data, study.encoder)]
    if dataset is None:
        if name == "auto" and not is_demo(data):
            name, why = recognise(data.root, data.lists)
            notes.insert(0, f"data.name=auto: {why}")
        dataset = open_dataset(name, data.root, fractions=data.fractions, lists=data.lists)
    check_ends(data, study.encoder, dataset.domains)
    for target in study.targets:
        if target not in dataset.domains and is_place(target):
            dataset = WithPlace(dataset, target, data.root, data.fractions)
        elif target in dataset.domains and dataset.splits_of(target) == ("test",):
            dataset = Dealt(dataset, target, data.fractions)
            notes.append(f"{target} has test images alone: as the target they {DEALT}")
    for domain in data.sources:
        check_domain(dataset, domain)
    if any(map(dataset.unlabelled, data.sources)):
        dataset = LabelledDomains(dataset, data.sources)
    if len(data.sources) > 1:
        dataset = JoinedDataset(dataset, data.sources, data.source_name)
    for target in study.targets:
        check_domain(dataset, target)
        meant = len(dataset.domains) == 1 or target in data.domains
        if data.source == target and not meant:
            both = f"data.source and data.target are both {target!r}"
            remedy = f"give two different domains of {', '.join(dataset.domains)}"
            raise ConfigError(f"{both}; {remedy}, or name it in data.domains, too.")
        if data.source == target:
            told = f"{target} is source and target: nothing is adapted to"
            notes.append(f"{told}, what reads a target reads its training images without labels")
    if data.shots and data.shots_rule == "coop":
        dataset = CoopValidation(dataset, data.source_name, data.shots, data.subset_seed)
    return dataset, notes


def matched_data(study: Study, dataset: Dataset | None = None) -> tuple[Dataset, list[str]]:
    """Return the study's dataset, or the one given, with classes matched by name, and notes."""
    (dataset, notes), data = open_data(study, dataset), study.data
    domains = evaluated(study, dataset)
    dataset, more = match_classes(dataset, data.source_name, data.target, domains, data.classes)
    notes += [*more, *scored_among(data, dataset, domains)]
    if dataset.skipped:
        count, first = len(dataset.skipped), dataset.skipped[0].name
        told = f"{count:,} files are passed over" if count > 1 else "1 file is passed over"
        notes.append(f"{told}: {reasons(dataset.skipped)}; the first: {first}")
    bare = [domain for domain in domains if not has_labels(dataset, domain)]
    told = f"no labels in {some(bare)}: what needs them, like test accuracy, is not measured"
    return dataset, [*notes, *([told] if bare else [])]


def evaluated(study: Study, dataset: Dataset) -> tuple[str, ...]:
    """Return the domains of results in the dataset's order: source and target always."""
    if not study.data.domains:
        return dataset.domains
    for domain in study.data.domains:
        check_domain(dataset, domain)
    wanted = {study.data.source_name, *study.targets, *study.data.domains}
    return tuple(domain for domain in dataset.domains if domain in wanted)


def needed_parts(study: Study, dataset: Dataset) -> list[Part]:
    """Return what a run encodes: test splits, what training and tuning need, unlabelled targets."""
    domains = evaluated(study, dataset)
    parts = [(domain, "test") for domain in domains]
    bare = [target for target in study.targets if dataset.unlabelled(target)]
    there = lambda part: len(dataset.source(*part))
    parts += filter(there, [(target, split) for target in bare for split in ("train", "val")])
    if study.whole_domains:
        parts += [(d, split) for d in domains for split in dataset.splits_of(d) if split != "test"]
    if study.stages:
        source, *ends = (study.data.source_name, *study.targets)
        there = [target for target in ends if "train" in dataset.splits_of(target)]
        parts += [(domain, "train") for domain in (source, *there)]
        parts += [(domain, "val") for domain in (source, *ends)]
    return list(dict.fromkeys(parts))


def check_parts(study: Study, dataset: Dataset) -> None:
    """Raise ConfigError or DataError if the data lack what a run needs of them."""
    bare = [study.data.source_name] * any(why == UNUSED for _, why in dataset.skipped)
    for domain, split in needed_parts(study, dataset):
        if not len(dataset.source(domain, split)):
            wanted = "images with labels" if domain in bare else "images"
            fault = f"split {split!r} of domain {domain!r} has no {wanted}"
            raise DataError(f"{fault}; add some.")
    # Of the files passed over, those that are images by name and place, or rows of a table.
    lost = [
        Skipped(name, reason)
        for name, reason in dataset.skipped
        if ".parquet:" in name or (is_image_name(name) and "outside of" not in reason)
        if reason != UNUSED
    ]
    images = sum(map(len, open_parts(dataset)[0].values()))
    check_unreadable(lost, images, study.data.max_unreadable)
    for domain in (*study.data.sources, *study.targets):
        trains = study.stages and "train" in dataset.splits_of(domain)
        check_readable(dataset.source(domain, "train" if trains else "test"))
    check_selection(study, dataset)
    for data, size in dict.fromkeys((each.data, each.batch_size) for each in study.trained):
        planned_epoch(data, size, dataset)
    check_targets(study, dataset)
    if study.stages and study.training.selection == "proxy_a_distance":
        ends = (study.data.source_name, *study.targets)
        fewest = min(len(dataset.source(domain, "val")) for domain in ends)
        if fewest < FEWEST_FOR_DISTANCE:
            raise ConfigError(
                "selection=proxy_a_distance needs at least "
                f"{FEWEST_FOR_DISTANCE} validation images a domain; choose another rule."
            )


def too_little(study: Study, dataset: Dataset, methods: Iterable[Method]) -> list[str]:
    """Return sentences on parts, classes and epochs of few images (`clipjax.study.coverage`)."""
    parts = needed_parts(study, dataset)
    labels = {part: np.asarray(dataset.source(*part).labels) for part in parts}
    methods = [method for method in methods if method.trains]
    sizes = {data: planned_sizes(data, dataset) for data in {m.data for m in methods}}
    return [*thin_classes(labels, dataset.classes), *short_epochs(methods, sizes)]
