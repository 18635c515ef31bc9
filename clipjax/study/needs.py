"""What a study needs of its images: labels where they are read, and one that can be read at all."""

from clipjax.data.dataset import Dataset, Source, has_labels
from clipjax.data.images.decode import decode
from clipjax.errors import ChangedError, ConfigError, DataError
from clipjax.study.config import Study


def check_target_labels(study: Study, dataset: Dataset) -> None:
    """Raise ConfigError for labels of a target that are asked for where there are none."""
    for data in dict.fromkeys(each.data for each in study.trained):
        if data.labels == "target" and not has_labels(dataset, data.target, "train"):
            told = f"data.labels=target trains on labels of {data.target!r}, whose training images"
            raise ConfigError(f"{told} have none; leave it out.")
    if study.stages and study.training.selection == "oracle":
        for target in study.targets:
            if not has_labels(dataset, target, "val"):
                told = f"selection=oracle reads labels of {target!r}, whose validation images have"
                raise ConfigError(f"{told} none; choose another rule, as label_free.")


def check_readable(source: Source) -> None:
    """Raise DataError if no image of a source can be read; the first that can ends the search."""
    first = ""
    for row in range(len(source)):
        try:
            image, _, name = source[row]
            if isinstance(image, bytes):
                decode(image, name)
            return
        except ChangedError:
            raise
        except DataError as error:
            first = first or str(error)
    if first:
        told = f"none of the {len(source)} images of {source.domain}/{source.split} can be read"
        raise DataError(f"{told}; the first: {first} Replace them.")
