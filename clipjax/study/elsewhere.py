"""Another dataset, on which zero-shot before and after training shows what is forgotten."""

from clipjax.data.dataset import Dataset, check_domain, has_labels
from clipjax.data.open import open_dataset
from clipjax.errors import ClipjaxError, ConfigError
from clipjax.study.config import Study


def open_elsewhere(study: Study) -> Dataset | None:
    """Open the dataset of `forgetting`; None where the config names none.

    ConfigError: it cannot be opened, is the run's own, or no zero-shot accuracy can be measured.
    """
    asked = study.forgetting
    if not asked.given:
        return None
    if not study.stages:
        told = "forgetting compares before training with after, and stages names no method"
        raise ConfigError(f"{told}; name one, or leave forgetting out.")
    name = asked.name or "auto"
    if (name, asked.root) == (study.data.name, study.data.root):
        told = "the data that the run trains on, whose zero-shot accuracy stands in every table"
        raise ConfigError(f"forgetting names {told}; name another dataset.")
    try:
        dataset = open_dataset(name, asked.root, fractions=study.data.fractions)
        for domain in elsewhere_domains(study, dataset):
            if not has_labels(dataset, domain, "test"):
                fault = f"no test image of {domain!r} has a label, so there is no accuracy"
                raise ConfigError(f"{fault}; name others in forgetting.domains.")
    except ClipjaxError as error:
        raise ConfigError(f"forgetting: {error}") from None
    if len(dataset.classes) < 2:
        told = f"forgetting: {dataset.name} has {len(dataset.classes)} class, and two are needed"
        raise ConfigError(f"{told} to tell apart; name another dataset.")
    return dataset


def elsewhere_domains(study: Study, dataset: Dataset) -> tuple[str, ...]:
    """Return the domains of it that are measured: those asked for, or shared ends, or all."""
    if study.forgetting.domains:
        return tuple(check_domain(dataset, domain) for domain in study.forgetting.domains)
    ends = (*study.data.sources, *study.targets)
    return tuple(d for d in dataset.domains if d in ends) or dataset.domains
