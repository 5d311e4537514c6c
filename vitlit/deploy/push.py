"""Uploads an export to the Hugging Face hub, through its own package.

folder, OWNER/NAME -> a commit in that repository
"""

import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from vitlit.errors import InputError

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def check_push(repository: str | None) -> None:
    """Refuse what is no name of a repository, and a missing package, before anything is written."""
    if repository is None:
        return
    if not REPOSITORY.fullmatch(repository):
        raise InputError(
            f"push {repository!r} is not the name of a repository on the hub; give OWNER/NAME",
            argument="push",
        )
    try:
        import_module("huggingface_hub")
    except ImportError as error:
        raise InputError(
            "push needs the package huggingface_hub: pip install 'vitlit[hub]'", argument="push"
        ) from error


def push_folder(folder: Path, repository: str) -> str:
    """Upload the files of a folder in one commit; the address of the repository.

    The repository is created, private, if it does not exist. $HF_TOKEN, or the token that
    `hf auth login` has kept, says who uploads; $HF_ENDPOINT names another hub. Raises InputError if
    the hub cannot be reached or refuses; the folder stays as it is.
    """
    hub: Any = import_module("huggingface_hub")
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        address = api.create_repo(repository, exist_ok=True, private=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="Upload an export of vitlit"
        )
    except Exception as error:  # the hub's own kinds, the network library's and OSError
        said = (" ".join(str(one).split())[:250] for one in (error, error.__cause__) if one)
        reason = "; ".join(text.rstrip(".") for text in said if text) or type(error).__name__
        raise InputError(
            f"{folder} is written, but cannot be uploaded to {repository}; check the name, the "
            f"network and your token (`hf auth login`), then give the command again with another "
            f"out: {reason}",
            argument="push",
        ) from error
    return str(address)
