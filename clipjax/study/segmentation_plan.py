"""What a segmentation run works on: data, models and texts, opened and checked."""

from collections.abc import Sequence
from typing import NamedTuple

from clipjax.data.dataset import check_domain
from clipjax.data.mask_survey import check_surveys, survey
from clipjax.data.masks import MixedMasks, mixed
from clipjax.errors import ConfigError
from clipjax.io.texts import nfc
from clipjax.study.mask_teacher import Teacher, open_teacher
from clipjax.study.mask_teacher_config import masks_reader, unknown_class
from clipjax.study.segmentation_config import GROUPS, Segmentation
from clipjax.study.segmentation_data import Masked, open_data, targets_of, told_sizes
from clipjax.study.segmentation_diffusion import open_diffusion
from clipjax.study.segmentation_models import Dense, Reader, open_models, open_reader
from clipjax.train.distributed import processes


class Plan(NamedTuple):
    """Data and models of a run, opened and checked."""

    config: Segmentation
    data: Masked
    dense: Dense
    reader: Reader
    teacher: Teacher | None = None  # of masks, or of a classifier
    pool: tuple[MixedMasks, ...] = ()  # training images of the source and of what is mixed into it


def prepare(config: Segmentation) -> Plan:
    """Open data and models, encode the texts; a ClipjaxError says in a sentence what cannot run."""
    if processes.several():
        raise ConfigError("a segmentation run uses one process; start it without a coordinator.")
    data = open_data(config.data, masks_reader(config))
    check_described(config, data)
    check_mixing(config, data)
    if wrong := unknown_class(config, data.classes):
        raise ConfigError(wrong)
    pool, told = mixing_pool(config, data)
    data = data._replace(notes=(*data.notes, *filter(None, [told])))
    if config.diffusion.model:
        dense, reader = open_diffusion(config, data), open_reader(config, data.classes)
    else:
        dense, reader = open_models(config, data)
    check_groups(config, dense)
    return Plan(config, data, dense, reader, open_teacher(config, data, reader), pool)


def check_groups(config: Segmentation, dense: Dense) -> None:
    """Raise ConfigError for maps whose channels the norm of a linear decoder cannot group."""
    grouped = [m.name for m in config.decoders if (m.decoder, m.stats) == ("linear", "group")]
    channels = sum(shape[-1] for shape in dense.shapes)
    if grouped and channels % GROUPS:
        told = f"methods.{grouped[0]}.stats=group needs channels in {GROUPS} equal groups"
        raise ConfigError(f"{told}, and the maps have {channels}; take stats=layer.")


def check_described(config: Segmentation, data: Masked) -> None:
    """Raise ConfigError if control=oracle is asked for and a domain has no description."""
    oracle = [method.name for method in config.decoders if method.control == "oracle"]
    domains = (*config.data.sources, *data.targets) if oracle else ()
    if config.mixing.shares and config.mixed in oracle:
        domains = (*domains, config.mixing.domain)
    if lost := [domain for domain in domains if domain not in config.descriptions]:
        told = f"control=oracle needs a description of {lost[0]!r}"
        raise ConfigError(f"{told}; add descriptions.{lost[0]}.")


def check_mixing(config: Segmentation, data: Masked) -> None:
    """Raise ConfigError for a mixing of domains that cannot be."""
    if not config.mixing.shares:
        return
    tested = data.source, *targets_of(config.data, data.dataset)  # with evaluate=val, too
    if len(config.data.sources) > 1 or nfc(config.mixing.domain) in map(nfc, tested):
        told = f"mixing.domain={config.mixing.domain} is mixed into one source, {data.source!r}"
        raise ConfigError(f"{told}; it can be no other source, and no domain that is tested.")
    try:
        domain = check_domain(data.dataset, config.mixing.domain)
    except ConfigError as error:
        raise ConfigError(f"mixing.domain={config.mixing.domain}: {error}") from None
    train = "train" in data.dataset.splits_of(domain)
    if not train or not data.dataset.source(domain, "train").masked:
        raise ConfigError(
            f"mixing.domain={domain} has no training images with masks; take another."
        )


def mixing_pool(config: Segmentation, data: Masked) -> tuple[tuple[MixedMasks, ...], str]:
    """Return what training images are mixed of, and a sentence on those that are left out.

    Empty without mixing. Files are read once. ConfigError: fewer images than a share asks for, or
    of another size than those that are trained on; DataError as of `check_surveys`.
    """
    given = config.data
    if not config.mixing.shares:
        return (), ""
    domains = data.source, config.mixing.domain
    sources = [mixed([data.dataset.source(domain, "train")]) for domain in domains]
    told = ""
    if not given.embedded:
        seen = [(source, survey(source, workers=given.workers)) for source in sources]
        told = check_surveys(seen, given.max_unreadable)
        told = f"for mixing, {told}" if told else ""
        sizes = {size for _, found in seen for size in found.sizes}
        if not (given.crop or given.resize) and len(sizes) > 1:
            both = f"training images of {domains[0]!r} and mixing.domain={domains[1]} together"
            told = f"{both} have {told_sizes(sizes)}"
            raise ConfigError(f"{told}; give data.resize one, or data.crop a part.")
        sources = [source.only(found.usable) for source, found in seen]
    for share in config.mixing.shares:
        mixture(sources, share, len(data.train), given.subset_seed)
    return tuple(sources), told


def mixture(sources: Sequence[MixedMasks], share: float, total: int, seed: int) -> MixedMasks:
    """Return so many images, a share of them of the second source; ConfigError if it has fewer."""
    try:
        return mixed(sources, (1 - share, share), total, seed)
    except ConfigError as error:
        raise ConfigError(f"mixing.shares has {share:g}: {error}") from None
