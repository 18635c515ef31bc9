"""Which runs of a study make a soup, and what cannot be one."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from clipjax.errors import ConfigError

Method = Any  # a `clipjax.study.methods.Method`, whose file imports this one
Run = tuple[str, int]  # a method, and the position of a seed


class Pot(NamedTuple):
    """Soups that share a line of the results."""

    stage: str  # a name for people: the stage's, or of one of its settings
    method: str  # the first that they are of
    kinds: tuple[str, ...]
    over: str
    runs: tuple[tuple[Run, ...], ...]  # of each soup


def pots(methods: Mapping[str, Method], seeds: int) -> Iterator[Pot]:
    """Yield the soups that a study's methods ask for."""
    stages = dict.fromkeys(m.config.stage for m in methods.values() if m.config.soup)
    for stage in stages:
        names = [name for name, m in methods.items() if m.config.stage == stage]
        soup = methods[names[0]].config.soup
        each = [[(name, seed) for seed in range(seeds)] for name in names]
        if soup.over == "seeds":
            for name, runs in zip(names, each, strict=True):
                yield Pot(name, name, soup.kinds, soup.over, (tuple(runs),))
        elif soup.over == "settings":
            yield Pot(stage, names[0], soup.kinds, soup.over, tuple(zip(*each, strict=True)))
        else:
            runs = tuple(run for runs in each for run in runs)
            yield Pot(stage, names[0], soup.kinds, soup.over, (runs,))


def check_soups(methods: Mapping[str, Method], seeds: int) -> None:
    """Raise ConfigError for runs whose weights have no mean that means anything."""
    for pot in pots(methods, seeds):
        mixed = [methods[name] for name in dict.fromkeys(name for name, _ in pot.runs[0])]
        where, first = f"methods.{mixed[0].config.stage}.soup", mixed[0]
        if not first.trains:
            told = f"loss {first.config.loss!r} is a closed form, the same for every seed"
            raise ConfigError(f"{where}: {told}; leave soup out.")
        if len(pot.runs[0]) < 2:
            more = {"seeds": "seeds", "settings": "a sweep"}.get(pot.over, "seeds or a sweep")
            raise ConfigError(f"{where}: over={pot.over} has one run, and no mean; give {more}.")
        for other in mixed[1:]:
            for what, of in _ALIKE.items():
                if of(first) != of(other):
                    both = f"{first.config.name!r} and {other.config.name!r} differ in {what}"
                    raise ConfigError(f"{where}: {both}, so their weights have no mean.")
        if pot.over != "settings" and first.heads is not None and not _starts_alike(first):
            fault = (
                "starts at random, differently for each seed, and the mean of such heads is none"
            )
            remedy = "start at zero-shot (heads = {}), at start='logistic', or set over=settings"
            raise ConfigError(f"{where}: {first.config.name!r} {fault}; {remedy}.")


# What the runs of a soup have in common: name for people -> of a method.
_ALIKE = {
    "their heads": lambda m: repr(m.heads),
    "what trains": lambda m: [phase.freeze for phase in m.phases],
    "their target": lambda m: (m.data.target, m.data.labels),
    "their alignment": lambda m: m.config.align,
}


def _starts_alike(method: Method) -> bool:
    """Return whether heads are the same before training, whatever the seed."""
    heads = method.heads
    known = heads.text or heads.from_texts or heads.start == "logistic"
    return known and heads.discriminator is None
