"""Smoke tests of `python -m bench`: the suites run, and their reports hold what they state."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.cases import SYMBOLIC_CASES, select
from bench.compile_models import MODELS
from bench.compile_targets import TARGETS
from bench.sides import Fastfake, Torch
from bench.workers import run_worker

for requirement in ("pyperf", "rich"):
    pytest.importorskip(requirement)

ROOT = Path(__file__).resolve().parent.parent
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own, because the suites install fastfake. It finds what this process finds.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False)


def run_suite(folder: Path, suite: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    report = folder / f"{suite}.json"
    finished = run_bench(suite, *arguments, "--json", str(report))
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, json.loads(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def dispatch(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    selection = ("--case", "add", "--case", "max, dim", "--case", "factory")
    return run_suite(tmp_path_factory.mktemp("bench"), "dispatch", *selection, "--rounds", "2", "--seconds", "0.0005")


def test_help_lists_every_suite() -> None:
    finished = run_bench("--help")
    assert finished.returncode == 0
    for suite in ("dispatch", "model", "bypasses", "memory", "compile", "overheads", "allocations"):
        assert f"  {suite} " in finished.stdout


def test_an_unknown_suite_exits_with_2_and_names_it() -> None:
    finished = run_bench("nosuch")
    assert finished.returncode == 2
    assert "nosuch" in finished.stderr


def test_an_unknown_case_exits_with_2_and_names_it() -> None:
    finished = run_bench("dispatch", "--case", "nosuch")
    assert finished.returncode == 2
    assert "nosuch" in finished.stderr


@pytest.mark.exhaustive
def test_dispatch_has_at_least_25_cases() -> None:
    finished = run_bench("dispatch", "--list")
    assert finished.returncode == 0
    assert len(finished.stdout.splitlines()) >= 25


@pytest.mark.exhaustive
def test_dispatch_measures_the_selected_cases_on_every_side(dispatch: tuple[str, dict[str, Any]]) -> None:
    _, report = dispatch
    names = [case["name"] for case in report["static"]["cases"]]
    assert names[:2] == ["add", "max, dim"]
    assert "empty" in names
    for case in report["static"]["cases"]:
        for statistic in ("median_seconds", "minimum_seconds"):
            assert set(case[statistic]) == {"torch", "fastfake", "eager"}
            assert all(seconds > 0 for seconds in case[statistic].values())
        assert all(count >= 2 for count in case["measurements"].values())
        assert all(loops >= 1 for loops in case["loops"].values())


@pytest.mark.exhaustive
def test_dispatch_ratios_are_those_of_the_medians(dispatch: tuple[str, dict[str, Any]]) -> None:
    _, report = dispatch
    for case in report["static"]["cases"]:
        medians = case["median_seconds"]
        assert case["ratios"] == {
            "torch/fastfake": pytest.approx(medians["torch"] / medians["fastfake"]),
            "fastfake/eager": pytest.approx(medians["fastfake"] / medians["eager"]),
        }


@pytest.mark.exhaustive
def test_dispatch_reports_geometric_means_by_kind_and_over_all(dispatch: tuple[str, dict[str, Any]]) -> None:
    output, report = dispatch
    assert list(report["static"]["geometric_means"]) == ["pointwise", "reduction", "factory", "all"]
    for half in ("static", "symbolic"):
        for means in report[half]["geometric_means"].values():
            assert all(mean > 0 for mean in means.values())
    assert "geometric means" in output


@pytest.mark.exhaustive
def test_dispatch_states_what_it_ran_on_without_naming_the_machine(dispatch: tuple[str, dict[str, Any]]) -> None:
    _, report = dispatch
    assert report["suite"] == "dispatch"
    assert report["settings"]["rounds"] == 2
    assert {"date", "torch_version", "python_version"} <= set(report["metadata"])
    assert report["metadata"]["intra_op_threads"] == 1
    assert "hostname" not in report["metadata"]


@pytest.mark.exhaustive
def test_tables_show_the_minimum_beside_the_median_and_what_was_measured_on(
    dispatch: tuple[str, dict[str, Any]],
) -> None:
    output, report = dispatch
    heading = next(line for line in output.splitlines() if "torch" in line and "eager" in line)
    assert [word for word in heading.split() if word.isalpha()] == (
        ["kind", "case", "torch", "min", "fastfake", "min", "eager", "min"]
    )
    assert f"{report['metadata'].get('cpu_model_name', 'unknown CPU')}, torch" in output
    assert "1 intra-op thread" in output


@pytest.mark.exhaustive
def test_worker_processes_compute_with_one_thread() -> None:
    assert run_worker("overheads_worker", "torch")["threads"] == 1


@pytest.mark.exhaustive
def test_dispatch_tells_how_the_cache_served_a_call(dispatch: tuple[str, dict[str, Any]]) -> None:
    _, report = dispatch
    add = report["static"]["cases"][0]
    assert add["cache"] == {"torch": "hit", "fastfake": "hit"}


@pytest.mark.exhaustive
def test_dispatch_measures_symbolic_sizes_on_both_fake_tensors(dispatch: tuple[str, dict[str, Any]]) -> None:
    output, report = dispatch
    cases = {case["name"]: case for case in report["symbolic"]["cases"]}
    assert list(cases) == ["add"]
    assert set(cases["add"]["median_seconds"]) == {"torch", "fastfake"}
    assert cases["add"]["cache"] == {"torch": "hit", "fastfake": "hit"}
    assert "one call on symbolic sizes" in output
    assert "one call on static sizes" in output


def test_every_symbolic_case_is_answered_from_fastfakes_cache() -> None:
    side = Fastfake(symbolic=True)
    with side.entered():
        for case in SYMBOLIC_CASES:
            call = functools.partial(eval, compile(case.call, case.name, "eval"), case.namespace(side.sizes))
            for _ in range(3):
                call()
            assert side.cache_use(call) == "hit", case.name


def test_the_sizes_of_symbolic_operands_are_symbols() -> None:
    side = Torch(symbolic=True)
    with side.entered():
        for case in SYMBOLIC_CASES:
            operands = [value for value in case.namespace(side.sizes).values() if isinstance(value, torch.Tensor)]
            assert all(isinstance(size, torch.SymInt) for operand in operands for size in operand.shape), case.name


def test_the_common_symbolic_cases_are_those_that_programs_consist_of() -> None:
    names = [case.name for case in select(["common"], ["symbolic"])["symbolic"]]
    assert names == ["add", "mm", "transpose", "view", "slice", "sum", "clone", "cat", "expand", "reshape"]


def test_one_half_of_dispatch_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    from bench import dispatch

    assert dispatch.main(["--list", "--sizes", "symbolic"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"symbolic"}


@pytest.mark.exhaustive
def test_values_of_all_rounds_are_written_for_pyperf(tmp_path: Path) -> None:
    import pyperf

    values = tmp_path / "values.json"
    finished = run_bench("dispatch", "--case", "add", "--rounds", "3", "--seconds", "0.0005", "--pyperf", str(values))
    assert finished.returncode == 0, finished.stderr
    benchmarks = pyperf.BenchmarkSuite.load(str(values)).get_benchmarks()
    # Three sides on static sizes, two on symbolic ones.
    assert [benchmark.get_nvalue() for benchmark in benchmarks] == [15] * 5


@pytest.mark.exhaustive
def test_profile_shows_functions_or_says_why_it_cannot() -> None:
    finished = run_bench("dispatch", "--profile", "add")
    if finished.returncode == 0:
        assert "by function" in finished.stdout
    else:
        assert finished.returncode == 2
        assert "perf" in finished.stderr
    if shutil.which("perf") is None:
        assert finished.returncode == 2


@pytest.mark.exhaustive
def test_allocations_counts_one_block_for_each_tensor_of_eager_torch(tmp_path: Path) -> None:
    output, report = run_suite(tmp_path, "allocations", "--case", "add", "--case", "add_")
    added, mutated = report["cases"]
    assert added["allocations"]["eager"]["objects"] == 1
    assert added["allocations"]["eager"]["blocks"] == pytest.approx(1, abs=0.2)
    assert mutated["allocations"]["eager"]["objects"] == 0
    assert mutated["allocations"]["eager"]["blocks"] == pytest.approx(0, abs=0.2)
    assert {"torch", "fastfake", "eager"} == set(added["allocations"])
    assert "nothing but the result" in output


@pytest.mark.exhaustive
def test_compile_reports_the_ratio_and_what_bounds_it(tmp_path: Path) -> None:
    selection = ("--target", "make_fx symbolic", "--layers", "1", "--rounds", "2", "--probe-rounds", "1")
    output, report = run_suite(tmp_path, "compile", *selection)
    (target,) = report["targets"]
    assert (target["model"], target["name"], target["compilation"]) == ("llama", "make_fx symbolic", "warm")
    assert len(target["nodes"]) == 1
    assert target["nodes"][0] > 100
    medians = target["median_seconds"]
    assert target["ratio"] == pytest.approx(medians["torch"] / medians["fastfake"])
    assert 0 <= target["collecting_share"] < target["share"] < 1
    assert target["bound"] == pytest.approx(1 / (1 - target["share"]))
    assert target["saved"] == pytest.approx(
        (medians["torch"] - medians["fastfake"]) / medians["torch"] / target["share"]
    )
    assert "make_fx symbolic" in output


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_compile_reports_the_first_and_the_second_compilation_of_each_model(tmp_path: Path) -> None:
    models = ("--model", "llama", "--model", "bert")
    selection = ("--target", "make_fx fake", "--layers", "1", "--rounds", "2", "--probe-rounds", "1", "--twice")
    output, report = run_suite(tmp_path, "compile", *models, *selection)
    assert [(target["model"], target["compilation"]) for target in report["targets"]] == [
        ("llama", "first"),
        ("llama", "second"),
        ("bert", "first"),
        ("bert", "second"),
    ]
    llama, _, bert, _ = report["targets"]
    mean = report["geometric_means"]["first"]["make_fx fake"]
    assert mean == pytest.approx((llama["ratio"] * bert["ratio"]) ** 0.5)
    assert "geometric means over models" in output


@pytest.mark.exhaustive
def test_bypasses_counts_calls_by_reason_and_operator(tmp_path: Path) -> None:
    selection = ("--program", "Adam, for loop", "--program", "embedding")
    output, report = run_suite(tmp_path, "bypasses", *selection, "--rounds", "0")
    optimizer, embedding = report["programs"]
    assert (optimizer["name"], optimizer["kind"]) == ("Adam, for loop", "optimizers")
    assert optimizer["hits"] > 0
    assert optimizer["bypasses"] == {}
    assert "aten::_sparse_coo_tensor_with_dims_and_tensors" in str(embedding["bypasses"])
    assert "bypassed calls of all these programs" in output


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_bypasses_measures_distributed_programs_on_both_sides(tmp_path: Path) -> None:
    output, report = run_suite(tmp_path, "bypasses", "--program", "TP of 8", "--rounds", "2")
    (program,), (case,) = report["programs"], report["cases"]
    assert program["declined"] > 0
    assert set(case["median_seconds"]) == {"torch", "fastfake"}
    assert "a warm step" in output


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_memory_measures_steps_that_are_watched_and_one_that_is_not(tmp_path: Path) -> None:
    output, report = run_suite(tmp_path, "memory", "--program", "FSDP2 of 8", "--rounds", "2")
    (case,) = report["cases"]
    assert set(case["median_seconds"]) == {"untracked", "tracked", "MemTracker, torch", "MemTracker, fastfake"}
    assert case["ratios"]["tracked / untracked"]["minimum"] > 0.5
    assert case["ratios"]["MemTracker, torch / tracked"]["minimum"] > 1
    assert "processor time of a warm step" in output


@pytest.mark.parametrize("name", MODELS)
def test_what_is_compiled_beforehand_returns_a_loss_and_has_other_sizes(name: str) -> None:
    if MODELS[name].is_of_transformers:
        pytest.importorskip("transformers")
    (small, small_inputs), (module, inputs) = MODELS[name].build_small(), MODELS[name].build(1)
    small(*small_inputs).backward()
    assert [tensor.shape for tensor in small_inputs] != [tensor.shape for tensor in inputs]
    shapes = [{weight.shape for weight in program.parameters() if weight.numel() > 1000} for program in (small, module)]
    assert not shapes[0] & shapes[1]


def test_dynamic_export_keeps_the_sizes_of_inputs_as_symbols() -> None:
    static, dynamic = (TARGETS[target](*MODELS["llama"].build_small()) for target in ("export", "export dynamic"))
    static.compile()
    dynamic.compile()
    assert dynamic.nodes[0] > static.nodes[0]


@pytest.mark.exhaustive
def test_overheads_reports_the_import_and_an_eager_addition(tmp_path: Path) -> None:
    output, report = run_suite(tmp_path, "overheads", "--rounds", "2")
    assert report["import_median_seconds"] > 0
    medians = report["add_median_seconds"]
    assert report["add_ratio"] == pytest.approx(medians["fastfake"] / medians["torch"])
    assert "eager torch.add" in output


@pytest.mark.skipif(HAS_TRANSFORMERS, reason="transformers is installed")
def test_model_without_transformers_says_so_in_one_line_and_exits_with_2() -> None:
    finished = run_bench("model")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert len(finished.stderr.splitlines()) == 1
    assert "transformers" in finished.stderr


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_model_measures_warm_and_cold_passes_on_both_sides(tmp_path: Path) -> None:
    selection = ("--model", "gpt2", "--layers", "1", "--rounds", "2", "--cold-rounds", "2")
    _, report = run_suite(tmp_path, "model", *selection)
    assert [(case["name"], case["kind"]) for case in report["cases"]] == [("gpt2", "warm"), ("gpt2", "cold")]
    for case in report["cases"]:
        assert set(case["median_seconds"]) == {"torch", "fastfake"}
        assert all(seconds > 0 for seconds in case["median_seconds"].values())
    assert list(report["geometric_means"]) == ["warm", "cold"]


@pytest.mark.exhaustive
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason="transformers is not installed")
def test_model_measures_narrow_models_in_eager_torch_too(tmp_path: Path) -> None:
    selection = ("--model", "gpt2", "--layers", "1", "--rounds", "2", "--cold-rounds", "2", "--eager")
    _, report = run_suite(tmp_path, "model", *selection)
    warm, cold = report["cases"]
    assert set(warm["median_seconds"]) == {"torch", "fastfake", "eager"}
    assert set(cold["median_seconds"]) == {"torch", "fastfake"}
