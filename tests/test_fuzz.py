"""Hostile programs do to our fake tensors what they do to torch's, and never harm the process.

`FUZZ_PROGRAMS=10000 ./run-tests -m exhaustive tests/test_fuzz.py` runs as many; `FUZZ_SEED` begins elsewhere. A
program that fails is shrunk and printed; `python -m fuzz.replay` in tests/ runs it again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fuzz.sides import Side, difference, harm, is_torchs
from fuzz.statements import cheating_programs, programs
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch.utils._python_dispatch import TorchDispatchMode

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[Side, Side]]:
    theirs, ours = Side("torch"), Side("fastfake")
    yield theirs, ours
    theirs.close()
    ours.close()


as_many = settings(
    max_examples=int(os.environ.get("FUZZ_PROGRAMS", "100")),
    database=None,
    suppress_health_check=list(HealthCheck),
)
from_seed = seed(int(os.environ.get("FUZZ_SEED", "0")))


def interrupted_alike(program: list[str]) -> Iterator[list[str]]:
    """Give a program, again where the moment of an interrupt is chance, and with interrupts at other places.

    A line has other places on one side than on the other.
    """
    yield program
    interrupts = {line.partition("(")[0] for line in program if line.startswith("interrupt")}
    if interrupts - {"interrupt_at"}:
        yield from [program] * 10
    if "interrupt_at" in interrupts:
        for place in range(0, 1000, 5):
            yield [f"interrupt_at({place}, 0, 0)" if line.startswith("interrupt_at") else line for line in program]


def with_program(told: str, program: list[str]) -> str:
    return "\n".join([told, "", "the program:", *program])


def run_on_both(sides: tuple[Side, Side], program: list[str]) -> list[Any]:
    for side in sides:
        side.begin(program)
    return [side.answer() for side in sides]


@from_seed
@as_many
@given(program=programs())
def test_hostile_programs_do_what_they_do_to_torch(program: list[str], sides: tuple[Side, Side]) -> None:
    told = difference(program, *run_on_both(sides, program))
    assert told is None, with_program(told, program)


@from_seed
@as_many
@given(program=cheating_programs())
def test_programs_that_cheat_do_no_harm(program: list[str], sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    answer = ours.run(program)
    told = harm(answer)
    assert told is None or any(is_torchs(theirs.run(alike), answer) for alike in interrupted_alike(program)), (
        with_program(str(told), program)
    )


def test_programs_are_seldom_like_earlier_ones() -> None:
    """Most examples would be, if hypothesis were left to it: it copies parts of earlier ones over others."""
    made: list[list[str]] = []

    @from_seed
    @settings(as_many, max_examples=200, phases=[Phase.generate])
    @given(program=programs())
    def make(program: list[str]) -> None:
        made.append(program)

    make()
    seen: set[str] = set()
    alike = 0
    for program in made:
        # Some lines have no numbers to be filled in.
        alike += sum(line in seen for line in program) > 2 * len(program) / 3
        seen.update(program)
    assert alike < len(made) / 4


@pytest.mark.parametrize(
    "interrupting",
    [
        "interrupt_soon(S(2))",
        "interrupt_at(0, 0, 2)",
        *(f"interrupt_from_thread(S(2), {way})" for way in range(3)),
    ],
)
def test_a_line_is_interrupted_and_the_rest_runs(interrupting: str, sides: tuple[Side, Side]) -> None:
    # Much longer than any thread has to wait for its turn.
    program = [interrupting, "for _ in range(200_000): T(0) + 1", "keep(T(0) + 1)"]
    for side in sides:
        for _ in range(5):  # it is lost where it comes in the callback of a weak reference
            *interrupted, last = side.run(program)["outcomes"]
            if ["Interruption"] in interrupted:
                break
        assert ["Interruption"] in interrupted
        assert last == [["FakeTensor", [2, 3], [3, 1], 0, "torch.float32", "cpu", False, True, 0, 24]]


@pytest.mark.parametrize(
    ("statement", "ending"),
    [("os.abort()", "by SIGABRT"), ("os._exit(3)", "with exit code 3")],
)
def test_a_program_that_ends_the_process_is_noticed(statement: str, ending: str, sides: tuple[Side, Side]) -> None:
    program = ["keep(T(0) + 1)", statement]
    theirs, ours = sides
    assert difference(program, theirs.run(program[:1]), ours.run(program)) == f"ours ended {ending}"


def test_a_line_with_another_outcome_is_noticed(sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    told = difference(["keep(T(0) + 1)"], theirs.run(["keep(T(0) + 1)"]), ours.run(["keep(T(0) + 1.0)[0]"]))
    assert told is not None
    assert told.startswith("keep(T(0) + 1)\n  torch: ")


def test_where_the_child_of_a_fork_ends_badly_it_is_noticed_of_ours_alone(sides: tuple[Side, Side]) -> None:
    """torch goes backward in the child of a process that did with threads that cannot be, in builds with CUDA."""
    bad, good = ["in_fork(lambda: os._exit(3))"], ["in_fork(lambda: T(0) + 1)"]
    theirs, ours = sides
    assert difference(bad, theirs.run(bad), ours.run(good)) is None
    told = difference(good, theirs.run(good), ours.run(bad))
    assert told is not None and "ChildEndedBadly" in told


@pytest.mark.parametrize(
    "program",
    [
        pytest.param(["torch.func.grad(torch.sum)(torch.empty(2, device='cuda'))"], id="an accelerator is not there"),
        pytest.param(
            ["T(1).sum().backward()", "go_on_in_fork()", "T(1).sum().backward()"], id="in the child of a fork"
        ),
        pytest.param(["T(0).pin_memory()"], id="pinned memory"),
        pytest.param(["torch.ops.aten.record_stream(T(0), None)"], id="memory that a stream uses"),
    ],
)
def test_what_torch_refuses_may_be_had_from_ours(program: list[str], sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    answers = theirs.run(program), ours.run(program)
    assert answers[1]["outcomes"] == [[]] * len(program)
    assert difference(program, *answers) is None
    refused = {**answers[1], "outcomes": [[]] * (len(program) - 1) + [["Refused"]]}
    told = difference(program, answers[1], refused)
    assert told is not None and "Refused" in told


def test_state_that_torch_leaves_behind_too_is_no_harm(sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    program = ["enter(torch.utils._python_dispatch._disable_current_modes())", "mode.__exit__(None, None, None)"]
    answer = ours.run(program)
    assert harm(answer) is not None
    assert is_torchs(theirs.run(program), answer)
    assert not is_torchs(theirs.run(["T(0)"]), answer)


def test_what_torch_does_when_it_is_interrupted_at_another_place_is_no_harm(sides: tuple[Side, Side]) -> None:
    """An error where a gradient's node is made ends the process; ours runs Python there only after `uninstall`."""
    theirs, _ = sides
    program = ["interrupt_at(519, 0, 0)", "keep(T(1).t())"]
    answer = {"ended": "by SIGABRT", "outcomes": [[]]}
    assert not is_torchs(theirs.run(program), answer)
    assert any(is_torchs(theirs.run(alike), answer) for alike in interrupted_alike(program))


