"""From the name of a model to a directory: the embedded one, a local folder, or a Hub id."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator

from clipjax.errors import CheckpointError
from clipjax.io import ASSETS
from clipjax.model.hf.weights import INDEX, PICKLE, SINGLE, pickle_refusal, read_json

TINY = ASSETS / "tiny_clip"
CONFIG = "config.json"
# What a CLIP repository may hold beside weights. Each is asked for by name: repositories also carry
# the same weights for other frameworks, gigabytes that nobody here reads.
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
    """The directory of a model.

    Args:
      name_or_path: "tiny" (embedded), a directory in Hugging Face layout, or a Hub id
        "owner/name", which is downloaded once into Hugging Face's own cache.
      revision: branch, tag or commit of a Hub id; directories and "tiny" have none.

    Raises:
      CheckpointError: neither a directory nor an id of the Hub, a revision of something that has
        none, no network and not cached, no access, or a repository without safetensors.
    """
    return _find(name_or_path, revision, _fetch_model)


def find_tokenizer(name_or_path: str | os.PathLike, revision: str | None = None) -> pathlib.Path:
    """As `find_model`; fetches only config.json and the tokenizer's files of a Hub id.

    Raises:
      CheckpointError: as `find_model`; weights need not exist.
    """
    return _find(name_or_path, revision, _fetch_some)


def find_preprocessor(name_or_path: str | os.PathLike, revision: str | None = None) -> pathlib.Path:
    """As `find_model`; fetches only config.json and the images' rules of a Hub id.

    Raises:
      CheckpointError: as `find_model`; weights need not exist.
    """
    return _find(name_or_path, revision, functools.partial(_fetch_some, optional=PREPROCESSORS))


def _find(
    name_or_path: str | os.PathLike,
    revision: str | None,
    fetch: Callable[[str, str | None], pathlib.Path],
) -> pathlib.Path:
    name = os.fspath(name_or_path)
    if name == "tiny" or pathlib.Path(name).is_dir():
        if revision:
            raise CheckpointError(
                f"model {name!r} is a directory on this machine, which has no revision "
                f"{revision!r}; leave revision empty, or give a Hub id."
            )
        return TINY if name == "tiny" else pathlib.Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise CheckpointError(
            f"model {name!r} is neither a directory nor a Hub id "
            "like 'openai/clip-vit-base-patch32'; give one of these, or 'tiny', the embedded CLIP."
        )
    with _explained(name, revision):
        return fetch(name, revision)


def _fetch_model(repo: str, revision: str | None) -> pathlib.Path:
    """Config, weights, and whatever else of a CLIP the repository has, into one directory."""
    directory = _fetch_some(repo, revision, ())
    if not _fetch_weights(repo, revision):
        converted = None if revision else _conversion(repo)
        if converted is None:
            raise CheckpointError(pickle_refusal(repo))
        return _fetch_model(repo, converted)
    _fetch_optional(repo, (*PREPROCESSORS, *TOKENIZER_FILES), revision)
    return directory


def _fetch_some(
    repo: str, revision: str | None, optional: Iterable[str] = TOKENIZER_FILES
) -> pathlib.Path:
    """config.json, and those of the optional files that there are, into one directory."""
    missing = f"model {repo!r} has no {CONFIG}; it is no model."
    directory = pathlib.Path(_fetch(repo, CONFIG, revision, missing)).parent
    _fetch_optional(repo, optional, revision)
    return directory


def _fetch_optional(repo: str, files: Iterable[str], revision: str | None) -> None:
    """Those of the files that there are: a tower without tokenizer or images is legitimate."""
    from huggingface_hub import constants
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for file in files:
        try:
            _fetch(repo, file, revision)
        except LocalEntryNotFoundError as error:
            # Offline, with the model in the cache: what is not there was not there. But a
            # connection that broke just now must not look like that.
            if not constants.HF_HUB_OFFLINE:
                raise error
        except EntryNotFoundError:
            continue  # whoever needs it asks


def _fetch(repo: str, file: str, revision: str | None, missing: str = "") -> str:
    """One file's path in the cache. `missing` is what to say where the repository lacks it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return hf_hub_download(repo, file, revision=revision)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        if missing:
            raise CheckpointError(missing) from None
        raise


