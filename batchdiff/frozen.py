"""A decorator for value classes: frozen dataclasses with slots, defined quickly.

``@dataclass(frozen=True, slots=True)`` compiles several methods for each class, which slows the start of a verb
(docs/performance.md). Here only ``__init__`` is compiled, at its first call.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from typing import Any, NoReturn, TypeVar, dataclass_transform, overload

_Class = TypeVar("_Class", bound=type)


@overload
def frozen(cls: _Class, /) -> _Class: ...


@overload
def frozen(*, eq: bool = True, kw_only: bool = False) -> Callable[[_Class], _Class]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(
    cls: _Class | None = None, /, *, eq: bool = True, kw_only: bool = False
) -> _Class | Callable[[_Class], _Class]:
    """Make a class a frozen dataclass with slots; ``replace``, ``fields`` and ``pickle`` work as usual."""

    def decorate(cls: _Class) -> _Class:
        made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
        members = dataclasses.fields(made)
        made.__init__ = _first_constructor(made, members)
        made.__setattr__ = made.__delattr__ = _refuse
        made.__repr__, made.__getstate__, made.__setstate__ = _repr, _state, _restore
        if eq:
            made.__eq__, made.__hash__ = _comparison([member.name for member in members if member.compare])
        return made  # type: ignore[no-any-return]  # dataclass() returns the class with slots

    return decorate if cls is None else decorate(cls)


def field_names(value: Any) -> tuple[str, ...]:  # noqa: ANN401  # any decorated class, or an instance
    """Return the names of the fields, in order."""
    return tuple(each.name for each in dataclasses.fields(value))  # __slots__ lacks inherited ones


def _first_constructor(made: Any, members: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:  # noqa: ANN401
    def first(self: Any, *positional: Any, **keywords: Any) -> None:  # noqa: ANN401
        made.__init__ = _constructor(members, is_completed=hasattr(made, "__post_init__"))
        made.__init__(self, *positional, **keywords)

    return first


def _constructor(members: tuple[dataclasses.Field[Any], ...], *, is_completed: bool) -> Callable[..., None]:
    known: dict[str, Any] = {"_set": object.__setattr__, "_MISSING": MISSING}
    positional: list[str] = []
    keywords: list[str] = []
    body: list[str] = []
    for member in members:
        name, default, value = member.name, "", ""
        if member.default is not MISSING:
            default = value = f"_default_{name}"
            known[default] = member.default
        elif member.default_factory is not MISSING:
            known[f"_make_{name}"] = member.default_factory
            default, value = "_MISSING", f"_make_{name}()"
        if member.init:
            (keywords if member.kw_only else positional).append(f"{name}={default}" if default else name)
            value = f"{value} if {name} is _MISSING else {name}" if default == "_MISSING" else name
        if value:  # otherwise __post_init__ sets it
            body.append(f"    _set(self, {name!r}, {value})")
    if is_completed:
        body.append("    self.__post_init__()")
    parameters = ["self", *positional, *(["*", *keywords] if keywords else [])]
    source = "\n".join([f"def __init__({', '.join(parameters)}):", *(body or ["    pass"])])
    exec(source, known)  # noqa: S102  # as dataclasses does: the names are those of our own class
    made: Callable[..., None] = known["__init__"]
    return made


def _comparison(names: list[str]) -> tuple[Callable[[Any, object], bool], Callable[[Any], int]]:
    values = operator.attrgetter(*names) if names else _nothing

    def equals(self: Any, other: object) -> bool:  # noqa: ANN401  # of any decorated class
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def hashed(self: Any) -> int:  # noqa: ANN401
        return hash(values(self))

    return equals, hashed


def _refuse(_self: object, name: str, *_value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot change the field {name!r}")


def _repr(self: Any) -> str:  # noqa: ANN401
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _state(self: Any) -> tuple[object, ...]:  # noqa: ANN401
    return tuple(getattr(self, each.name) for each in dataclasses.fields(self))


def _nothing(_self: object) -> tuple[()]:
    return ()


def _restore(self: Any, state: tuple[object, ...]) -> None:  # noqa: ANN401
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)
