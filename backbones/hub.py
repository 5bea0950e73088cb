"""Model repositories of the Hugging Face hub, as folders."""

from __future__ import annotations

from huggingface_hub import snapshot_download

from common.errors import UserError

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
        raise UserError(f"cannot get '{prefix}{repository}' at {revision}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """An error of a library as one line that is not too long."""
    return " ".join(str(error).split())[:300]
