"""Several domains as one more: the source of a study with several source domains."""

from collections.abc import Sequence

import numpy as np

from clipjax.data.dataset import Dataset, Example, Source, check_domain, digest


class JoinedDataset(Dataset):
    """A dataset with one more domain, `name`: the examples of some of its own, one by one.

    >>> from clipjax.data.dataset import ArrayDataset, ArraySource
    >>> image = np.zeros((1, 8, 8, 3), np.uint8)
    >>> make = lambda domain: {"train": ArraySource(image, [0], classes="ab", domain=domain)}
    >>> dataset = JoinedDataset(ArrayDataset({"a": make("a"), "b": make("b")}), ("a", "b"), "a+b")
    >>> dataset.domains, dataset.source("a+b", "train").groups.tolist()
    (('a', 'b', 'a+b'), [0, 1])
    """

    def __init__(self, dataset: Dataset, domains: Sequence[str], name: str):
        self._dataset, self._name = dataset, name
        self._joined = tuple(check_domain(dataset, domain) for domain in domains)
        self.name, self.classes, self.skipped = dataset.name, dataset.classes, dataset.skipped
        self.domains = (*dataset.domains, name)

    def classes_of(self, domain: str) -> tuple[str, ...]:
        """Return the classes that a domain declares; for the joined one those of any."""
        if domain != self._name:
            return self._dataset.classes_of(domain)
        declared = {name for each in self._joined for name in self._dataset.classes_of(each)}
        return tuple(name for name in self.classes if name in declared)

    def has_split(self, split: str) -> bool:
        return self._dataset.has_split(split)

    def source(self, domain: str, split: str) -> Source:
        if domain != self._name:
            return self._dataset.source(domain, split)
        sources = [self._dataset.source(each, split) for each in self._joined]
        return JoinedSource(sources, domain, split, sources[0].classes)


class JoinedSource(Source):
    """Several sources, one after the other; `groups`, int32 [N], numbers them."""

    def __init__(
        self, sources: Sequence[Source], domain: str, split: str, classes: tuple[str, ...]
    ):
        self._sources, self.domain, self.split, self.classes = sources, domain, split, classes
        labels = [np.zeros(0, np.int32), *(source.labels for source in sources)]
        self.labels = np.concatenate(labels, dtype=np.int32)
        lengths = [len(source) for source in sources]
        self.groups = np.repeat(np.arange(len(sources), dtype=np.int32), lengths)
        self._starts = np.cumsum([0, *lengths])

    def __getitem__(self, index: int) -> Example:
        group = int(self.groups[index])
        return self._sources[group][int(index - self._starts[group])]

    def __repr__(self) -> str:
        sources = digest(["\n".join(map(repr, self._sources))])
        return f"Joined({self.domain}/{self.split}, {sources})"
