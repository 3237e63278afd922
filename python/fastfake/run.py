"""The ``run`` subcommand: a program with fastfake's classes in the place of torch's."""

from __future__ import annotations

import argparse
import atexit
import importlib.machinery
import importlib.util
import io
import os
import runpy
import sys
from types import CodeType, ModuleType, TracebackType

import fastfake

# What python itself returns for a script, and for a module, that it cannot find.
NO_SCRIPT = 2
NO_MODULE = 1

# Whether `python -P` leaves the directory of the program out of the path; CPython 3.10 has no such option.
_SAFE_PATH: bool = getattr(sys.flags, "safe_path", False)


def add_parser(subcommands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``run`` to the subcommands of ``python -m fastfake``.

    Args:
        subcommands: What ``ArgumentParser.add_subparsers`` returned.
    """
    parser = subcommands.add_parser(
        "run",
        help="run a program with fastfake in the place of torch's fake tensors",
        usage="python -m fastfake run [-h] [--stats] (-m MODULE | SCRIPT) [ARGUMENT ...]",
        description="Runs a script or a module as python does, with fastfake installed before its first line. "
        "Processes that the program starts afresh have fastfake only if they import fastfake.shim.",
        epilog="The exit code is the program's.",
    )
    parser.add_argument("--stats", action="store_true", help="at exit, print what the cache did")
    parser.add_argument("-m", dest="module", nargs="...", help="a module, by name, and its arguments")
    parser.add_argument("script", nargs="...", metavar="SCRIPT", help="a script, by path, and its arguments")
    parser.set_defaults(run=run, parser=parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out ``python -m fastfake run``.

    Args:
        arguments: Parsed arguments, as `add_parser` defines them.

    Returns:
        0 if the program came to its end, or the exit code for one that cannot be found.

    Raises:
        BaseException: whatever the program raised. Python treats it as without fastfake.
    """
    command: list[str] = arguments.module or arguments.script
    if not command:
        arguments.parser.error("name a script, or a module with -m")
    fastfake.install()
    if arguments.stats:
        from fastfake import statistics

        # Before the program's own functions are registered, so that it runs after them.
        atexit.register(statistics.print_report)
    sys.argv = command
    try:
        return _run_module(command[0]) if arguments.module else _run_script(command[0])
    except BaseException as error:
        _show_without_our_frames(error)
        raise


def _run_script(path: str) -> int:
    """Run a script, or a directory or archive with a ``__main__.py``, as ``python PATH`` does."""
    if not _SAFE_PATH:
        # It was the directory of `python -m`.
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    absolute = os.path.abspath(path)
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except IsADirectoryError:
        return _run_archive(path)
    except OSError as error:
        reason = f"[Errno {error.errno}] {error.strerror}"
        print(f"{sys.executable}: can't open file {absolute!r}: {reason}", file=sys.stderr)
        return NO_SCRIPT
    if source.startswith(b"PK\x03\x04"):
        return _run_archive(path)
    module = ModuleType("__main__")
    module.__file__ = absolute
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", absolute)
    vars(module)["__cached__"] = None
    _execute(compile(source, absolute, "exec", dont_inherit=True), module)
    return 0


def _run_archive(path: str) -> int:
    """Run the ``__main__.py`` of a directory or an archive."""
    del sys.path[: not _SAFE_PATH]
    runpy.run_path(path, run_name="__main__")
    return 0


def _run_module(name: str) -> int:
    """Run a module as ``python -m NAME`` does."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
        code = spec.loader.get_code(spec.name) if spec is not None and spec.loader is not None else None  # type: ignore[attr-defined]
    except ModuleNotFoundError as error:
        # Of the module itself or of a package around it; an import of its own that fails is the program's error.
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec, code = None, None
    if spec is None or code is None:
        print(f"{sys.executable}: No module named {name}", file=sys.stderr)
        return NO_MODULE
    module = ModuleType("__main__")
    module.__spec__, module.__loader__, module.__package__ = spec, spec.loader, spec.parent
    module.__file__ = sys.argv[0] = spec.origin or name
    vars(module)["__cached__"] = spec.cached
    _execute(code, module)
    return 0


def _execute(code: CodeType, module: ModuleType) -> None:
    """Execute the program as the main module, which it stays until the process ends."""
    vars(module)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = module
    exec(code, vars(module))


def _show_without_our_frames(error: BaseException) -> None:
    """Have the traceback begin where the program does, whatever hook prints it."""
    program: TracebackType | None = error.__traceback__
    while program is not None and program.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        program = program.tb_next
    hook = sys.excepthook

    def show(kind: type[BaseException], value: BaseException, traceback: TracebackType | None) -> None:
        sys.last_traceback = program
        hook(kind, value.with_traceback(program) if value is error else value, program)

    sys.excepthook = show
