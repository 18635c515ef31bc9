"""Images with masks brought to one size."""

from clipjax.data.images.mask_crops import resized
from clipjax.data.masks import MaskDataset, MaskExample, MaskSource, NoMask


class SizedMasks(MaskDataset):
    """A dataset whose images have one height and width.

    Masks to train on (of the train splits) get it as well, by their nearest pixels; those that are
    tested stay as they are, as answers are resized to them.
    """

    def __init__(self, dataset: MaskDataset, size: tuple[int, int]):
        self._dataset, self.size = dataset, tuple(size)
        self.name, self.domains = dataset.name, dataset.domains
        self.classes, self.skipped = dataset.classes, dataset.skipped

    def splits_of(self, domain: str) -> tuple[str, ...]:
        return self._dataset.splits_of(domain)

    def source(self, domain: str, split: str) -> "_Sized":
        return _Sized(self._dataset.source(domain, split), self.size)


class _Sized(MaskSource):
    def __init__(self, source: MaskSource, size: tuple[int, int]):
        self._source, self.size = source, size
        self.domain, self.split = source.domain, source.split
        self.classes, self.missing = source.classes, source.missing
        self.masked = source.masked

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> MaskExample:
        image, mask, name = self._source[index]
        if self.split == "train":
            mask = resized(mask, self.size) if self.masked else NoMask(self.size)
        return MaskExample(resized(image, self.size), mask, name)

    def name_of(self, index: int) -> str:
        return self._source.name_of(index)

    def alone(self) -> "_Sized":
        return _Sized(self._source.alone(), self.size)

    def __repr__(self) -> str:
        return f"Sized({self._source!r}, {self.size})"
