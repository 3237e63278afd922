"""For each part of the cache's keys, and each rule about what is not cached, the tests that notice its absence.

Run by scripts/mutate, which builds the module that can leave them out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from fastfake import _C

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r'\bkept\(\s*"([^"]+)"')


def _each(test: str, *parts: str) -> dict[str, str]:
    """The test has a case for each part, under its name."""
    return {part: f"{test}[{part}]" for part in parts}


WATCHED_BY = {
    **_each(
        "tests/test_call_key.py::test_a_call_in_other_surroundings_is_another_call",
        "inference mode",
        "grad mode",
        "determinism",
        "determinism's warnings",
        "cuDNN",
        "MKLDNN",
        "Python dispatcher",
        "default dtype",
        "settings made in Python",
        "attention backends",
        "which operators are attention",
    ),
    **_each(
        "tests/test_call_key.py::test_a_call_under_a_mode_with_another_flag_is_another_call",
        "mode: fallback kernels",
        "mode: scalar outputs",
        "mode: meta",
        "mode: unsafe data_ptr",
        "mode: static shapes",
        "mode: known values",
        "mode: real inputs",
        "mode: settings of the ShapeEnv",
    ),
    "mode: limit of known values": (
        "tests/test_call_key.py::test_a_call_under_another_limit_of_known_values_is_another_call"
    ),
    "thread: values are not followed": (
        "tests/test_call_key.py::test_what_is_computed_on_the_way_is_not_the_answer_of_a_call_that_follows_values"
    ),
    "rule: argument on a storage that is not meta": (
        "tests/test_call_key.py::test_a_tensor_that_was_given_the_storage_of_a_wrapper_is_not_answered"
    ),
    "rule: argument on the storage of a known value": (
        "tests/test_known_values.py::test_a_tensor_that_was_given_the_storage_of_a_known_value_writes_to_it"
    ),
    "thread: in a kernel": (
        "tests/test_kernel_invocation.py::test_what_is_computed_while_it_is_assigned_is_not_the_answer_afterwards"
    ),
    **_each(
        "tests/test_call_key.py::test_a_call_with_another_argument_is_another_call",
        "operator",
        "kind of argument",
        "integer",
        "floating point number",
        "real part",
        "imaginary part",
        "truth value",
        "text",
        "device",
        "dtype",
        "requires grad",
        "device of a tensor",
        "dispatch keys",
        "shared storage",
        "repeated tensor",
        "which tensor is repeated",
        "bytes of the storage",
        "offset in the storage",
        "size",
        "stride",
        "dtype of a number",
        "value of a number",
        "second half of a number",
        "known value",
        "second half of a known value",
    ),
    "which operators are arithmetic": (
        "tests/test_call_key.py::test_the_numbers_in_arithmetic_are_no_part_of_the_key_and_do_not_matter[mul]"
    ),
    "length of a text": "tests/test_call_key.py::test_texts_that_end_in_zero_bytes_are_not_their_beginnings",
    "rule: argument of another mode": (
        "tests/test_call_key.py::test_tensors_of_another_mode_are_refused_also_when_the_answer_is_known"
    ),
    "rule: argument with a known value": (
        "tests/test_call_key.py::test_a_known_value_is_not_lost_in_an_answer_for_a_tensor_without_one"
    ),
    "rule: argument with keys of its own": (
        "tests/test_dispatch_cache.py::test_what_cannot_be_cached_is_counted_with_its_reason"
    ),
    "rule: convolution that torch.jit traces": "tests/test_jit_tracing.py::test_the_graph_is_that_of_real_tensors",
    "rule: index that is a mask": "tests/test_call_key.py::test_masks_have_no_known_number_of_elements",
    **_each(
        "tests/test_recipe.py::test_a_result_of_which_a_recipe_would_lose_something_is_computed_each_time",
        "rule: result of a derived class",
        "rule: result of another mode",
        "rule: result with a known value",
        "rule: result with attributes",
        "rule: result of a special kind",
        "rule: result that requires grad",
    ),
    "rule: sparse result": "tests/test_recipe.py::test_sparse_results_are_computed_each_time_for_torchs_reason",
    "rule: sparse compressed result": (
        "tests/test_recipe.py::test_sparse_results_are_computed_each_time_for_torchs_reason"
    ),
    "result that is an argument": "tests/test_recipe.py::test_a_result_that_is_an_argument_is_that_argument_again",
    "result that is another result": "tests/test_recipe.py::test_a_result_that_comes_twice_is_one_tensor_again",
    "storage of another result": "tests/test_recipe.py::test_results_on_one_fresh_storage_share_one_again",
    "storage of an argument": ("tests/test_recipe.py::test_a_view_is_on_the_storage_of_the_argument_that_it_is_given"),
    "bytes of a fresh storage": "tests/test_recipe.py::test_a_fresh_storage_is_as_large_as_the_first_one",
    "rule: changed arguments": (
        "tests/test_recipe.py::test_an_operator_that_changes_its_arguments_is_computed_each_time"
    ),
    "warning of data_ptr": "tests/test_config.py::test_the_data_pointer_warns_or_raises_as_configured",
    "symbolic number": "tests/test_symbolic_hits.py::test_other_numbers_are_other_calls",
    "which integers are symbols": (
        "tests/test_call_symbols.py::test_a_number_that_equals_the_number_of_a_symbol_is_none"
    ),
    "integer among symbols": "tests/test_call_symbols.py::test_an_integer_among_symbols_tells_calls_apart",
    "symbol in a shape": "tests/test_call_symbols.py::test_a_symbol_in_a_shape_tells_calls_apart",
    "answers about strides": (
        "tests/test_call_symbols.py::test_what_a_tensor_knows_about_its_strides_tells_calls_on_unbacked_symbols_apart"
    ),
    "rule: guards added": (
        "tests/test_call_symbols.py::test_a_call_that_adds_a_guard_is_remembered_only_when_it_adds_none"
    ),
    "rule: torch_dispatch rules": (
        "tests/test_registrations.py::test_a_rule_that_comes_before_the_mode_is_asked_at_each_call"
    ),
    "rule: leaks are tracked": (
        "tests/test_config.py::test_fake_tensors_made_during_an_export_are_tracked_where_that_is_configured"
    ),
    **_each(
        "tests/test_operator_facts.py::test_calls_of_operators_that_a_key_does_not_describe_are_computed_each_time",
        "rule: attribute queries",
        "rule: autograd's records",
        "rule: data-dependent results",
        "rule: dynamic shapes",
        "rule: views in place",
        "rule: lifting",
    ),
    "rule: custom operators": "tests/test_operator_facts.py::test_calls_of_custom_operators_are_computed_each_time",
    "rule: custom operator makes symbols": (
        "tests/test_cached_operators.py::test_a_call_that_makes_a_size_that_depends_on_data_makes_one_each_time"
    ),
    "rule: functions of programs": (
        "tests/test_collectives.py::test_a_kernel_that_a_program_puts_in_the_place_of_torchs_is_asked_each_time"
    ),
    "rule: profiles of operators": "tests/test_cached_operators.py::test_profiles_of_operators_come_before_the_cache",
    "operators that went away": (
        "tests/test_operator_facts.py::test_another_operator_at_the_address_of_one_that_is_gone_has_facts_of_its_own"
    ),
}

# Parts without which no two calls could be mistaken for each other here, and why.
CANNOT_BE_NOTICED = {
    "length of a list": "as many arguments follow as the schema has, so that the tags tell where a list ends",
    "number of dimensions": "the word after the last stride would have to be a tag and a stride at the same time",
    "fake wrapped number": "no operator is known that gives a fake tensor this mark, which clones would keep",
    "generator": "a build of torch without accelerators has generators of one device; none is told by its tag",
    "default device": "a build of torch without accelerators has only one",
    "current device": "a build of torch without accelerators has only one of each kind",
}


def parts_in_the_sources() -> set[str]:
    """What the native code can leave out."""
    return {part for path in (ROOT / "csrc").rglob("*.[ch]*") for part in PART.findall(path.read_text())}


def outcome(part: str, tests: Iterable[str]) -> int:
    """Pytest's exit status for the tests while the part is left out; an empty name leaves nothing out.

    They run in a copy of this process, which has torch loaded and has not called an operator yet. A process that a
    signal ended has a negative status.
    """
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.environ["FASTFAKE_MUTATION"] = part
        os._exit(pytest.main(["-q", "-x", "-m", "", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(chosen: list[str]) -> int:
    """Leave out one part after the other and say which of them no test noticed."""
    if differ := parts_in_the_sources() ^ (WATCHED_BY.keys() | CANNOT_BE_NOTICED.keys()):
        print("csrc/ and this table differ in:", sorted(differ))
        return 1
    print("module:", _C.__file__)
    if outcome("", sorted(set(WATCHED_BY.values()))) != 0:
        print("the tests fail when nothing is left out")
        return 1
    parts = chosen or list(WATCHED_BY)
    killed = 0
    for part in parts:
        # Pytest's status is 1 when a test failed; any other means that the tests were not run to their end.
        status = outcome(part, [WATCHED_BY[part]])
        killed += status == 1
        print(f"{'killed' if status == 1 else f'SURVIVED ({status})'}: {part}: {WATCHED_BY[part]}", flush=True)
    print(f"{len(parts)} mutations, {killed} killed")
    return 0 if killed == len(parts) else 1


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
