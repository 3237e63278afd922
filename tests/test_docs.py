"""The examples in README.md and in the pages of docs/ run, and print what the pages say that they print."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import traceback
import unittest
from collections.abc import Iterator
from pathlib import Path

import fresh_process
import pytest

pytest.importorskip("sybil", reason="which finds the examples")

from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

import fastfake
from fastfake.torch_version import AT_LEAST_2_14

ROOT = Path(__file__).parent.parent
SITE = ROOT / "docs"
PAGES = {str(page.relative_to(ROOT)): page for page in (ROOT / "README.md", *sorted(SITE.rglob("*.md")))}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


# Programs that a page may name and that are not of this project, so that nothing is known of their arguments.
OTHER_PROGRAMS = {"cibuildwheel", "pytest", "python", "torchrun", "uv"}


class Problem(Exception):
    """An example is wrong; the text says in what way."""


class Runner:
    """Runs the examples of a page in order, in the working folder, in which it also puts the files that the page shows.

    - ``python`` is run. An error is no problem if the output that follows shows it;
    - ``text`` after it is the output. Three dots stand for anything, and white space for other white space;
    - ``python title="name.py"`` is a file;
    - ``sh`` is commands, which have to exist, with arguments that they know;
    - ``console`` is commands after ``$``, which are run, with what they print.
    """

    def __init__(self) -> None:
        self._printed: str | None = None
        self._error: BaseException | None = None

    def parsers(self) -> list[CodeBlockParser | SkipParser | FilesParser]:
        evaluators = {"python": self.python, "text": self.text, "sh": self.sh, "console": self.console}
        blocks = [CodeBlockParser(language, evaluator) for language, evaluator in evaluators.items()]
        return [*blocks, FilesParser(), SkipParser()]

    def python(self, example: Example) -> None:
        self.finish()
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                PythonEvaluator()(example)
            except Exception as error:
                self._error = error
        self._printed = output.getvalue()

    def text(self, example: Example) -> None:
        if self._printed is None:
            raise Problem("nothing was run that could have printed this")
        error, self._error = self._error, None
        printed, self._printed = self._printed, None
        compare(str(example.parsed), printed + "".join(traceback.format_exception_only(error) if error else []))

    def sh(self, example: Example) -> None:
        self.finish()
        for line in str(example.parsed).replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                check_command(words)

    def console(self, example: Example) -> None:
        self.finish()
        for command, shown in sessions(str(example.parsed)):
            compare(shown, output_of(shlex.split(command, comments=True)))

    def finish(self) -> None:
        """Raise an error that no output showed."""
        error, self._error, self._printed = self._error, None, None
        if error is not None:
            raise error


class FilesParser:
    """Finds the files that a page shows."""

    def __call__(self, document: Document) -> Iterator[Region]:
        lexer = FencedCodeBlockLexer(r'\w+ title="[^"]+"', {"language": "title", "source": "source"})
        for region in lexer(document):
            region.parsed, region.evaluator = region.lexemes["source"], self.write
            yield region

    def write(self, example: Example) -> None:
        name = example.region.lexemes["title"].split('"')[1]
        Path(name).write_text(str(example.parsed), encoding="utf-8")


def sessions(text: str) -> list[tuple[str, str]]:
    """Split what a terminal shows into commands and what they print."""
    parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n?", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a session begins with a command"
    return [(command.replace("\\\n", " "), shown) for command, shown in zip(parts[1::2], parts[2::2], strict=True)]


def compare(shown: str, printed: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if not doctest.OutputChecker().check_output(shown, printed, flags):
        raise Problem(f"the page shows\n{shown}\nand what is printed is\n{printed}")


def without_settings(words: list[str]) -> list[str]:
    """Leave out environment variables before a command."""
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    return words


def check_command(words: list[str]) -> None:
    """Raise Problem unless the command exists and takes such arguments."""
    match without_settings(words):
        case ["python", "-m", "fastfake", *arguments]:
            parse(arguments)
        case ["python", "-m", "bench", suite, *options]:
            with refusals():
                importlib.import_module(f"bench.{suite}")._parser().parse_args(options)
        case ["./demo", *arguments]:
            parse(["demo", *arguments])
        case ["pip", "install", *packages]:
            for package in packages:
                check_extras(package)
        case [program, *_] if program in OTHER_PROGRAMS:
            pass
        case [program, *_] if "/" in program:
            if not os.access(ROOT / program, os.X_OK):
                raise Problem(f"there is no program {program}")
        case [program, *_]:
            raise Problem(f"{program} is no program that is known here")


def parse(arguments: list[str]) -> None:
    from fastfake.__main__ import make_parser

    with refusals(), contextlib.redirect_stdout(io.StringIO()):  # --help and --version print and end
        make_parser().parse_args(arguments)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Make a problem of what argparse says about wrong arguments."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            yield
        except SystemExit as end:
            if end.code != 0:
                raise Problem(said.getvalue()) from None


def check_extras(package: str) -> None:
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = re.search(r"\[([\w,]+)\]$", package)
    for name in names[1].split(",") if names else []:
        if not re.search(rf"^{name} = \[", settings, flags=re.MULTILINE):
            raise Problem(f"there is no extra {name}")


def output_of(words: list[str]) -> str:
    """What a command of this project prints."""
    match without_settings(words):
        case ["python", "-m", "fastfake", *_] as command:
            settings = dict(word.split("=", 1) for word in words[: len(words) - len(command)])
            done = subprocess.run(
                [sys.executable, *command[1:]], env=os.environ | settings, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise Problem(f"exit code {done.returncode}\n{done.stderr}")
            return done.stdout
    raise Problem(f"{shlex.join(words)} is no command of fastfake")


def problems_of(page: Path, exhaustive: bool = False) -> list[str]:
    """What is wrong with the examples of a page; those that take long it leaves out unless all are asked for."""
    runner, problems = Runner(), []
    last = None
    document = Document.parse(str(page), *runner.parsers())
    document.namespace.update(exhaustive=exhaustive, AT_LEAST_2_14=AT_LEAST_2_14)
    for example in document.examples():
        last = example
        try:
            example.evaluate()
        except unittest.SkipTest:
            continue
        except Exception as error:
            problems.append(described(example, error))
    if last is not None:
        try:
            runner.finish()
        except Exception as error:
            problems.append(described(last, error))
    return problems


def problems_in_a_process(page: Path, folder: Path, exhaustive: bool) -> list[str]:
    """Begin with a process that has done nothing yet, in a folder, with a terminal of 100 columns."""
    os.chdir(folder)
    os.environ.update(COLUMNS="100", NO_COLOR="1")
    return problems_of(page, exhaustive)


def described(example: Example, error: Exception) -> str:
    where = f"{Path(example.path).name}, line {example.line}: "
    return where + (str(error) if isinstance(error, Problem) else "".join(traceback.format_exception(error)))


@pytest.mark.parametrize("page", [name for name, page in PAGES.items() if "\n```" in text_of(page)])
def test_the_examples_of_a_page_do_what_it_says(page: str, tmp_path: Path) -> None:
    assert "\n\n".join(fresh_process.call(problems_in_a_process, PAGES[page], tmp_path, False)) == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [name for name, page in PAGES.items() if "if(not exhaustive" in text_of(page)])
def test_the_examples_that_take_long_do_too(page: str, tmp_path: Path) -> None:
    assert "\n\n".join(fresh_process.call(problems_in_a_process, PAGES[page], tmp_path, True)) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n", None),
        ("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", "the page shows\n3"),
        ("```python\n1 / 0\n```\n\n```text\nZeroDivisionError: ...\n```\n", None),
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```python\n1 / 0\n```\n\n```python\nx = 1\n```\n", "ZeroDivisionError"),
        ("```text\n2\n```\n", "nothing was run"),
        ("```sh\n./demo --layers 2  # short\n```\n", None),
        ("```sh\nA=1 ./demo --layer-count 2\n```\n", "unrecognized arguments: --layer-count"),
        ("```sh\nscripts/nothing\n```\n", "no program scripts/nothing"),
        ("```sh\nmake\n```\n", "make is no program"),
        ("```sh\npip install '.[demo,nothing]'\n```\n", "no extra nothing"),
        ("```sh\npython -m bench dispatch --what\n```\n", "unrecognized arguments: --what"),
        ('```python title="a.py"\nprint(5)\n```\n\n```python\nprint(open("a.py").read())\n```\n\n'
         "```text\nprint(5)\n```\n", None),
        ("```console\n$ A=1 python -m fastfake \\\n  run b.py\n7\n```\n", "exit code 2\n/"),
        ("```console\n$ make\n```\n", "make is no command of fastfake"),
    ],
)  # fmt: skip
def test_wrong_examples_are_found(
    text: str, problem: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninstalled: None
) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    problems = "".join(problems_of(page))
    assert (problem is None and problems == "") or (problem is not None and problem in problems)


def test_links_from_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(PAGES["README.md"]))
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_the_reference_has_each_public_name() -> None:
    """Of `fastfake.memory` it takes all names by itself; of `fastfake` it cannot, as some are defined in two ways."""
    described = re.findall(r"^::: [\w.]+\.(\w+)$", text_of(SITE / "api" / "fastfake.md"), flags=re.MULTILINE)
    assert sorted(described) == sorted(fastfake.__all__)
