"""`python -m fastfake run` runs programs as python does, with fastfake installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

OURS = [sys.executable, "-m", "fastfake", "run"]
PLAIN = [sys.executable]

SHOW_ITSELF = """
import sys
print(__name__, __file__, sys.argv, sys.path[0], __package__, __spec__ and __spec__.name, __cached__)
print(type(__loader__).__name__, sys.modules["__main__"].__dict__ is globals(), __builtins__)
"""


def execute(command: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=directory, capture_output=True, text=True, timeout=300, check=False, env=os.environ | environment
    )


def assert_same_as_python(arguments: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    ours, plain = execute([*OURS, *arguments], directory), execute([*PLAIN, *arguments], directory)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    return ours


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def test_a_script_sees_itself_as_under_python(script: Path) -> None:
    script.write_text(SHOW_ITSELF)
    done = assert_same_as_python(["program.py", "--stats", "-m", "-x", "y"], script.parent)
    assert done.stdout.startswith("__main__ ")


@pytest.mark.exhaustive
def test_a_script_elsewhere_imports_its_neighbours(script: Path) -> None:
    folder = script.parent / "folder"
    folder.mkdir()
    (folder / "neighbour.py").write_text("VALUE = 17\n")
    (folder / "program.py").write_text(SHOW_ITSELF + "import neighbour; print(neighbour.VALUE)\n")
    (script.parent / "link.py").symlink_to(folder / "program.py")
    assert assert_same_as_python(["link.py"], script.parent).stdout.endswith("17\n")


def test_modules_and_packages_run_by_name(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("print('imported')\n")
    (package / "__main__.py").write_text(SHOW_ITSELF + "from . import inner\n")
    (package / "inner.py").write_text(SHOW_ITSELF)
    assert "imported" in assert_same_as_python(["-m", "package", "-m", "--help"], tmp_path).stdout
    assert_same_as_python(["-m", "package.inner", "a"], tmp_path)


@pytest.mark.exhaustive
def test_directories_and_archives_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text("import sys, beside; print(__name__, sys.argv)\n")
    (folder / "beside.py").write_text("print('beside')\n")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    assert "beside" in assert_same_as_python(["folder", "1"], tmp_path).stdout
    assert "beside" in assert_same_as_python(["archive.zip", "2"], tmp_path).stdout


@pytest.mark.parametrize(
    "ending",
    [
        "raise SystemExit('a reason')",
        *(
            pytest.param(ending, marks=pytest.mark.exhaustive)
            for ending in ("raise SystemExit", "raise SystemExit(3)", "import os; os._exit(7)")
        ),
    ],
)
def test_the_exit_code_is_the_programs(script: Path, ending: str) -> None:
    script.write_text(f"{ending}\n")
    assert_same_as_python(["program.py"], script.parent)


FAILING = """
def inner():
    raise ValueError("on purpose")

try:
    inner()
except ValueError as error:
    raise RuntimeError("chained") from error
"""


def test_tracebacks_begin_in_the_program(script: Path) -> None:
    script.write_text(FAILING)
    done = assert_same_as_python(["program.py"], script.parent)
    assert done.returncode == 1
    assert "fastfake" not in done.stderr


@pytest.mark.exhaustive
def test_a_hook_of_the_program_gets_the_same_traceback(script: Path) -> None:
    hook = "import sys, traceback\nsys.excepthook = lambda *error: print(len(traceback.extract_tb(error[2])))\n"
    script.write_text(hook + FAILING)
    assert assert_same_as_python(["program.py"], script.parent).stdout == "1\n"


def test_a_syntax_error_is_shown_as_by_python(script: Path) -> None:
    script.write_text("print('not reached')\nif:\n")
    assert "fastfake" not in assert_same_as_python(["program.py"], script.parent).stderr


def test_an_interrupt_ends_the_program_as_it_ends_python(script: Path) -> None:
    # Processes begun in the background ignore interrupts unless they say otherwise.
    catch = "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(catch + "os.kill(os.getpid(), signal.SIGINT)\nwhile True: pass\n")
    # A shell reports this as 130.
    assert assert_same_as_python(["program.py"], script.parent).returncode == -signal.SIGINT


def test_what_cannot_be_found_is_reported_as_by_python(tmp_path: Path) -> None:
    assert assert_same_as_python(["absent.py"], tmp_path).returncode == 2
    assert assert_same_as_python(["-m", "absent"], tmp_path).returncode == 1


@pytest.mark.exhaustive
def test_a_failing_import_of_the_module_is_the_programs_error(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import absent_module\n")
    done = execute([*OURS, "-m", "program"], tmp_path)
    assert done.returncode == 1
    assert "No module named 'absent_module'" in done.stderr
    assert "fastfake" not in done.stderr


@pytest.mark.exhaustive
def test_without_a_program_the_usage_is_shown(tmp_path: Path) -> None:
    done = execute(OURS, tmp_path)
    assert done.returncode == 2
    assert "name a script, or a module with -m" in done.stderr


@pytest.mark.exhaustive
def test_classes_of_the_program_can_be_pickled(script: Path) -> None:
    script.write_text("import pickle\nclass Point: pass\nprint(type(pickle.loads(pickle.dumps(Point()))) is Point)\n")
    assert assert_same_as_python(["program.py"], script.parent).stdout == "True\n"


USES_FAKE_TENSORS = """
import atexit
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    for _ in range(50):
        torch.ones(3) + 1
atexit.register(lambda: print("the program's own", FakeTensorMode.__module__))
"""


def test_the_program_has_our_classes_and_nothing_is_printed(script: Path) -> None:
    script.write_text(USES_FAKE_TENSORS)
    done = execute([*OURS, "program.py"], script.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the program's own fastfake.fake_mode\n", "")


def test_stats_tell_of_the_cache_after_the_program(script: Path) -> None:
    script.write_text(USES_FAKE_TENSORS)
    done = execute([*OURS, "--stats", "program.py"], script.parent)
    assert done.stdout == "the program's own fastfake.fake_mode\n"
    cache, bypasses = done.stderr.splitlines()
    assert cache == "fastfake: 98 calls answered from the cache, 2 computed and kept in 2 entries"
    assert bypasses == "fastfake: 0 calls not cacheable"


@pytest.mark.exhaustive
def test_stats_come_after_a_traceback_too_and_keep_the_exit_code(script: Path) -> None:
    script.write_text(USES_FAKE_TENSORS + "raise SystemExit(5)\n")
    done = execute([*OURS, "--stats", "program.py"], script.parent)
    assert done.returncode == 5
    assert "98 calls answered" in done.stderr


@pytest.mark.exhaustive
def test_when_disabled_the_program_runs_on_torchs_classes(script: Path) -> None:
    script.write_text(USES_FAKE_TENSORS)
    done = execute([*OURS, "--stats", "program.py"], script.parent, FASTFAKE_DISABLE="1")
    assert done.stdout == "the program's own torch._subclasses.fake_tensor\n"
    assert "fastfake: not installed at exit: no statistics" in done.stderr


@pytest.mark.exhaustive
def test_an_unknown_command_is_named_with_those_there_are(tmp_path: Path) -> None:
    done = execute([sys.executable, "-m", "fastfake", "foo"], tmp_path)
    assert done.returncode == 2
    assert "argument COMMAND: invalid choice: 'foo'" in done.stderr
    assert "demo" in done.stderr and "run" in done.stderr
