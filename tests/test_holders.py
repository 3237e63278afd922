import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from fastfake.holders import Holders, Search


class Sought:
    """What is looked for."""


@contextmanager
def searches() -> Iterator[list[object]]:
    """Note each time that the garbage collector is asked what refers to something."""
    seen: list[object] = []

    def note(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and function is gc.get_referrers:
            seen.append(function)

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


class Holding:
    """Has what is looked for in many ways."""

    def __init__(self) -> None:
        self.registry = {Sought: 1}
        self.elements = [(Sought, int)]
        self.nested = {"kinds": frozenset({Sought})}


@pytest.fixture
def search() -> Search:
    gc.collect()  # what other tests made
    return Search([Sought])


def others(found: Holders) -> set[int]:
    return {id(holder) for holder in found.others}


def test_what_refers_to_an_object_or_to_a_container_of_it_is_found_each_time(search: Search) -> None:
    holding = Holding()
    for _ in range(3):
        found = search.run([])
        assert {id(holding.registry), id(holding.elements), id(holding.nested)} <= others(found)
        assert id(globals()) in others(found)
        assert any(container is holding.elements[0] for container in found.containers)
        assert any(container is holding.nested["kinds"] for container in found.containers)


def test_holders_of_a_container_that_come_later_are_found(search: Search) -> None:
    container = (Sought,)
    first = [container]
    search.run([])
    second = [container]
    assert {id(first), id(second)} <= others(search.run([]))


def test_containers_that_come_later_are_found(search: Search) -> None:
    search.run([])
    holder = [(Sought, str)]
    assert id(holder) in others(search.run([]))


def test_all_objects_are_gone_through_once_where_the_containers_are_known(search: Search) -> None:
    holder = [(Sought, str)]
    for expected in (2, 1):
        with searches() as seen:
            found = search.run([])
        assert id(holder) in others(found)
        assert len(seen) == expected


def test_a_container_that_nothing_holds_any_more_is_let_go(search: Search) -> None:
    class Member:
        """Lives as long as the container."""

    holder = [(Sought, Member)]
    before = sys.getrefcount(Member)
    for _ in range(3):
        assert any(holder[0] is container for container in search.run([]).containers)
    del holder[0]
    gc.collect()
    found = search.run([])
    assert not any(Member in container for container in found.containers)
    assert sys.getrefcount(Member) == before - 1


def test_attributes_of_a_class_are_told_with_the_class(search: Search) -> None:
    class Direct:
        KIND = Sought

    class Derived(Direct):  # without the descriptors that name their class
        KIND = Sought

    class Tuple:
        KINDS = (Sought, int)

    class DerivedTuple(Tuple):
        KINDS = (int, Sought)

    for _ in range(2):
        found = search.run([])
        told = {owner.__name__: attributes for owner, attributes in found.classes}
        assert {"Direct", "Derived", "Tuple", "DerivedTuple"} <= told.keys()
        assert all(told[name]["__module__"] == __name__ for name in ("Direct", "Derived", "Tuple", "DerivedTuple"))
        assert not any(id(attributes) in others(found) for attributes in told.values())


def test_attributes_of_what_only_has_a_module_as_classes_do_are_told_at_once(search: Search) -> None:
    def function() -> None:
        pass

    vars(function).update(__module__=__name__, kind=Sought)
    with searches() as seen:
        found = search.run([])
    assert id(vars(function)) in others(found)
    assert len(seen) == 1


def test_instances_of_the_classes_are_told_apart(search: Search) -> None:
    instance = Sought()
    found = search.run([])
    assert any(instance is each for each in found.instances)
    assert id(instance) not in others(found)


def test_what_is_to_be_left_out_is_not_told(search: Search) -> None:
    holder, container = [Sought], [(Sought,)]
    found = others(search.run([holder, container]))
    assert id(holder) not in found
    assert id(container) not in found


def test_base_classes_annotations_and_the_cells_of_methods_are_left_out() -> None:
    class Base:
        def method(self) -> str:
            return super().__repr__()

    class Derived(Base):
        pass

    def annotated(argument: Base) -> Base:
        return argument

    found = Search([Base]).run([])
    assert Derived.__mro__ not in found.containers
    assert Derived.__bases__ not in found.containers
    assert not any("argument" in container for container in found.containers)
    assert annotated.__annotations__ is not None
    cells = Base.method.__closure__
    assert cells is not None
    assert id(cells[0]) not in others(found)


def test_objects_that_raise_when_asked_for_their_class_are_not_asked(search: Search) -> None:
    class Proxy:
        def __init__(self) -> None:
            self.target = Sought

        @property  # type: ignore[misc]
        def __class__(self) -> type:
            raise ReferenceError("what it stood for is gone")

    proxy = Proxy()
    assert others(search.run([])) & {id(proxy), id(vars(proxy))}
