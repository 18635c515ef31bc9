"""The training examples of a study's methods: features, labels, and what else they read."""

from collections.abc import Callable, Sequence

import numpy as np

from clipjax.adapt.method import PROMPTS, VALIDATION
from clipjax.adapt.preserve import EMBEDDING
from clipjax.data.features import cache as feats
from clipjax.data.unlabelled import labelled
from clipjax.errors import DataError
from clipjax.study.encode import Encoded, text_weights
from clipjax.study.parts import Data
from clipjax.study.prompt_sets import prompt_sets
from clipjax.study.words import other_tokens


class Examples:
    """The training examples of methods whose labels are of one domain."""

    def __init__(self, data: Sequence[Data], encoded: Encoded):
        self.data, self.encoded = tuple(data), encoded
        self.source = self.data[0].labelled
        self.targets = tuple(dict.fromkeys(data.target for data in self.data))
        self.same = len(set(self.data)) == 1  # all methods train on the same examples

    def features(self, reads: Sequence[str]) -> dict:
        """Return source features with labels, target features without, as far as they are read."""
        source = self.encoded.parts[self.source, "train"]
        chosen = self.encoded.labelled_rows(self.data[0]) if self.same else None
        if chosen is not None:
            source = feats.Features(np.asarray(source.features[chosen]), source.labels[chosen])
        found = {"source": {"inputs": source.features, "label": source.labels}}
        joined = self.encoded.source(self.source, "train")
        if (member := getattr(joined, "member", None)) is not None:  # of several domains
            member = member if chosen is None else member[chosen]
            found["source"]["domain"] = np.eye(int(member.max()) + 1, dtype=np.float32)[member]
        if "target" in reads:
            inputs = [self.encoded.parts[target, "train"].features for target in self.targets]
            found["target"] = {"inputs": inputs[0] if len(inputs) == 1 else np.concatenate(inputs)}
        if VALIDATION in reads:
            held = self.encoded.parts[self.source, "val"]
            known = labelled(held.labels)
            found[VALIDATION] = {"inputs": held.features[known], "label": held.labels[known]}
        if "zero_shot" in reads:
            taught = self._taught(chosen)
            for name, part in found.items():
                own = taught[name]() if taught else self.encoded.zero_shot(part["inputs"])
                part["zero_shot"] = own
        if EMBEDDING in reads:
            for part in found.values():
                part[EMBEDDING] = part["inputs"]
        if sets := prompt_sets(reads):
            plan = self.encoded.plan
            found[PROMPTS] = {name: text_weights(plan, other_tokens(plan, name)) for name in sets}
        return found

    def _taught(self, chosen: np.ndarray | None) -> dict[str, Callable[[], np.ndarray]]:
        """Return the teacher's logits of the parts of `features`; {} without a teacher."""
        if not (found := self.encoded.taught):
            return {}
        of_source = lambda: found[self.source, "train"]
        held = self.encoded.parts.get((self.source, "val"))
        return {
            "source": lambda: of_source() if chosen is None else of_source()[chosen],
            "target": lambda: np.concatenate([found[target, "train"] for target in self.targets]),
            VALIDATION: lambda: found[self.source, "val"][labelled(held.labels)],
        }

    def rows(self) -> dict[str, list[np.ndarray]]:
        """Return each method's rows of its source's and all targets' training features."""
        parts = [self.encoded.parts.get((target, "train")) for target in self.targets]
        sizes = [len(part.labels) if part else 0 for part in parts]  # 0: none reads the target
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
