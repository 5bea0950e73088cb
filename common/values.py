"""The values that parameters may take: said once, in their annotations, and checked where an object is made.

A parameter annotated with :data:`Count` or with a ``Literal`` is checked alike from the command line, a config, a comparison
and Python. jsonargparse sees the plain type, which it checks by itself.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from common.errors import UserError, known


@dataclass(frozen=True)
class Within:
    """A number in [low, high]."""

    low: float
    high: float = math.inf

    def check(self, name: str, value: Any, kind: type) -> None:
        """Raises UserError for what is no number of the kind (int or float), or outside."""
        fits = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        if not fits or not self.low <= value <= self.high:
            end = f"to {self.high:g}" if self.high < math.inf else "up"
            span = f" from {self.low:g} {end}" if self.low > -math.inf else ""
            raise UserError(f"{name} is {value!r}; it must be a {'whole ' if kind is int else ''}number{span}.")


Count = Annotated[int, Within(1)]  # of what there must be some
Natural = Annotated[int, Within(0)]  # a seed, or of what there may be none
Amount = Annotated[float, Within(0)]  # such as a learning rate
Share = Annotated[float, Within(0, 1)]
Number = Annotated[float, Within(-math.inf)]


def check_values(cls: type, base: type, values: Mapping[str, Any]) -> None:
    """Checks the values of the parameters of ``cls``, and of its parents up to ``base``, against their annotations.

    Raises:
        UserError: a number outside its range, or another word than a ``Literal`` lists.
    """
    for parent in cls.__mro__:
        if issubclass(parent, base) and "__init__" in vars(parent):
            hints = get_type_hints(vars(parent)["__init__"], include_extras=True)
            for name in hints.keys() & values.keys():
                _check(f"{name} of {cls.__name__}", name, values[name], hints[name])


def by_name(cls: type, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a call ``cls(*arguments, **options)`` gives, under their parameters' names."""
    _, *names = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # without self
    return dict(zip(names, arguments, strict=False)) | dict(options)


def _check(where: str, name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) in (Union, UnionType):
        parts = [part for part in get_args(hint) if part is not NoneType]
        if value is None or len(parts) > 1:
            return
        (hint,) = parts
    if get_origin(hint) is list and isinstance(value, list):
        for one in value:
            _check(where, name, one, get_args(hint)[0])
    elif get_origin(hint) is Literal:
        known(name, str(value), get_args(hint))
    elif get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], Within):
        hint.__metadata__[0].check(where, value, hint.__origin__)
