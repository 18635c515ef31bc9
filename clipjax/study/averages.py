"""The parts of a config that say which weights are averaged: along a run, and over runs."""

import dataclasses

from clipjax.study.fields import field

KINDS = ("uniform", "ema", "beta", "swad", "gauss")
SOUPS = ("uniform", "greedy")


@dataclasses.dataclass(frozen=True)
class Average:
    """A running mean of what trains (`clipjax.adapt.average`): a variant of the results.

    It begins anew with its phase, and is of the last phase's end, whatever `selection` picks; that
    of swad is of the stretch of its phase that the loss on the source's validation images chooses
    (`clipjax.evaluate.valley`), in segments from one validation (save_every) to the next.
    """

    kind: str = field(
        "uniform", "how updates are weighted; swad: alike, in the valley of the loss", known=KINDS
    )
    every: str = field(
        "step", "what is taken in: each step, or the end of each epoch", known=("step", "epoch")
    )
    start: float = field(0.0, "of uniform: share of its phase before it begins", low=0, high=1)
    last: int = field(0, "of uniform: the last epochs of its phase, in place of start", low=0)
    decay: float = field(0.999, "of ema: weight of the mean so far", low=0, high=1)
    debias: bool = field(
        True,
        "of ema: without a bias to what is taken in first; False: as torch's, from a copy of it",
    )
    b: float = field(0.5, "of beta: below 1 favours both ends of its phase", low=0)
    converge: int = field(3, "of swad: validations of which the first is the best", low=1)
    tolerance: int = field(6, "of swad: validations in a row above the limit that end it", low=1)
    ratio: float = field(0.3, "of swad: by how much the limit is above the loss there", low=0)
    mean: float = field(0.0, "of gauss: the epoch of most weight, from 1", low=0)
    std: float = field(0.0, "of gauss: how many epochs around it count", low=0)

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        if self.kind != "uniform" and (self.start or self.last):
            return f"start and last are of kind=uniform; leave them out with kind={self.kind}."
        for kind, names in _OWN.items():
            if kind != self.kind and any(getattr(self, n) != getattr(_USUAL, n) for n in names):
                told = f"{' and '.join(names)} are" if len(names) > 1 else f"{names[0]} is"
                return f"{told} of kind={kind}; leave out with kind={self.kind}."
        if self.kind in ("beta", "swad") and self.every == "epoch":
            return f"kind={self.kind} is of every step; leave out every=epoch."
        if self.tolerance < self.converge:
            return (
                f"tolerance={self.tolerance} is below converge={self.converge}; give at least as "
                "many validations."
            )
        if self.kind == "gauss" and not (self.mean and self.std and self.every == "epoch"):
            return "kind=gauss weighs ends of epochs; set every=epoch, and mean and std above 0."
        if self.kind == "beta" and not self.b:
            return "b=0 leaves kind=beta no weights; give a number above 0."
        if self.start == 1 or (self.kind == "ema" and self.decay == 1):
            told = "start=1" if self.start == 1 else "decay=1"
            return f"{told} averages over no step; give a number below 1."
        if self.start and self.last:
            return f"start={self.start} and last={self.last} say twice when it begins; give one."
        return ""


_USUAL = Average()
_OWN = {"ema": ("decay", "debias"), "beta": ("b",), "gauss": ("mean", "std")}
_OWN |= {"swad": ("converge", "tolerance", "ratio")}


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
