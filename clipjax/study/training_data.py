"""What methods that train as one program train on: whose features, and which of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.data.features.cache import Features
from clipjax.data.joined import groups_of
from clipjax.errors import DataError
from clipjax.study.encode import Encoded
from clipjax.study.methods import Method


def one_hot(groups: np.ndarray) -> np.ndarray:
    """Which domain each example is of, int [N] -> float32 [N, domains]."""
    return np.eye(int(groups.max()) + 1, dtype=np.float32)[groups]


class Examples:
    """The training examples of methods that share a source."""

    def __init__(self, methods: Sequence[Method], encoded: Encoded):
        self.data, self.encoded = tuple(method.data for method in methods), encoded
        self.source = self.data[0].source_name

    @property
    def targets(self) -> tuple[str, ...]:
        """The domains that the methods adapt to."""
        return tuple(dict.fromkeys(data.target for data in self.data))

    @property
    def same(self) -> bool:
        """Whether all methods train on the same examples."""
        return len(set(self.data)) == 1

    def features(self, reads: Sequence[str]) -> dict:
        """Source features with labels, target features without labels, as far as they are read."""
        source = self.encoded.parts[self.source, "train"]
        chosen = self.encoded.labelled_rows(self.data[0]) if self.same else None
        if chosen is not None:
            source = Features(np.asarray(source.features[chosen]), source.labels[chosen])
        found = {"source": {"inputs": source.features, "label": source.labels}}
        if (groups := groups_of(self.encoded.source(self.source, "train"))) is not None:
            found["source"]["domain"] = one_hot(groups if chosen is None else groups[chosen])
        if "target" in reads:
            inputs = [self.encoded.parts[target, "train"].features for target in self.targets]
            found["target"] = {"inputs": inputs[0] if len(inputs) == 1 else np.concatenate(inputs)}
        if "zero_shot" in reads:
            for part in found.values():
                part["zero_shot"] = self.encoded.zero_shot(part["inputs"])
        return found

    def rows(self) -> dict[str, list[np.ndarray]]:
        """For each method the rows of all its source's and all targets' training features.

        Raises:
          DataError: methods of one program have different numbers of readable images.
        """
        sizes = [len(self.encoded.parts[target, "train"].labels) for target in self.targets]
        if len(set(sizes)) > 1:
            found = ", ".join(f"{t}: {n}" for t, n in zip(self.targets, sizes, strict=True))
            raise DataError(
                f"the sweep's targets have different numbers of readable images ({found}); mend "
                "the unreadable ones or run these targets apart."
            )
        everything = np.arange(len(self.encoded.parts[self.source, "train"].labels))
        rows: dict[str, list[np.ndarray]] = {"source": [], "target": []}
        for data in self.data:
            chosen = self.encoded.labelled_rows(data)
            rows["source"].append(everything if chosen is None else chosen)
            place = self.targets.index(data.target)
            rows["target"].append(np.arange(sizes[place]) + sum(sizes[:place]))
        return rows

    def chosen_rows(self) -> dict[str, np.ndarray] | None:
        """`rows` where methods differ in them."""
        if self.same:
            return None
        return {part: np.stack(each) for part, each in self.rows().items()}
