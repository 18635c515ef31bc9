"""Find a model by name: the embedded one, a local directory, or a Hub id that is downloaded."""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterable, Iterator

import huggingface_hub as hub
from huggingface_hub import constants, errors

from clipjax.errors import CheckpointError
from clipjax.io import ASSETS
from clipjax.model.hf.weights import (
    DIFFUSION_NAMES,
    INDEX,
    PICKLE,
    SINGLE,
    pickle_refusal,
    read_json,
)

TINY = ASSETS / "tiny_clip"
CONFIG, PIPELINE = "config.json", "model_index.json"
# Optional files of a CLIP repository. Each is requested by name, because repositories also carry
# gigabytes of the same weights for other frameworks.
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
PREPROCESSORS = ("preprocessor_config.json", "processor_config.json")


def find_model(name_or_path: str | os.PathLike, revision: str | None = None) -> pathlib.Path:
    """Return the directory of a model, see `clipjax.load_clip`; a Hub id is downloaded once.

    CheckpointError: no such model, no access or network, no safetensors, a directory's revision.
    """
    return _find(name_or_path, revision, (*PREPROCESSORS, *TOKENIZER_FILES), weights=True)


def find_tokenizer(name_or_path: str | os.PathLike, revision: str | None = None) -> pathlib.Path:
    """As `find_model`, but fetch only config.json and the tokenizer's files of a Hub id."""
    return _find(name_or_path, revision, TOKENIZER_FILES)


def find_preprocessor(name_or_path: str | os.PathLike, revision: str | None = None) -> pathlib.Path:
    """As `find_model`, but fetch only config.json and the preprocessing rules of a Hub id."""
    return _find(name_or_path, revision, PREPROCESSORS)


def find_part(
    name_or_path: str | os.PathLike, part: str, revision: str | None = None
) -> pathlib.Path:
    """Return the folder of a part of a diffusion model, as "unet" or "text_encoder".

    Of a directory, its folder of that name; the directory itself where it has none. Of a Hub id,
    that folder's config.json and weights are downloaded once, in full precision if they are there,
    and all files of "tokenizer". Errors as of `find_model`.
    """
    name = os.fspath(name_or_path)
    if pathlib.Path(name).is_dir():
        _no_revision(name, revision)
        folder = pathlib.Path(name)
        if (folder / part).is_dir():
            return folder / part
        if part != "tokenizer" and not (folder / CONFIG).exists():
            raise _lacks(name, part, folder / PIPELINE)
        return folder
    _check_id(name, "nor a Hub id like 'stable-diffusion-v1-5/stable-diffusion-v1-5'.")
    try:
        with _retries_said_once(name):
            return _download_part(name, part, revision)
    except (errors.HFValidationError, errors.HTTPError, OSError) as error:
        raise CheckpointError(_explain(error, name, revision)) from None


def copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the tokenizer's files from one model directory to another."""
    for name in TOKENIZER_FILES:
        if (source / name).exists() and (source / name).resolve() != (target / name).resolve():
            shutil.copyfile(source / name, target / name)


def _find(name_or_path, revision: str | None, optional: Iterable[str], weights=False):
    name = os.fspath(name_or_path)
    if name == "tiny" or pathlib.Path(name).is_dir():
        _no_revision(name, revision)
        return TINY if name == "tiny" else pathlib.Path(name)
    tiny = "nor 'tiny', the embedded CLIP."
    _check_id(name, f"nor a Hub id like 'openai/clip-vit-base-patch32', {tiny}")
    try:
        with _retries_said_once(name):
            return _download(name, revision, optional, weights)
    except (errors.HFValidationError, errors.HTTPError, OSError) as error:
        raise CheckpointError(_explain(error, name, revision)) from None


def _no_revision(folder: str, revision: str | None) -> None:
    if revision:
        fault = f"{folder!r} is a folder, which has no revision {revision!r}"
        raise CheckpointError(f"{fault}; leave revision empty.")


