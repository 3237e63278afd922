"""Finding what refers to given objects.

This is asked of the garbage collector, because classes are held in more ways than modules name them: as keys of
registries, in tuples for `isinstance`, in closures, defaults and attributes.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

__all__ = ["Holders", "Search", "cell_contents"]

# What Python puts among the attributes of each class. Generic aliases and functions, too, can have a module.
_OF_EACH_CLASS = {"__module__", "__doc__"}


class Holders(NamedTuple):
    """What a search found.

    Attributes:
        containers: the tuples and frozensets that have one of the objects as a member.
        classes: those with an attribute that is one of the objects or containers, each with the dictionary of its
            attributes.
        others: whatever else refers to one of the objects or containers.
        instances: the instances of those of the objects that are classes.
    """

    containers: list[Any]
    classes: list[tuple[type, dict[str, Any]]]
    others: list[object]
    instances: list[object]


class Search:
    """Looks for what refers to some objects. It can be run again; one thread may do so at a time.

    The garbage collector has to go through all objects of the process to tell what refers to some, and only then the
    containers are known whose holders have to be looked for. They are remembered, if anything holds them, so that most
    searches but the first go through all objects once.
    """

    def __init__(self, objects: Sequence[object]) -> None:
        """Prepare to look for holders of ``objects``."""
        self.objects = list(objects)
        self._ids = {id(each) for each in self.objects}
        self._containers: list[Any] = []

    def run(self, untouched: Iterable[object]) -> Holders:
        """Tell what refers to the objects now: classes that are among them, and their methods, excepted.

        Args:
            untouched: holders to be left out.
        """
        self._forget_containers_without_holders()
        attributes: dict[int, dict[str, Any]] = {}
        holders = Holders(self._containers, [], [], [])
        found: list[object] = []
        wanted: list[object] = [*self.objects, *self._containers]
        met = _cells_of_own_methods(self.objects).union(map(id, untouched), map(id, self._containers))
        met.update(map(id, (self.objects, self._containers, attributes, found, wanted, *holders)))
        asked: list[tuple[object, ...]] = []
        while wanted:
            # From CPython 3.13 on the arguments of this call are found, too.
            asked.append(tuple(wanted))
            met.add(id(asked[-1]))
            found[:] = gc.get_referrers(*asked[-1])
            wanted.clear()
            for holder in found:
                if issubclass(type(holder), type):  # not by `isinstance`, which asks objects, and they may raise
                    own = next((each for each in gc.get_referents(holder) if id(each) in attributes), None)
                    if own is not None and id(holder) not in self._ids:
                        holders.classes.append((cast("type", holder), attributes.pop(id(own))))
                elif id(holder) in met:
                    continue
                elif type(holder) in (tuple, frozenset):
                    if self._is_container(holder):
                        self._containers.append(holder)
                        wanted.append(holder)
                elif type(holder) is dict and holder.keys() >= _OF_EACH_CLASS:
                    owner = _class_with(holder)
                    if owner is None:
                        attributes[id(holder)] = holder
                        wanted.append(holder)
                    elif id(owner) not in self._ids:
                        holders.classes.append((owner, holder))
                elif id(type(holder)) in self._ids:
                    holders.instances.append(holder)
                else:
                    holders.others.append(holder)
                met.add(id(holder))
        holders.others.extend(attributes.values())
        return holders

    def _is_container(self, holder: Any) -> bool:
        """Whether one of the objects is a member, of what is not the work of Python itself."""
        return (
            any(id(member) in self._ids for member in holder)
            and not _is_base_classes(holder)
            and not _is_annotations(holder)
        )

    def _forget_containers_without_holders(self) -> None:
        # With one that has none beside this list, as what counts as a reference differs between Pythons.
        self._containers.append((object(),))
        references = [sys.getrefcount(container) for container in self._containers]
        alone = references.pop()
        del self._containers[-1]
        held = [container for container, count in zip(self._containers, references, strict=True) if count > alone]
        self._containers[:] = held


def _class_with(attributes: dict[str, Any]) -> type | None:
    """Return the class of which these are the attributes, if one of them tells."""
    for value in list(attributes.values()):
        if type(value) is types.GetSetDescriptorType:
            owner = value.__objclass__
            if any(each is attributes for each in gc.get_referents(owner)):
                return owner
    return None


def _is_base_classes(classes: Iterable[Any]) -> bool:
    """Whether a container is the tuple of a class's bases, or of the classes that it looks attributes up in."""
    if type(classes) is not tuple or not all(isinstance(each, type) for each in classes):
        return False
    return classes[0].__mro__ is classes or any(each.__bases__ is classes for each in classes[0].__subclasses__())


def _is_annotations(values: Iterable[Any]) -> bool:
    """Whether a container can be a function's annotations, which Python keeps as names and values in turn."""
    return type(values) is tuple and len(values) % 2 == 0 and all(type(name) is str for name in values[::2])


def _cells_of_own_methods(classes: Iterable[object]) -> set[int]:
    """Return the ids of the cells through which methods of the classes name their own class, as for ``super()``."""
    cells: set[int] = set()
    functions: list[Any] = [value for each in classes if isinstance(each, type) for value in vars(each).values()]
    while functions:
        function = functions.pop()
        function = getattr(function, "__func__", function)
        if not isinstance(function, types.FunctionType):
            continue
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if name == "__class__":
                cells.add(id(cell))
            elif id(cell) not in cells:
                cells.add(id(cell))
                functions.append(cell_contents(cell))
    return cells


def cell_contents(cell: types.CellType) -> object:
    """Return what a cell holds, which may be nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
