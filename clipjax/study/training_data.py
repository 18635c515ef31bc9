"""What methods that train as one program train on: whose features, and which of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.data.features.cache import Features
from clipjax.data.joined import groups_of
from clipjax.errors import DataError
from clipjax.study.encode import Encoded
from clipjax.study.methods import Method


class Examples:
    """The training examples of methods that share a source."""

    def __init__(self, methods: Sequence[Method], encoded: Encoded):
        self.data, self.encoded = tuple(method.data for method in methods), encoded
        self.source = self.data[0].source_name
        self.targets = tuple(dict.fromkeys(data.target for data in self.data))
        self.same = len(set(self.data)) == 1  # all methods train on the same examples

    def features(self, reads: Sequence[str]) -> dict:
        """Return source features with labels, target features without, as far as they are read."""
        source = self.encoded.parts[self.source, "train"]
        chosen = self.encoded.labelled_rows(self.data[0]) if self.same else None
        if chosen is not None:
            source = Features(np.asarray(source.features[chosen]), source.labels[chosen])
        found = {"source": {"inputs": source.features, "label": source.labels}}
        if (groups := groups_of(self.encoded.source(self.source, "train"))) is not None:
            groups = groups if chosen is None else groups[chosen]
            found["source"]["domain"] = np.eye(int(groups.max()) + 1, dtype=np.float32)[groups]
        if "target" in reads:
            inputs = [self.encoded.parts[target, "train"].features for target in self.targets]
            found["target"] = {"inputs": inputs[0] if len(inputs) == 1 else np.concatenate(inputs)}
        if "zero_shot" in reads:
            for part in found.values():
                part["zero_shot"] = self.encoded.zero_shot(part["inputs"])
        return found

    def rows(self) -> dict[str, list[np.ndarray]]:
        """Return each method's rows of its source's and all targets' training features."""
        sizes = [len(self.encoded.parts[target, "train"].labels) for target in self.targets]
        if len(set(sizes)) > 1:
            found = ", ".join(f"{t}: {n}" for t, n in zip(self.targets, sizes, strict=True))
            what = f"the sweep's targets have different numbers of readable images ({found})"
            raise DataError(f"{what}; mend the unreadable ones or run these targets apart.")
        everything = np.arange(len(self.encoded.parts[self.source, "train"].labels))
        chosen = [self.encoded.labelled_rows(data) for data in self.data]
        places = [self.targets.index(data.target) for data in self.data]
        return {
            "source": [everything if rows is None else rows for rows in chosen],
            "target": [np.arange(sizes[at]) + sum(sizes[:at]) for at in places],
        }

    def chosen_rows(self) -> dict[str, np.ndarray] | None:
        """Return `rows` stacked, int [methods, n]; None where all methods have the same."""
        return None if self.same else {part: np.stack(each) for part, each in self.rows().items()}
