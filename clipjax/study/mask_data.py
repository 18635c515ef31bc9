"""The part of a segmentation run's config that says what images with masks it works on."""

import dataclasses

from clipjax.study.fields import field, share_field

SCENES = (600, 200, 100)  # train, test and val, where their numbers are left out
SOURCE = "clear"  # of scenes
SIZES = "two whole numbers above 0, as (512, 512)"


def _is_size(value: tuple) -> bool:
    return len(value) in (0, 2) and all(side > 0 for side in value)


def _is_range(value: tuple) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


@dataclasses.dataclass(frozen=True)
class MaskData:
    """Images with masks: a labelled source, and targets that are never trained on."""

    name: str = field(
        "auto",
        "what lies at the root decides, without one scenes of drawings, made when asked for; or "
        "folder, parquet, cityscapes, acdc, ade20k, voc; joined: several in folders of the root",
    )
    root: str = field("", "folder of the data")
    fractions: tuple[float, ...] = field((0.6, 0.1, 0.3), "train, val, test of data without splits")
    source: str | tuple[str, ...] = field(
        "",
        "domain that is trained on, of scenes clear; of several, as a+b, all are, and the first is "
        "tested as the source",
        give="the name of a domain, or a tuple of names",
    )
    targets: tuple[str, ...] = field((), "domains that are tested; none: all others with masks")
    shares: tuple[float, ...] = field(
        (), "of training images, one for each source, together 1; none: all that each has"
    )
    train: int = field(0, "how many training images; 0: all, and of scenes 600", low=0)
    test: int = field(0, "tested images of each domain at most; 0: all, and of scenes 200", low=0)
    evaluate: str = field(
        "test",
        "val: the source's validation images are measured, to choose by, and no target is",
        known=("test", "val"),
    )
    subset_seed: int = field(0, "which images train, shares and test take", low=0)

    max_unreadable: float = field(
        0.01,
        "share of images that may have no mask, or be unreadable, and are left out",
        low=0,
        high=1,
        give="a share, 0 to 1",
    )
    workers: int = field(0, "processes that read images; 0: threads of this one", low=0)

    resize: tuple[int, ...] = field(
        (),
        "height and width that images are brought to, and masks in training; none: their own",
        fits=_is_size,
        give=SIZES,
    )
    crop: tuple[int, ...] = field(
        (),
        "height and width of crops to train on, drawn anew in every step; none: whole images",
        fits=_is_size,
        give=SIZES,
    )
    scale: tuple[float, ...] = field(
        (1.0, 1.0),
        "range of the factor on the sides of an image that is cropped",
        fits=_is_range,
        give="two numbers above 0, the smaller first",
    )
    cat_max_ratio: float = share_field(
        1.0, "the most of a crop that is of one class, else another is drawn, up to ten times"
    )
    mirror: bool = field(False, "of every second training image left and right are exchanged")
    window: tuple[int, ...] = field(
        (),
        "height and width of windows that slide over test images; none: whole images",
        fits=_is_size,
        give=SIZES,
    )
    stride: tuple[int, ...] = field(
        (), "of windows, down and across; none: two thirds of them", fits=_is_size, give=SIZES
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The domains that are trained on."""
        if isinstance(self.source, tuple):
            return self.source
        return tuple((self.source or SOURCE).split("+"))

    @property
    def strides(self) -> tuple[int, int]:
        """Return how far windows are moved, down and across."""
        return self.stride or tuple(max(1, 2 * side // 3) for side in self.window)

    @property
    def embedded(self) -> bool:
        """Whether they are the scenes."""
        return not self.root and self.name in ("auto", "scenes")

    def problem(self) -> str:
        """Return what is wrong with the fields together."""
        usual = MaskData() if self.embedded else self
        for name in ("fractions", "max_unreadable", "workers"):
            if (value := getattr(self, name)) != getattr(usual, name):
                return f"{name}={value} has no effect on scenes; leave it out, or name a root."
        for name in ("scale", "cat_max_ratio"):
            if not self.crop and (value := getattr(self, name)) != getattr(MaskData(), name):
                return f"{name}={value} has no effect without data.crop; give the size of crops."
        if self.stride and not self.window:
            return f"stride={self.stride} has no effect without data.window; give its size."
        if any(a > b for a, b in zip(self.stride, self.window, strict=False)):
            return f"stride is {self.stride}, which leaves gaps between windows of {self.window}."
        if not self.source and not self.embedded:
            return "source is not named; say which domain is trained on."
        if not self.sources or len(set(self.sources)) < len(self.sources):
            return f"source is {self.source!r}; name each domain once."
        if both := sorted(set(self.sources) & set(self.targets)):
            return f"targets has {both[0]!r}, which is a source; take it out of one of them."
        if self.targets and self.evaluate == "val":
            told = f"targets={self.targets} has no effect with evaluate=val, which measures"
            return f"{told} the source alone; leave one out."
        if self.shares and len(self.shares) != len(self.sources):
            told = f"shares is {self.shares} for {len(self.sources)} source domains"
            return f"{told}; give one for each, together 1."
        return ""