def _check_id(name: str, known: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise CheckpointError(f"model {name!r} is neither a directory {known}")


@contextlib.contextmanager
def _retries_said_once(repo: str) -> Iterator[None]:
    """Say one line where huggingface_hub warns twice before each of its retries."""
    said, logger = [], logging.getLogger("huggingface_hub.utils._http")

    def quiet(record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        if not said:
            said.append(why := record.getMessage())
            line = f"note: the Hub does not answer for {repo} ({why}); trying again, for a while"
            print(line, file=sys.stderr, flush=True)
        return False

    logger.addFilter(quiet)
    try:
        yield
    finally:
        logger.removeFilter(quiet)


def _download(repo: str, revision: str | None, optional: Iterable[str], weights: bool):
    """Fetch config.json, the weights if wanted and those of the optional files that exist."""
    config = _fetch(repo, CONFIG, revision)
    if config is None:
        raise CheckpointError(f"model {repo!r} has no {CONFIG}; it is no model.")
    if weights and not _fetch_weights(repo, revision):
        converted = None if revision else _conversion(repo)
        if converted is None:
            raise CheckpointError(pickle_refusal(repo))
        return _download(repo, converted, optional, weights)
    for file in optional:
        _fetch_optional(repo, file, revision)
    return config.parent


def _fetch_optional(repo: str, file: str, revision: str | None) -> pathlib.Path | None:
    try:
        return _fetch(repo, file, revision)
    except errors.LocalEntryNotFoundError:
        # Offline, a file that is not cached did not exist. A lost connection is an error.
        if not constants.HF_HUB_OFFLINE:
            raise
        return None


def _lacks(name: str, part: str, index: pathlib.Path | None) -> CheckpointError:
    """Return the error for a model without a part, by the name of its pipeline where it has one."""
    kind = read_json(index).get("_class_name") if index and index.exists() else None
    told = f"a {kind}; clipjax reads Stable Diffusion 1.x and 2.x" if kind else "no diffusion model"
    return CheckpointError(f"model {name!r} has no {part}/{CONFIG}; it is {told}.")


def _download_part(repo: str, part: str, revision: str | None) -> pathlib.Path:
    """Fetch the files of one folder of a repository."""
    if part == "tokenizer":
        found = [_fetch_optional(repo, f"{part}/{file}", revision) for file in TOKENIZER_FILES]
        if not any(found):
            raise CheckpointError(f"model {repo!r} has no folder {part}/ with a tokenizer.")
        return next(filter(None, found)).parent
    config = _fetch(repo, f"{part}/{CONFIG}", revision)
    if config is None:
        raise _lacks(repo, part, _fetch_optional(repo, PIPELINE, revision))
    kinds = ((SINGLE, INDEX),) if part == "text_encoder" else DIFFUSION_NAMES
    lost = None
    for single, index in kinds:
        try:
            if _fetch_tensors(repo, revision, f"{part}/{single}", f"{part}/{index}"):
                return config.parent
        except errors.LocalEntryNotFoundError as error:  # the cache may hold another of them
            lost = error
    if lost:
        raise lost
    known = ", ".join(single for single, _ in kinds)
    raise CheckpointError(f"model {repo!r} has none of {known} in {part}/.")


def _fetch(repo: str, file: str, revision: str | None) -> pathlib.Path | None:
    """Return a file's path in the cache; None if the repository lacks it."""
    try:
        return pathlib.Path(hub.hf_hub_download(repo, file, revision=revision))
    except errors.RemoteEntryNotFoundError:
        return None


def _fetch_weights(repo: str, revision: str | None) -> bool:
    """Fetch one safetensors file, or an index and its shards; False if there are only pickles."""
    if _fetch_tensors(repo, revision, SINGLE, INDEX):
        return True
    if hub.HfApi().file_exists(repo, PICKLE, revision=revision):
        return False
    raise CheckpointError(f"model {repo!r} has no {SINGLE}.")


def _fetch_tensors(repo: str, revision: str | None, single: str, index: str) -> bool:
    """Fetch one file, or an index and its shards, which lie beside it; False without either."""
    lost = None
    try:
        if _fetch(repo, single, revision):
            return True
    except errors.LocalEntryNotFoundError as error:  # the cache may hold shards instead
        lost = error
    found = _fetch(repo, index, revision)
    if found is None:
        if lost:
            raise lost
        return False
    for shard in sorted(set(read_json(found).get("weight_map", {}).values())):
        shard = index.removesuffix(found.name) + shard
        if _fetch(repo, shard, revision) is None:
            raise CheckpointError(f"model {repo!r} has no {shard}, which its {index} names.")
    return True


def _conversion(repo: str) -> str | None:
    """Return the revision at which the Hub's bot offers safetensors; many models lack others."""
    try:
        for found in hub.HfApi().get_repo_discussions(repo, discussion_type="pull_request"):
            if found.author == "SFconvertbot" and "safetensors" in found.title:
                return f"refs/pr/{found.num}"
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (403, 404):  # owners can switch discussions off
            raise
    return None


def _explain(error: Exception, repo: str, revision: str | None) -> str:
    """Say in one sentence what an error of huggingface_hub means."""
    model, cache = f"model {repo!r}", constants.HF_HUB_CACHE
    why = " ".join(str(error).split())[:200]
    tiny = "or use 'tiny', the embedded CLIP for 64 px drawings."
    later = f"try again later, what has arrived is kept in {cache}; {tiny}"
    known = {  # in this order: a gated repository is a kind of one that is not found
        errors.GatedRepoError: f"{model} is gated; accept its terms on the Hub and log in with "
        "`hf auth login`.",
        errors.RepositoryNotFoundError: f"the Hub has no {model} (or it is private: `hf auth "
        f"login`), and there is no directory of that name; check the spelling, {tiny}",
        errors.RevisionNotFoundError: f"{model} has no revision {revision!r}; see its page for "
        "branches and tags.",
        errors.HFValidationError: f"{repo!r} is neither a directory here nor a possible Hub id "
        f"({why}).",
    }
    for kind, sentence in known.items():
        if isinstance(error, kind):
            return sentence
    # Most refusals arrive as a file missing from the cache, with the response behind the cause.
    response = getattr(error, "response", None)
    response = getattr(error.__cause__, "response", None) if response is None else response
    if response is not None:
        told = " ".join(response.headers.get("X-Error-Message", "").split())[:200].rstrip(".")
        status = f"{response.status_code}: {told}" if told else str(response.status_code)
        statuses = {
            401: f"the Hub does not know who asks for {model} ({status}): the token of this "
            "machine is no longer valid, or the model is private or misspelt; log in again with "
            "`hf auth login`, or drop the token (`hf auth logout`, HF_TOKEN) if it is public.",
            403: f"the Hub does not let this login read {model} ({status}); ask its owner for "
            "access, or log in with a token that may read it: `hf auth login`.",
        }
        return statuses.get(response.status_code, f"the Hub refused {model} ({status}); {later}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"there is no directory {repo!r}, no model of that name in the cache ({cache}), and "
            "the Hub cannot be reached; go online once, copy the model's files and give their "
            f"directory, {tiny}"
        )
    return f"downloading {model} failed ({why}); {later}"
