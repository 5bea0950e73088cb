"""Label maps as files for other tools. A format is one file, with a subclass of :class:`reporting.exports.format.Format`."""

from common.registry import subclasses_below
from reporting.exports.format import Format

FORMATS = {name.lower(): format_ for name, format_ in subclasses_below(__name__, __path__, Format).items()}  # type: ignore[type-abstract]

__all__ = ["FORMATS", "Format"]
