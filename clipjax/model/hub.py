"""From the name of a model to a directory: the embedded one, a local folder, or a Hub id."""

from __future__ import annotations

import os
import pathlib
import re
import shutil

from clipjax.errors import CheckpointError
from clipjax.model.weights import INDEX, PICKLE, SINGLE, pickle_refusal, read_json

TINY = pathlib.Path(__file__).parent.parent / "assets" / "tiny_clip"
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
      revision: branch, tag or commit of a Hub id.

    Raises:
      CheckpointError: neither a directory nor an id of the Hub, no network and not cached, or a
        repository without safetensors.
    """
    name = os.fspath(name_or_path)
    if name == "tiny":
        return TINY
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise CheckpointError(
            f"model {name!r} is neither a directory nor a Hub id "
            "like 'openai/clip-vit-base-patch32'; give one of these, or 'tiny', the embedded CLIP."
        )
    return _download(name, revision)


def _download(repo: str, revision: str | None) -> pathlib.Path:
    """Fetches the files of a CLIP repository; returns their directory in the cache."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return _fetch_all(repo, revision)
    except GatedRepoError:
        raise CheckpointError(
            f"model {repo!r} is gated; accept its terms on the Hub and log in with `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"the Hub has no model {repo!r} (or it is private: `hf auth login`), and there is no "
            "directory of that name; check the spelling, or use 'tiny', the embedded CLIP."
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"model {repo!r} has no revision {revision!r}; see its page for branches and tags."
        ) from None
    except HFValidationError as error:
        raise CheckpointError(
            f"{repo!r} is neither a directory here nor a possible Hub id ({_one_line(error)})."
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError(
            f"there is no directory {repo!r}, no model of that name in the cache ({_cache()}), and "
            "the Hub cannot be reached; go online once, copy the model's files and give their "
            "directory, or use 'tiny', the embedded CLIP."
        ) from None
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise CheckpointError(
            f"downloading model {repo!r} failed ({_one_line(error)}); try again, what has arrived "
            f"is kept in {_cache()}; or use 'tiny', the embedded CLIP."
        ) from None


def _fetch_all(repo: str, revision: str | None) -> pathlib.Path:
    """Config, weights, and whatever else of a CLIP the repository has, into one directory."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    config = _fetch(repo, CONFIG, revision, f"model {repo!r} has no {CONFIG}; it is no model.")
    if not _fetch_weights(repo, revision):
        converted = None if revision else _conversion(repo)
        if converted is None:
            raise CheckpointError(pickle_refusal(repo))
        return _fetch_all(repo, converted)
    for file in (*PREPROCESSORS, *TOKENIZER_FILES):
        try:
            _fetch(repo, file, revision)
        except LocalEntryNotFoundError as error:
            # Offline, with the model in the cache: what is not there was not there. But a
            # connection that broke just now must not look like that.
            if not _offline():
                raise error
        except EntryNotFoundError:
            continue  # a tower without tokenizer or images is legitimate; whoever needs it asks
    return pathlib.Path(config).parent


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

    for discussion in HfApi().get_repo_discussions(repo, discussion_type="pull_request"):
        if discussion.author == "SFconvertbot" and "safetensors" in discussion.title:
            return f"refs/pr/{discussion.num}"
    return None


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _cache() -> str:
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def copy_tokenizer(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies what the tokenizer of a model directory consists of."""
    for name in TOKENIZER_FILES:
        if (source / name).exists() and (source / name).resolve() != (target / name).resolve():
            shutil.copyfile(source / name, target / name)
