"""From a config's episodes to the sampler, and what is wrong with them before anything runs."""

from collections.abc import Iterable, Mapping

import numpy as np

from clipjax.data.dataset import Dataset, has_labels
from clipjax.data.loading import sampler
from clipjax.data.unlabelled import labelled
from clipjax.errors import ConfigError, DataError
from clipjax.study.config import Study
from clipjax.study.epochs import training_rows
from clipjax.study.methods import Method
from clipjax.study.training import Episodes, MethodConfig


def left_out(episodes: Episodes, classes: int) -> tuple[int, ...]:
    """Return the classes that training never sees, by their numbers."""
    drawn = np.random.default_rng(episodes.held_out_seed).permutation(classes)
    return tuple(sorted(map(int, drawn[: max(0, episodes.held_out)])))


def training_sampler(episodes: Episodes, classes: int) -> sampler.Episodes:
    """Return the sampler of training episodes."""
    sizes = episodes.way, episodes.shot, episodes.query, episodes.count
    return sampler.Episodes(*sizes, classes, episodes.tasks, left_out(episodes, classes))


def judging_sampler(episodes: Episodes, classes: int) -> sampler.Episodes:
    """Return the sampler of test episodes: of held-out classes alone, of all where none are."""
    out = left_out(episodes, classes)
    seen = tuple(k for k in range(classes) if k not in out) if out else ()
    sizes = episodes.test_way or episodes.way, episodes.shot, episodes.query, episodes.test
    return sampler.Episodes(*sizes, classes, 1, seen)


def enough_classes(tasks: sampler.Episodes, labels: np.ndarray) -> int:
    """Return how many classes have examples for an episode."""
    counts = np.bincount(labels[labelled(labels)], minlength=tasks.num_classes)
    counts[list(tasks.left_out)] = 0
    return int((counts >= tasks.shot + tasks.query).sum())


def check_episodes(
    method: MethodConfig,
    training: np.ndarray,
    tested: Mapping[str, np.ndarray],
    classes: tuple[str, ...],
    trains: bool = True,
) -> None:
    """Raise ConfigError or DataError for episodes that classes or images cannot fill.

    Args:
      training: labels that are trained on.
      tested: domain -> labels of its test images, of those that must be judged.
    """
    episodes, count = method.episodes, len(classes)
    where, out = f"methods.{method.stage}.episodes", episodes.held_out
    kept, way = count - out, episodes.test_way or episodes.way
    for name, asked, there, whose in (
        ("way", episodes.way if trains else 0, kept, "to train on"),
        ("test_way" if episodes.test_way else "way", way, out or count, "to be judged on"),
    ):
        if asked > there and (whose == "to train on" or episodes.test):
            held = f" of {count}, with held_out={out}" if out else ""
            told = f"{where}.{name} is {asked}, but there are {max(there, 0)} classes {whose}{held}"
            remedy = "; or held_out=0, to be judged on classes that training saw" if out else ""
            raise ConfigError(f"{told}; take fewer{remedy}.")
    if trains:
        sampler.check_episodes(training_sampler(episodes, count), training, classes)
    if not episodes.test:
        return
    tasks = judging_sampler(episodes, count)
    for domain, labels in tested.items():
        if (found := enough_classes(tasks, labels)) < way:
            need = episodes.shot + episodes.query
            named = ", ".join(classes[k] for k in left_out(episodes, count)[:10])
            held = f" of the held-out ({named})" * bool(out)
            raise DataError(
                f"{where}: test episodes of {way} classes need {need} test images of each; {found} "
                f"classes{held} have them in {domain!r}. Take fewer classes or images, hold out "
                "others (held_out_seed), or set test=0."
            )


def check_all_episodes(study: Study, dataset: Dataset, methods: Iterable[Method]) -> None:
    """Raise ConfigError or DataError for episodes that the data cannot fill."""
    ends = [domain for domain in (*study.data.sources, *study.targets) if domain in dataset.domains]
    for method in (method for method in methods if method.config.episodes):
        source = dataset.source(method.data.labelled, "train")
        labels = np.asarray(source.labels)
        cut = getattr(source, "uncut", None)
        rows = training_rows(method.data, labels, dataset.classes, cut)
        tested = {
            domain: np.asarray(dataset.source(domain, "test").labels)
            for domain in dict.fromkeys(ends)
            if has_labels(dataset, domain, "test")
        }
        chosen = labels if rows is None else labels[rows]
        tested = tested if method.kind.episode else {}
        check_episodes(method.config, chosen, tested, dataset.classes, method.trains)
