"""Runs programs in a process of their own: ``python -m compile.child [--shim] NAME ...``; prints a JSON object."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback


def main(arguments: list[str]) -> None:
    with_shim = arguments[0] == "--shim"
    if with_shim:
        import fastfake.shim  # noqa: F401
    import torch
    import torch._dynamo
    import torch._subclasses.fake_tensor as fake_tensor

    from . import describe, programs

    if not with_shim:
        # What torch computes is the measure: its cache makes storages of other sizes, and writes symbols otherwise.
        torch._dynamo.config.fake_tensor_cache_enabled = False

    found = {}
    for name in arguments[with_shim:]:
        torch._dynamo.reset()
        fake_tensor.FakeTensorMode.cache_clear()
        torch.manual_seed(0)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                text = "\n".join(programs.PROGRAMS[name]())
            except Exception:
                text = f"NOT RUN {traceback.format_exc()}"
        found[name] = describe.normalised(text)
    ours = fake_tensor.FakeTensorMode.__module__.startswith("fastfake")
    assert ours == with_shim
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
