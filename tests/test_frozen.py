"""A frozen class behaves as a frozen dataclass with slots of the standard library, and all of ours are made so.

Guards frozen.py.
"""

from __future__ import annotations

import dataclasses
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import batchdiff
from batchdiff.frozen import field_names, frozen


@dataclass(frozen=True, slots=True)
class Expected:
    size: int
    name: str = "web01"
    seen: list[int] = field(default_factory=list)
    secret: str = field(default="", repr=False)
    checksum: str = field(default="", compare=False)


@frozen
class Found:
    size: int
    name: str = "web01"
    seen: list[int] = field(default_factory=list)
    secret: str = field(default="", repr=False)
    checksum: str = field(default="", compare=False)


@frozen
class Completed:
    size: int
    double: int = field(init=False)
    steps: list[int] = field(default_factory=list, init=False)
    state: str = field(default="new", init=False)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(self.size)
        object.__setattr__(self, "double", 2 * self.size)


@frozen
class Bare:
    size: int


@frozen
class Empty:
    pass


def both(*values: object, **named: object) -> list[Any]:
    return [kind(*values, **named) for kind in (Expected, Found)]


@pytest.mark.parametrize(
    "values", [(1,), (1, "db01"), (1, "db01", [2]), (1, "db01", [2], "secret")], ids=["one", "two", "three", "all"]
)
def test_it_takes_shows_and_replaces_the_same_values(values):
    expected, found = both(*values)
    assert dataclasses.astuple(found) == dataclasses.astuple(expected)
    assert repr(found) == repr(expected).replace("Expected", "Found")
    assert dataclasses.asdict(dataclasses.replace(found, size=7)) == dataclasses.asdict(expected) | {"size": 7}
    assert pickle.loads(pickle.dumps(found)) == found  # our own
    assert field_names(Found) == field_names(found) == Expected.__slots__


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), ((1, "a", [], "", "", 5), {}), ((1,), {"size": 1}), ((1,), {"no": 1})]
)
def test_it_refuses_the_same_calls(values, named):
    for kind in (Expected, Found):
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_each_instance_has_a_default_of_its_own():
    assert Found(1).seen is not Found(1).seen


def test_it_cannot_be_changed_and_has_no_other_attributes():
    for each in both(1):
        for change in (lambda each=each: setattr(each, "size", 2), lambda each=each: delattr(each, "size")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                change()
        assert each.size == 1
        assert not hasattr(each, "__dict__")


def test_it_is_equal_to_its_like_alone():
    assert Found(1) == Found(1)
    assert Found(1) != Found(2)
    assert Found(1) != Found(1, secret="other")  # not one
    assert Found(1, checksum="other") == Found(1)
    assert Bare(1) != (1,)
    assert (Bare(1) == Found(1)) is False
    assert Empty() == Empty()
    assert {Bare(1), Bare(1), Bare(2)} == {Bare(1), Bare(2)}
    assert len({Empty(), Empty()}) == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Found(1))  # as that of its list


def test_fields_that_do_not_count_leave_all_equal():
    @frozen
    class Note:
        text: str = field(default="", compare=False)

    assert Note("a") == Note("b")
    assert len({Note("a"), Note("b")}) == 1


def test_a_subclass_has_the_fields_of_its_base_too():
    @frozen
    class More(Found):
        speed: int = 0

    assert field_names(More) == field_names(More(1)) == (*Expected.__slots__, "speed")


def test_by_identity_if_so_declared():
    @frozen(eq=False)
    class Image:
        path: str

    first, second = Image("a"), Image("a")
    assert first != second
    assert len({first, second}) == 2


def test_keywords_only_if_so_declared():
    @frozen(kw_only=True)
    class Options:
        jobs: int
        quiet: bool = False

    assert dataclasses.astuple(Options(jobs=2)) == (2, False)
    with pytest.raises(TypeError):
        Options(2)


def test_fields_that_are_no_parameters_are_set():
    made = Completed(3)
    assert dataclasses.astuple(made) == (3, 6, [], "new")
    assert made.steps is not Completed(3).steps
    with pytest.raises(TypeError):
        Completed(3, state="old")


def test_its_own_check_runs_last():
    with pytest.raises(ValueError, match="-1"):
        Completed(-1)
    assert dataclasses.replace(Completed(1), size=2) == Completed(2)
    with pytest.raises(ValueError, match="-1"):
        dataclasses.replace(Completed(1), size=-1)


def test_every_frozen_class_of_ours_is_quick_to_define():
    root = Path(batchdiff.__file__).parent
    slow = [
        str(path)
        for path in root.rglob("*.py")
        if re.search(r"^@dataclass\(.*frozen=True", path.read_text(), re.M)
    ]
    assert slow == []


def test_a_constructor_is_compiled_at_its_first_call(monkeypatch):
    """Compiling it for each class that is loaded took 4% of the start of a plan."""
    compiled = []
    real = batchdiff.frozen._constructor
    monkeypatch.setattr(batchdiff.frozen, "_constructor", lambda *a, **k: compiled.append(a) or real(*a, **k))

    @frozen
    class Late:
        size: int

    assert not compiled
    assert [Late(1), Late(size=1)] == [Late(1)] * 2
    assert len(compiled) == 1
