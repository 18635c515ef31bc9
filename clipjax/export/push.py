"""An exported directory to the Hugging Face Hub."""

import os
from typing import Any

import huggingface_hub as hub
from huggingface_hub import errors
from huggingface_hub.utils import validate_repo_id

from clipjax.errors import ConfigError

_OWN = ("*.onnx", "*.onnx.data", "classifier.safetensors")  # what an earlier export may have left


def check_push(repo: str) -> Any:
    """Return the Hub's API, for `push`; reads from the Hub who asks.

    ConfigError: a name that is none, no token, one that the Hub does not know, an owner that is
    neither its user nor an organisation of theirs, or no connection.
    """
    owner, _, name = repo.partition("/")
    try:
        validate_repo_id(repo)
    except errors.HFValidationError:
        owner = ""
    if not owner or not name:
        raise ConfigError(f"push={repo!r} is no name on the Hub; give owner/name.")
    if not hub.get_token():
        need = f"pushing to {repo} needs a token of the Hub that may write"
        raise ConfigError(f"{need}; log in with `hf auth login`, or set HF_TOKEN.")
    api = hub.HfApi()
    try:
        found = api.whoami()
    except (errors.HTTPError, OSError) as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        told = f"the Hub does not say whose token this is ({why})"
        raise ConfigError(f"{told}; log in again with `hf auth login`, or go online.") from None
    owners = [found["name"], *(each["name"] for each in found.get("orgs", ()))]
    if owner not in owners:
        told = f"the token is {found['name']}'s, who cannot write to {owner}"
        raise ConfigError(f"{told}; push to one of {', '.join(owners)}.")
    return api


def push(api: Any, repo: str, directory: str | os.PathLike) -> str:
    """Upload a directory as one commit and return its address; a new repository is private.

    Other files of a repository stay; those that only another export would have go. ConfigError:
    the Hub refuses.
    """
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        about = {"commit_message": "Exported by clipjax", "delete_patterns": list(_OWN)}
        api.upload_folder(repo_id=repo, folder_path=os.fspath(directory), **about)
    except (errors.HTTPError, OSError) as error:
        why = " ".join(str(error).split())[:200].rstrip(".")
        told = f"{directory} is written, and the Hub did not take it ({why})"
        raise ConfigError(f"{told}; push it by `hf upload {repo} {directory} .`.") from None
    return f"https://huggingface.co/{repo}"
