"""Model repositories of the Hugging Face hub, as folders."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.file_download import repo_folder_name

from common.errors import UserError, in_one_line

FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # nothing that would be unpickled or run


def hub_folder(prefix: str, repository: str, revision: str | None, option: str = "revision") -> str:
    """The folder of a repository's files, downloaded if need be.

    Args:
        prefix: what its name was written with, for messages.
        repository: ``owner/name``.
        revision: commit; required, so that a result names its weights.
        option: that gives it, for messages.

    Raises:
        UserError: no revision, no such repository, or no network.
    """
    if revision is None:
        raise UserError(f"'{prefix}{repository}' needs a pinned revision: give --model.{option} COMMIT.")
    try:
        return snapshot_download(repository, revision=revision, allow_patterns=FILES)
    except Exception as error:
        raise UserError(f"cannot get '{prefix}{repository}' at {revision}: {in_one_line(error)}") from error


def in_cache(repository: str) -> bool:
    """Whether weights of ``owner/name`` are in the hub's cache, of whichever revision."""
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type="model"), "snapshots")
    return any(file.suffix in (".safetensors", ".bin") for file in folder.glob("*/*"))