def _fetch_weights(repo: str, revision: str | None) -> bool:
    """One safetensors file, or an index and its shards; False where there are only pickles."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        _fetch(repo, SINGLE, revision)
        return True
    except EntryNotFoundError as error:
        single = error
    try:
        index = _fetch(repo, INDEX, revision)
    except LocalEntryNotFoundError:
        raise
    except EntryNotFoundError:
        if isinstance(single, LocalEntryNotFoundError):
            raise single from None
        if HfApi().file_exists(repo, PICKLE, revision=revision):
            return False
        raise CheckpointError(f"model {repo!r} has no {SINGLE}.") from None
    for shard in sorted(set(read_json(pathlib.Path(index)).get("weight_map", {}).values())):
        _fetch(repo, shard, revision, f"model {repo!r} has no {shard}, which its {INDEX} names.")
    return True


def _conversion(repo: str) -> str | None:
    """The revision under which the Hub's own bot offers a repository's pickles as safetensors.

    Many older models (openai/clip-vit-base-patch32 among them) have safetensors only there;
    transformers looks there too.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        for discussion in HfApi().get_repo_discussions(repo, discussion_type="pull_request"):
            if discussion.author == "SFconvertbot" and "safetensors" in discussion.title:
                return f"refs/pr/{discussion.num}"
    except HfHubHTTPError as error:
        if error.response.status_code not in (403, 404):  # owners can switch discussions off
            raise
    return None


def copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what the tokenizer of a model directory consists of."""
    for name in TOKENIZER_FILES:
        if (source / name).exists() and (source / name).resolve() != (target / name).resolve():
            shutil.copyfile(source / name, target / name)


@contextlib.contextmanager
def _explained(repo: str, revision: str | None) -> Iterator[None]:
    """Turns what huggingface_hub raises about a model into a CheckpointError of one sentence."""
    from huggingface_hub.errors import HFValidationError, HTTPError

    try:
        yield
    except (HFValidationError, HTTPError, OSError) as error:  # HfHubHTTPError is an OSError
        raise CheckpointError(_sentence(error, repo, revision)) from None


def _sentence(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"model {repo!r} is gated; accept its terms on the Hub and log in with `hf auth login`."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the Hub has no model {repo!r} (or it is private: `hf auth login`), and there is no "
            "directory of that name; check the spelling, or use 'tiny', the embedded CLIP."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"model {repo!r} has no revision {revision!r}; see its page for branches and tags."
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is neither a directory here nor a possible Hub id ({_one_line(error)})."
    if answer := _answer(error):
        return _refusal(answer, repo)
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"there is no directory {repo!r}, no model of that name in the cache ({_cache()}), and "
            "the Hub cannot be reached; go online once, copy the model's files and give their "
            "directory, or use 'tiny', the embedded CLIP."
        )
    return (
        f"downloading model {repo!r} failed ({_one_line(error)}); try again, what has arrived is "
        f"kept in {_cache()}; or use 'tiny', the embedded CLIP."
    )


def _answer(error: Exception):
    """The Hub's response behind an error; None where there was none.

    huggingface_hub reports most refusals as a file missing from the cache, with the refusal itself
    as the cause: without a look at that, "forbidden" would read as "offline".
    """
    response = getattr(error, "response", None)
    return getattr(error.__cause__, "response", None) if response is None else response


def _refusal(response, repo: str) -> str:
    why = " ".join(response.headers.get("X-Error-Message", "").split())[:200].rstrip(".")
    status = f"{response.status_code}: {why}" if why else str(response.status_code)
    if response.status_code == 401:
        return (
            f"the Hub does not know who asks for model {repo!r} ({status}): the token of this "
            "machine is no longer valid, or the model is private or misspelt; log in again with "
            "`hf auth login`, or drop the token (`hf auth logout`, HF_TOKEN) if it is public."
        )
    if response.status_code == 403:
        return (
            f"the Hub does not let this login read model {repo!r} ({status}); ask its owner for "
            "access, or log in with a token that may read it: `hf auth login`."
        )
    return (
        f"the Hub refused model {repo!r} ({status}); try again later, what has arrived is kept in "
        f"{_cache()}; or use 'tiny', the embedded CLIP."
    )


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
