"""Exchanging objects for others wherever something refers to them, and back.

What refers to an object is asked of the garbage collector, because classes are held in more ways than modules
name them: as keys of registries, in tuples for `isinstance`, in closures, defaults and attributes.

Left as they are: annotations that Python has not made a dictionary of yet, base classes, local variables of
running functions, unions other than global variables, and holders of types that `_EXCHANGES` does not list.
"""

from __future__ import annotations

import collections
import functools
import gc
import operator
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import _C

__all__ = ["Undo", "attribute", "everywhere", "in_namespaces"]

# Takes one exchange back, unless somebody changed the place since.
Undo = Callable[[], None]

_LRU_LINK = "functools._lru_list_elem"
_EMPTY = object()


def everywhere(
    olds: Sequence[object], news: Sequence[object], untouched: Iterable[object], undos: list[Undo]
) -> list[object]:
    """Let all that refers to an object of ``olds`` refer to the corresponding one of ``news``.

    Args:
        olds: the objects to be replaced.
        news: what replaces each.
        untouched: holders that keep what they have.
        undos: gets what takes each change back, change by change: an interrupt may end this in the middle.

    Returns:
        The objects met that are instances of classes in ``olds``.
    """
    kept = {id(holder) for holder in untouched} | {id(olds), id(news), id(undos)} | _cells_of_own_methods(olds)
    old_classes = {id(old) for old in olds if isinstance(old, type)}
    new_of = {id(old): new for old, new in zip(olds, news, strict=True)}
    instances: list[object] = []
    rebuilt: dict[int, Any] = {}
    containers: list[Any] = []
    class_dicts: dict[int, dict[str, Any]] = {}
    for holder in gc.get_referrers(*olds):
        if id(holder) in kept:
            continue
        if id(type(holder)) in old_classes:
            instances.append(holder)
        elif type(holder) in (tuple, frozenset):
            if not _is_base_classes(holder) and not _is_annotations(holder):
                rebuilt[id(holder)] = _rebuilt(holder, new_of)
                containers.append(holder)
        elif type(holder) is dict and isinstance(holder.get("__module__"), str):
            class_dicts[id(holder)] = holder
            containers.append(holder)
        else:
            undos += _exchange(holder, new_of)
    if not containers:
        return instances
    # Immutable containers are exchanged in what holds them. The attributes of a class are set through the class,
    # which remembers the results of look-ups.
    for holder in gc.get_referrers(*containers):
        if holder is containers or id(holder) in kept:
            continue
        if isinstance(holder, type):
            attributes = next((d for d in gc.get_referents(holder) if id(d) in class_dicts), None)
            if attributes is not None and id(holder) not in old_classes:
                undos += _in_class(holder, attributes, new_of)
                del class_dicts[id(attributes)]
        elif holder is not rebuilt and holder is not class_dicts:
            undos += _exchange(holder, rebuilt)
    for attributes in class_dicts.values():
        undos += _in_dict(attributes, new_of)
    return instances


def in_namespaces(namespaces: list[dict[str, Any]], new_of: dict[int, Any], undos: list[Undo]) -> None:
    """Exchange the global variables of modules, and the members of tuples and unions among them.

    Args:
        namespaces: the modules' variables.
        new_of: the replacement of each object, by the object's id.
        undos: gets what takes each change back, change by change: an interrupt may end this in the middle.
    """
    for namespace, names in _C.holding_namespaces(namespaces, new_of, _REBUILT_IN_NAMESPACES):
        for name in names:
            value = namespace.get(name, _EMPTY)
            new = new_of[id(value)] if id(value) in new_of else _rebuilt(value, new_of)
            if new is not value:
                undos.append(functools.partial(_restore_item, namespace, name, new, value))
                namespace[name] = new


def _is_base_classes(classes: Iterable[Any]) -> bool:
    """Whether a container is the tuple of a class's bases, or of the classes that it looks attributes up in."""
    if type(classes) is not tuple or not all(isinstance(each, type) for each in classes):
        return False
    return classes[0].__mro__ is classes or any(each.__bases__ is classes for each in classes[0].__subclasses__())


def _is_annotations(values: Sequence[Any]) -> bool:
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
                functions.append(_contents(cell))
    return cells


