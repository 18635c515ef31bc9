"""The parts of a config that say which weights are averaged: along a run, and over runs."""

import dataclasses

from clipjax.study.fields import field

KINDS = ("uniform", "ema", "beta")
SOUPS = ("uniform", "greedy")


@dataclasses.dataclass(frozen=True)
class Average:
    """A running mean of what trains (`clipjax.adapt.average`): a variant of the results.

    It begins anew with its phase, and is of the last phase's end, whatever `selection` picks.
    """

    kind: str = field("uniform", "how updates are weighted", known=KINDS)
    every: str = field(
        "step", "what is taken in: each step, or the end of each epoch", known=("step", "epoch")
    )
    start: float = field(0.0, "of uniform: share of its phase before it begins", low=0, high=1)
    last: int = field(0, "of uniform: the last epochs of its phase, in place of start", low=0)
    decay: float = field(0.999, "of ema: weight of the mean so far", low=0, high=1)
    b: float = field(0.5, "of beta: below 1 favours both ends of its phase", low=0)

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.kind != "uniform" and (self.start or self.last):
            return f"start and last are of kind=uniform; leave them out with kind={self.kind}."
        if self.kind == "beta" and self.every == "epoch":
            return "kind=beta is of every step; leave out every=epoch."
        if self.kind == "beta" and not self.b:
            return "b=0 leaves kind=beta no weights; give a number above 0."
        if self.start == 1 or (self.kind == "ema" and self.decay == 1):
            told = "start=1" if self.start == 1 else "decay=1"
            return f"{told} averages over no step; give a number below 1."
        if self.start and self.last:
            return f"start={self.start} and last={self.last} say twice when it begins; give one."
        return ""


@dataclasses.dataclass(frozen=True)
class Soup:
    """Means of the weights of a method's runs (`clipjax.adapt.soup`): further rows of results."""

    kinds: tuple[str, ...] = field(
        SOUPS,
        "uniform: of all runs; greedy: of those that help on the source's validation images",
        fits=lambda value: 0 < len(value) == len(set(value) & set(SOUPS)),
        give="a tuple of uniform and greedy",
    )
    over: str = field(
        "all",
        "which runs: seeds (of each setting), settings of the sweep (for each seed), or all",
        known=("all", "seeds", "settings"),
    )
