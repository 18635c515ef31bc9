"""What the Hub's refusals mean, one sentence each with the remedy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from clipjax.errors import CheckpointError


@contextlib.contextmanager
def explained(repo: str, revision: str | None) -> Iterator[None]:
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