def _contents(cell: types.CellType) -> object:
    """Return what a cell holds, which may be nothing yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


# Containers that are made anew, and how.
_REBUILDERS: dict[type, Callable[[list[Any]], Any]] = {
    tuple: tuple,
    frozenset: frozenset,
    types.UnionType: lambda members: functools.reduce(operator.or_, members),
}
# Those of them, besides tuples, whose members native code does not look at.
_REBUILT_IN_NAMESPACES = (frozenset, types.UnionType)


def _rebuilt(container: Any, new_of: Mapping[int, Any]) -> Any:
    """Return the container with members exchanged; itself where there is none to exchange, or it is another object."""
    if type(container) not in _REBUILDERS:
        return container
    members = container.__args__ if type(container) is types.UnionType else container
    if not any(id(member) in new_of for member in members):
        return container
    return _REBUILDERS[type(container)]([new_of.get(id(member), member) for member in members])


# Exchanging in one holder.


def _exchange(holder: Any, new_of: Mapping[int, Any]) -> list[Undo]:
    """Exchange what one holder refers to directly."""
    exchange = _EXCHANGES.get(type(holder))
    if exchange is not None:
        return exchange(holder, new_of)
    if isinstance(holder, (type, types.ModuleType)):
        return []
    try:
        attributes = object.__getattribute__(holder, "__dict__")
    except (AttributeError, ReferenceError):
        return []
    return _in_dict(attributes, new_of) if type(attributes) is dict else []


def _in_dict(holder: dict[Any, Any], new_of: Mapping[int, Any]) -> list[Undo]:
    undos: list[Undo] = []
    items = list(holder.items())
    if items and f"{type(items[0][1]).__module__}.{type(items[0][1]).__qualname__}" == _LRU_LINK:
        # The links of an lru_cache hold the keys as well.
        return undos
    for key, value in items:
        if id(value) in new_of:
            new = new_of[id(value)]
            holder[key] = new
            undos.append(functools.partial(_restore_item, holder, key, new, value))
    for key, _ in items:
        if id(key) in new_of and new_of[id(key)] not in holder:
            new = new_of[id(key)]
            _rename_key(holder, key, new)
            undos.append(functools.partial(_rename_key, holder, new, key))
    return undos


def _rename_key(holder: dict[Any, Any], old: object, new: object) -> None:
    """Exchange a key in its place: registries that are searched in order stay in order.

    Other threads may be searching them, so no key is absent in between.
    """
    if old not in holder:
        return
    if not isinstance(holder, collections.OrderedDict):
        _C.rename_key(holder, old, new)
        return
    keys = list(holder)
    holder[new] = holder[old]
    for key in keys[keys.index(old) + 1 :]:
        holder.move_to_end(key)
    del holder[old]


def _restore_item(holder: dict[Any, Any], key: object, new: object, old: object) -> None:
    if holder.get(key, _EMPTY) is new:
        holder[key] = old


def _in_class(holder: type, attributes: dict[str, Any], new_of: Mapping[int, Any]) -> list[Undo]:
    undos: list[Undo] = []
    for name, value in list(attributes.items()):
        if id(value) in new_of:
            setattr(holder, name, new_of[id(value)])
            undos.append(functools.partial(_restore_attribute, holder, attributes, name, new_of[id(value)], value))
    return undos


def _restore_attribute(holder: type, attributes: dict[str, Any], name: str, new: object, old: object) -> None:
    if attributes.get(name, _EMPTY) is new:
        setattr(holder, name, old)


def _in_sequence(holder: Any, new_of: Mapping[int, Any]) -> list[Undo]:
    undos: list[Undo] = []
    for index, value in enumerate(holder):
        if id(value) in new_of:
            holder[index] = new_of[id(value)]
            undos.append(functools.partial(_restore_element, holder, new_of[id(value)], value))
    return undos


def _restore_element(holder: Any, new: object, old: object) -> None:
    # By identity and not by index, which may be another's by now.
    for index, value in enumerate(holder):
        if value is new:
            holder[index] = old
            return


def _in_set(holder: set[Any], new_of: Mapping[int, Any]) -> list[Undo]:
    undos: list[Undo] = []
    for value in [value for value in holder if id(value) in new_of]:
        new = new_of[id(value)]
        if new not in holder:
            _exchange_member(holder, value, new)
            undos.append(functools.partial(_exchange_member, holder, new, value))
    return undos


def _exchange_member(holder: set[Any], old: object, new: object) -> None:
    if old in holder:
        # In this order: another thread may be asking for either.
        holder.add(new)
        holder.discard(old)


def attribute(holder: Any, name: str, new: object) -> Undo:
    """Assign to an attribute. Gives what takes that back, unless somebody assigned to it since."""
    old = getattr(holder, name)
    setattr(holder, name, new)

    def undo() -> None:
        if getattr(holder, name) is new:
            setattr(holder, name, old)

    return undo


def _in_cell(holder: types.CellType, new_of: Mapping[int, Any]) -> list[Undo]:
    old = _contents(holder)
    if id(old) not in new_of:
        return []
    new = holder.cell_contents = new_of[id(old)]

    def undo() -> None:
        if _contents(holder) is new:
            holder.cell_contents = old

    return [undo]


def _in_function(holder: types.FunctionType, new_of: Mapping[int, Any]) -> list[Undo]:
    old = holder.__defaults__
    if id(old) not in new_of:
        return []
    new = holder.__defaults__ = new_of[id(old)]

    def undo() -> None:
        if holder.__defaults__ is new:
            holder.__defaults__ = old

    return [undo]


def _in_partial(holder: functools.partial[Any], new_of: Mapping[int, Any]) -> list[Undo]:
    old = (holder.func, holder.args)
    new = (new_of.get(id(old[0]), old[0]), new_of.get(id(old[1]), old[1]))
    if new == old:
        return []

    def set_parts(parts: tuple[Any, Any]) -> None:
        state: Any = holder.__reduce__()[2]
        holder.__setstate__((*parts, *state[2:]))  # type: ignore[attr-defined]

    set_parts(new)
    return [functools.partial(set_parts, old)]


# How the references of a holder are exchanged, by its exact type: other types may have invariants of their own.
_EXCHANGES: dict[type, Callable[[Any, Mapping[int, Any]], list[Undo]]] = {
    dict: _in_dict,
    collections.OrderedDict: _in_dict,
    collections.defaultdict: _in_dict,
    list: _in_sequence,
    collections.deque: _in_sequence,
    set: _in_set,
    types.CellType: _in_cell,
    types.FunctionType: _in_function,
    functools.partial: _in_partial,
}
