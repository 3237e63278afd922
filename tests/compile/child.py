"""Runs programs in a process of their own: ``python -m compile.child SIDE NAME ...``; prints a JSON object.

The sides are ``torch``; ``torch-without-cache``; ``fastfake``, installed before torch is imported; and ``switching``,
where fastfake is installed after torch compiled something, and the programs run with it and then again without.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback


def texts(names: list[str], *, of_fastfake: bool) -> dict[str, str]:
    import torch
    import torch._subclasses.fake_tensor as fake_tensor

    from . import describe, programs

    assert fake_tensor.FakeTensorMode.__module__.startswith("fastfake") == of_fastfake
    found = {}
    for name in names:
        torch._dynamo.reset()
        fake_tensor.FakeTensorMode.cache_clear()
        torch.manual_seed(0)
        with contextlib.redirect_stdout(sys.stderr):
            try:
                text = "\n".join(programs.PROGRAMS[name]())
            except Exception:
                text = f"NOT RUN {traceback.format_exc()}"
        found[name] = describe.normalised(text)
    assert fake_tensor.FakeTensorMode.__module__.startswith("fastfake") == of_fastfake
    return found


def switching(names: list[str]) -> dict[str, str]:
    import torch._inductor.compile_fx
    import torch.distributed.tensor
    import torch.export

    import fastfake

    torch.compile(lambda x: x.sin() + 1, backend="aot_eager")(torch.ones(3, requires_grad=True)).sum().backward()
    torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    # Has imported FakeTensorMode from torch's module.
    from . import programs  # noqa: F401

    with fastfake.install_temporarily():
        found = texts(names, of_fastfake=True)
    afterwards = texts(names, of_fastfake=False)
    return found | {f"{name} after uninstalling": text for name, text in afterwards.items()}


def texts_of_side(side: str, *names: str) -> dict[str, str]:
    if side == "fastfake":
        import fastfake.shim  # noqa: F401
    import torch._dynamo

    if side == "torch-without-cache":
        torch._dynamo.config.fake_tensor_cache_enabled = False
    return switching(list(names)) if side == "switching" else texts(list(names), of_fastfake=side == "fastfake")


if __name__ == "__main__":
    json.dump(texts_of_side(*sys.argv[1:]), sys.stdout)
