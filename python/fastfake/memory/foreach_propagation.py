"""How DTensor learns the sharding of operators on lists of tensors, in a time that grows with their number alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch.distributed.tensor._op_schema import OpSchema

__all__ = ["arguments_flattened_once"]


@contextlib.contextmanager
def arguments_flattened_once() -> Iterator[None]:
    """Keep the flat list of an operator's arguments, which DTensor asks for once for each tensor in them.

    The first step of an optimizer on the hundreds of parameters of a large model takes half the time with it.
    """
    flatten = vars(OpSchema)["args_spec"].fget

    def flatten_once(schema: Any) -> Any:
        kept = vars(schema).get("_fastfake_args_spec")
        if kept is None or kept[0] is not schema.args_schema:
            kept = schema.args_schema, flatten(schema)
            vars(schema)["_fastfake_args_spec"] = kept
        return kept[1]

    with mock.patch.object(OpSchema, "args_spec", property(flatten_once)):
        yield
