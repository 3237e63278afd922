"""Exchanging objects for others wherever something refers to them, and back.

Left as they are: annotations that Python has not made a dictionary of yet, base classes, local variables of
running functions, unions other than global variables, and holders of types that `_EXCHANGES` does not list.
"""

from __future__ import annotations

import collections
import functools
import operator
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import _C, holders

__all__ = ["Undo", "attribute", "everywhere", "in_namespaces"]

# Takes one exchange back, unless somebody changed the place since.
Undo = Callable[[], None]

_LRU_LINK = "functools._lru_list_elem"
_EMPTY = object()


def everywhere(
    search: holders.Search, news: Sequence[object], untouched: Iterable[object], undos: list[Undo]
) -> list[object]:
    """Let all that refers to an object refer to another one instead.

    Args:
        search: looks for what refers to the objects to be replaced.
        news: what replaces each of them.
        untouched: holders that keep what they have.
        undos: gets what takes each change back, change by change: an interrupt may end this in the middle.

    Returns:
        The objects met that are instances of those to be replaced.
    """
    new_of = {id(old): new for old, new in zip(search.objects, news, strict=True)}
    found = search.run([*untouched, news, new_of, undos])
    for container in found.containers:
        new_of[id(container)] = _rebuilt(container, new_of)
    # The attributes of a class are set through the class, which remembers the results of look-ups.
    for holder, attributes in found.classes:
        _in_class(holder, attributes, new_of, undos)
    for other in found.others:
        _exchange(other, new_of, undos)
    return found.instances


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


# Exchanging in one holder. What takes a change back is noted first, as an interrupt may come between the two; it does
# nothing where the change was not made.


def _exchange(holder: Any, new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    """Exchange what one holder refers to directly."""
    exchange = _EXCHANGES.get(type(holder))
    if exchange is not None:
        exchange(holder, new_of, undos)
        return
    if issubclass(type(holder), (type, types.ModuleType)):
        return
    try:
        attributes = object.__getattribute__(holder, "__dict__")
    except (AttributeError, ReferenceError):
        return
    if type(attributes) is dict:
        _in_dict(attributes, new_of, undos)


def _in_dict(holder: dict[Any, Any], new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    items = list(holder.items())
    if items and f"{type(items[0][1]).__module__}.{type(items[0][1]).__qualname__}" == _LRU_LINK:
        # The links of an lru_cache hold the keys as well.
        return
    for key, value in items:
        if id(value) in new_of:
            new = new_of[id(value)]
            undos.append(functools.partial(_restore_item, holder, key, new, value))
            holder[key] = new
    for key, _ in items:
        if id(key) in new_of and new_of[id(key)] not in holder:
            new = new_of[id(key)]
            undos.append(functools.partial(_rename_key, holder, new, key))
            _rename_key(holder, key, new)


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


def _in_class(holder: type, attributes: dict[str, Any], new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    for name, value in list(attributes.items()):
        if id(value) in new_of:
            undos.append(functools.partial(_restore_attribute, holder, attributes, name, new_of[id(value)], value))
            setattr(holder, name, new_of[id(value)])


def _restore_attribute(holder: type, attributes: dict[str, Any], name: str, new: object, old: object) -> None:
    if attributes.get(name, _EMPTY) is new:
        setattr(holder, name, old)


def _in_sequence(holder: Any, new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    for index, value in enumerate(holder):
        if id(value) in new_of:
            undos.append(functools.partial(_restore_element, holder, new_of[id(value)], value))
            holder[index] = new_of[id(value)]


def _restore_element(holder: Any, new: object, old: object) -> None:
    # By identity and not by index, which may be another's by now.
    for index, value in enumerate(holder):
        if value is new:
            holder[index] = old
            return


def _in_set(holder: set[Any], new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    for value in [value for value in holder if id(value) in new_of]:
        new = new_of[id(value)]
        if new not in holder:
            undos.append(functools.partial(_exchange_member, holder, new, value))
            _exchange_member(holder, value, new)


def _exchange_member(holder: set[Any], old: object, new: object) -> None:
    if old in holder:
        # In this order: another thread may be asking for either.
        holder.add(new)
        holder.discard(old)


def attribute(
    holder: Any, name: str, new: object, undos: list[Undo], stays: Callable[[], bool] = lambda: False
) -> None:
    """Assign to an attribute. ``undos`` gets what takes that back, unless somebody assigned to it since or it stays."""
    old = getattr(holder, name)

    def undo() -> None:
        if getattr(holder, name) is new and not stays():
            setattr(holder, name, old)

    undos.append(undo)
    setattr(holder, name, new)


def _in_cell(holder: types.CellType, new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    old = holders.cell_contents(holder)
    if id(old) not in new_of:
        return
    new = new_of[id(old)]

    def undo() -> None:
        if holders.cell_contents(holder) is new:
            holder.cell_contents = old

    undos.append(undo)
    holder.cell_contents = new


def _in_function(holder: types.FunctionType, new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    old = holder.__defaults__
    if id(old) not in new_of:
        return
    new = new_of[id(old)]

    def undo() -> None:
        if holder.__defaults__ is new:
            holder.__defaults__ = old

    undos.append(undo)
    holder.__defaults__ = new


def _in_partial(holder: functools.partial[Any], new_of: Mapping[int, Any], undos: list[Undo]) -> None:
    old = (holder.func, holder.args)
    new = (new_of.get(id(old[0]), old[0]), new_of.get(id(old[1]), old[1]))
    if new == old:
        return

    def set_parts(parts: tuple[Any, Any]) -> None:
        state: Any = holder.__reduce__()[2]
        holder.__setstate__((*parts, *state[2:]))  # type: ignore[attr-defined]

    undos.append(functools.partial(set_parts, old))
    set_parts(new)


# How the references of a holder are exchanged, by its exact type: other types may have invariants of their own.
_EXCHANGES: dict[type, Callable[[Any, Mapping[int, Any], list[Undo]], None]] = {
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