def test_real_tensors_that_nobody_filled_have_the_same_elements(sides: tuple[Side, Side]) -> None:
    program = ["leave()", *["note(torch.empty(40, dtype=torch.uint8).tolist())"] * 4]
    for side in sides:
        assert side.run(program)["outcomes"] == [[], *[[str([0] * 40)]] * 4]


def test_what_programs_print_is_no_answer(sides: tuple[Side, Side]) -> None:
    for side in sides:
        side.run(["print('{}', flush=True)", "os.write(1, b'{}')"])
        assert side.run(["note('an answer')"])["outcomes"] == [["an answer"]]


def test_state_that_is_left_behind_is_noticed(sides: tuple[Side, Side]) -> None:
    theirs, ours = sides
    program = ["torch.utils._python_dispatch._push_mode(Passing())"]
    told = difference(program, theirs.run(["T(0)"]), ours.run(program))
    assert told is not None and "left thread state behind" in told


def test_an_error_while_a_tensor_is_printed_in_a_call_leaves_state_behind_with_real_tensors_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why no program is interrupted there."""

    class Printing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            repr(args[0])

    def fail(*args: Any, **kwargs: Any) -> None:
        raise LookupError

    monkeypatch.setattr("torch._tensor_str._str_intern", fail)
    tensor = torch.ones(2)
    excluded: list[str] = []

    def print_in_call() -> None:
        excluded.append(str(torch._C._dispatch_tls_local_exclude_set()))
        with contextlib.suppress(LookupError), Printing():
            tensor + 1
        excluded.append(str(torch._C._dispatch_tls_local_exclude_set()))

    thread = threading.Thread(target=print_in_call)  # whose state ends with it
    thread.start()
    thread.join()
    before, after = excluded
    assert before != after
