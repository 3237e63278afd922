"""The demo: its decoder, its measurements, its comparison and its command line."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch._subclasses.fake_tensor as torch_fake_tensor
from rich.console import Console
from torch import Tensor, nn

import fastfake
from fastfake.__main__ import main
from fastfake.demo import alternation, command
from fastfake.demo.alternation import Plan, run_alternately
from fastfake.demo.compare import describe, differences, recorded_outputs
from fastfake.demo.errors import DemoError, SideFailure
from fastfake.demo.measure import OperatorCounter, SideRun
from fastfake.demo.memory import MemoryUse, resident_bytes
from fastfake.demo.model import Decoder, DecoderConfig, rotate
from fastfake.demo.report import print_verdict
from fastfake.demo.side import FASTFAKE, TORCH, Side
from fastfake.demo.workload import DecoderWorkload

TINY = DecoderConfig(
    layers=2, hidden=16, intermediate=24, heads=4, key_value_heads=2, vocabulary=32, dtype=torch.float32
)
BOTH_SIDES = pytest.mark.parametrize("side", [TORCH, FASTFAKE], ids=lambda side: side.name)


def tiny_workload() -> DecoderWorkload:
    return DecoderWorkload(TINY, batch=2, sequence=6)


@pytest.fixture
def without_memory_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process takes seconds; one test does it, the others need not."""
    monkeypatch.setattr(alternation, "memory_in_fresh_process", lambda side, workload: MemoryUse(2, 1))


# The decoder


def test_the_default_decoder_has_the_parameters_of_llama_3_70b() -> None:
    with torch.device("meta"):
        model = Decoder(DecoderConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 70_553_706_496
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_later_token_does_not_change_earlier_logits() -> None:
    torch.manual_seed(0)
    model, tokens = Decoder(TINY), torch.arange(6).reshape(1, 6)
    other = tokens.clone()
    other[0, -1] = 31
    with torch.no_grad():
        first, second = model(tokens), model(other)
    torch.testing.assert_close(first[:, :-1], second[:, :-1])
    assert not torch.allclose(first[:, -1], second[:, -1])


def test_rotated_products_depend_only_on_the_distance_of_positions() -> None:
    torch.manual_seed(0)
    rotary = Decoder(TINY).rotary
    query, key = torch.randn(2, 1, 1, 1, TINY.head_size)

    def product(query_position: int, key_position: int) -> Tensor:
        (turned_query, turned_key) = (
            rotate(x, *rotary(torch.tensor([position])))
            for x, position in ((query, query_position), (key, key_position))
        )
        return (turned_query * turned_key).sum()

    torch.testing.assert_close(product(9, 4), product(6, 1))
    assert not torch.allclose(product(9, 4), product(9, 5))


def test_an_untrained_decoder_loses_about_as_much_as_guessing() -> None:
    torch.manual_seed(0)
    work = DecoderWorkload(replace(TINY, vocabulary=1000), batch=2, sequence=64)
    loss = work.loss(work.build(), work.inputs())
    assert abs(loss.item() - torch.tensor(1000.0).log().item()) < 1


# Comparison of metadata


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("fake", True),
        ("shape", (3, 2)),
        ("stride", (1, 2)),
        ("dtype", "torch.int8"),
        ("device", "cuda:0"),
        ("layout", "torch.sparse_coo"),
        ("storage_offset", 1),
        ("storage_bytes", 28),
        ("requires_grad", True),
    ],
)
def test_a_difference_names_the_tensor_and_the_field(field: str, other: object) -> None:
    entry = describe(torch.zeros(2, 3), fastfake.FakeTensor)
    changed = replace(entry, **{field: other})
    (line,) = differences({"x": entry}, {"x": changed})
    assert line == f"x: {field} is {getattr(entry, field)} on torch and {other} on fastfake"


def test_equal_records_have_no_differences() -> None:
    entry = describe(torch.zeros(2, 3), fastfake.FakeTensor)
    assert differences({"x": entry, "y": None}, {"x": entry, "y": None}) == []


def test_tensors_that_one_side_lacks_are_differences() -> None:
    entry = describe(torch.zeros(2), fastfake.FakeTensor)
    assert differences({"x": entry, "g": None, "h": entry}, {"y": entry, "g": entry, "h": None}) == [
        "x: only on torch's side",
        "g: fastfake has one, torch has none",
        "h: torch has one, fastfake has none",
        "y: only on fastfake's side",
    ]


def test_storage_is_described_as_it_is_under_a_view() -> None:
    entry = describe(torch.zeros(4, 5)[1:, ::2], fastfake.FakeTensor)
    assert (entry.shape, entry.stride, entry.storage_offset, entry.storage_bytes) == ((3, 3), (5, 2), 5, 80)


def test_outputs_of_a_module_called_twice_are_all_recorded_until_the_context_closes() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    with recorded_outputs(model, fastfake.FakeTensor) as record:
        model(torch.zeros(1, 3))
        assert len(record) == 3
    model(torch.zeros(1, 3))
    assert len(record) == 3


# Measurement


@BOTH_SIDES
def test_operators_are_counted_one_by_one(side: Side) -> None:
    with side.active(), side.mode_class(), OperatorCounter() as counter:
        x = torch.empty(3)
        assert (x + x).device.type == "cpu"
    assert counter.operators == 2


@BOTH_SIDES
def test_a_cold_run_fills_the_cache_that_warm_rounds_hit(side: Side) -> None:
    run = SideRun(side, tiny_workload())
    cold = run.cold()
    run.warm()
    warm = run.warm()
    assert cold.cache.misses > 0
    assert warm.cache.misses == 0
    assert warm.cache.hits > 0
    assert SideRun(side, tiny_workload()).cold().cache == cold.cache


@BOTH_SIDES
def test_an_inspection_records_every_gradient_as_a_fake_tensor(side: Side) -> None:
    run = SideRun(side, tiny_workload())
    run.cold()
    inspection = run.inspect()
    gradients = {name: entry for name, entry in inspection.record.items() if name.startswith("gradient of ")}
    # Nine parameters in each layer, and embedding, norm and head.
    assert len(gradients) == 2 * 9 + 3
    assert all(entry is not None and entry.fake for entry in gradients.values())
    assert inspection.parameters == sum(parameter.numel() for parameter in Decoder(TINY).parameters())
    assert inspection.parameter_bytes == 4 * inspection.parameters


def test_torchs_side_runs_on_torchs_classes_even_where_fastfake_is_installed() -> None:
    with fastfake.install_temporarily():
        with TORCH.active():
            assert torch_fake_tensor.FakeTensorMode is TORCH.mode_class is not fastfake.FakeTensorMode
        assert torch_fake_tensor.FakeTensorMode is fastfake.FakeTensorMode


def test_fake_tensors_of_torchs_side_are_no_reason_for_a_warning_on_fastfakes() -> None:
    with TORCH.active(), TORCH.mode_class():
        kept = torch.empty(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with FASTFAKE.active():
            assert fastfake.is_installed()
    del kept


def test_resident_memory_grows_with_an_allocation_that_is_written_to() -> None:
    before = resident_bytes()
    block = torch.ones(16 * 1024**2)
    assert resident_bytes() - before > block.nbytes / 2


# Both sides in alternation


@pytest.mark.exhaustive
@pytest.mark.usefixtures("without_memory_processes")
def test_both_sides_agree_on_a_tiny_decoder() -> None:
    figures = run_alternately(Plan(tiny_workload(), rounds=2), Console(quiet=True))
    assert figures.differences == []
    assert figures.tensors > 40
    assert figures.torch.operators == figures.fastfake.operators > 100
    assert len(figures.torch.warm) == len(figures.fastfake.warm) == 2


@dataclass(frozen=True)
class Failing:
    """Work that fails on the named side."""

    side: str
    title: str = "failing"

    def build(self) -> nn.Module:
        ours = torch_fake_tensor.FakeTensorMode is fastfake.FakeTensorMode
        if self.side == ("fastfake" if ours else "torch"):
            raise ValueError("two\nlines")
        return nn.Linear(2, 2)

    def inputs(self) -> Mapping[str, Tensor]:
        return {"x": torch.empty(1, 2)}

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
        return model(inputs["x"]).sum()

    def rehearsal(self) -> Failing:
        return self


@pytest.mark.usefixtures("without_memory_processes")
@pytest.mark.parametrize(("side", "error"), [("torch", DemoError), ("fastfake", SideFailure)])
def test_a_failure_is_blamed_on_the_side_that_failed(side: str, error: type[Exception]) -> None:
    before = fastfake.is_installed()
    with pytest.raises(error, match=r"failing: .*ValueError: two lines"):
        run_alternately(Plan(Failing(side), rounds=1), Console(quiet=True))
    assert fastfake.is_installed() == before


@pytest.mark.exhaustive
@pytest.mark.usefixtures("without_memory_processes")
def test_differing_metadata_are_printed_and_end_in_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alternation, "FASTFAKE", replace(FASTFAKE, tensor_class=type(None)))
    assert main(["demo", "--layers", "1", "--sequence", "8", "--rounds", "1"]) == 1
    assert "fake is True on torch and False on fastfake" in capsys.readouterr().out


def test_a_long_list_of_differences_is_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class OnlyDifferences:
        differences: list[str]
        tensors: int = 50

    lines = OnlyDifferences([f"tensor {number}" for number in range(30)])
    print_verdict(lines, Console(), shown=2)  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert "tensor 1\n" in printed
    assert "tensor 2\n" not in printed
    assert "and 28 more" in printed


# The command line


@pytest.mark.exhaustive
def test_the_demo_prints_a_table_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "figures.json"
    assert main(["demo", "--layers", "1", "--sequence", "8", "--rounds", "1", "--json", str(target)]) == 0
    printed = capsys.readouterr()
    assert "Same metadata on both sides" in printed.out
    assert "2,957,008,896" in printed.out
    # In bfloat16: the parameters, and the gradients of all of them at the end of the backward pass.
    table = printed.out.partition("A round on real tensors would take, on cpu:")[2]
    assert re.search(r"parameter +│ +5.51 GiB", table), table
    assert re.search(r"gradient +│ +5.51 GiB", table), table
    assert printed.err == ""
    figures = json.loads(target.read_text(encoding="utf-8"))
    assert figures["differences"] == []
    assert figures["torch"]["parameters"] == figures["fastfake"]["parameters"] == 2_957_008_896
    assert figures["fastfake"]["memory"]["total_bytes"] > figures["fastfake"]["memory"]["growth_bytes"]
    assert figures["ratios"]["warm"] == pytest.approx(
        figures["median_warm_seconds"]["torch"] / figures["median_warm_seconds"]["fastfake"]
    )


def test_without_a_subcommand_the_help_is_shown_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "demo" in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("fastfake ")


@pytest.mark.parametrize("option", ["--layers", "--rounds", "--batch", "--sequence"])
@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5"])
def test_a_size_that_is_no_positive_integer_is_refused(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"{option}={value}"])
    assert ended.value.code == 2
    assert f"argument {option}: has to be a positive integer, not '{value}'" in capsys.readouterr().err


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the demo, which has to end with exit code 2, and return its only line on stderr."""
    assert main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "names no model_type"),
        ('{"hidden_size": 8}', "names no model_type"),
        ('{"model_type": 3}', "names no model_type"),
    ],
)
def test_a_broken_config_is_refused_in_one_line(
    content: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text(content, encoding="utf-8")
    line = refusal(["--config", str(path)], capsys)
    assert str(path) in line
    assert complaint in line


def test_a_missing_config_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot read the config" in refusal(["--config", str(tmp_path / "none.json")], capsys)


def test_a_folder_that_does_not_exist_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such folder" in refusal(["--json", str(tmp_path / "none" / "figures.json")], capsys)


def test_a_config_without_transformers_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert "needs transformers" in refusal(["--config", str(path)], capsys)


def test_what_keeps_transformers_from_being_imported_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a torchvision whose native part does not fit torch: transformers' own error names its class alone."""
    transformers = pytest.importorskip("transformers")

    def for_model(model_type: str, **settings: object) -> None:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:
            raise ModuleNotFoundError("Could not import module 'GPT2Config'.") from error

    monkeypatch.setattr(transformers.AutoConfig, "for_model", for_model)
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert "RuntimeError: operator torchvision::nms does not exist" in refusal(["--config", str(path)], capsys)


@pytest.mark.parametrize(
    ("config", "options", "complaint"),
    [
        ({"model_type": "no-such-model"}, [], "knows no model_type 'no-such-model'"),
        ({"model_type": "bert", "hidden_size": -8}, [], "hidden_size has to be a positive integer, not -8"),
        ({"model_type": "bert", "hidden_size": "wide"}, [], "hidden_size"),
        ({"model_type": "bert", "hidden_size": 100, "num_attention_heads": 7}, [], "multiple"),
        ({"model_type": "whisper"}, [], "reads input_features"),
        ({"model_type": "resnet"}, ["--layers=2"], "--layers does not fit"),
        ({"model_type": "bert"}, ["--sequence=4096"], "more than the model's 512 positions"),
    ],
)
@pytest.mark.usefixtures("without_memory_processes")
def test_an_unusable_config_is_refused_in_one_line(
    config: dict[str, object],
    options: list[str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert complaint in refusal(["--config", str(path), *options], capsys)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("config", "model"),
    [
        (
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": 32,
            },
            "LlamaForCausalLM (llama), input_ids 1 x 8",
        ),
        ({"model_type": "bert", "num_hidden_layers": 1}, "BertModel (bert), input_ids 1 x 8"),
        (
            {"model_type": "vit", "num_hidden_layers": 1, "image_size": 32},
            "ViTModel (vit), pixel_values 1 x 3 x 32 x 32",
        ),
    ],
)
@pytest.mark.usefixtures("without_memory_processes")
def test_a_hugging_face_model_has_the_same_metadata_on_both_sides(
    config: dict[str, object], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert main(["demo", "--config", str(path), "--sequence", "8", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert model in printed
    assert "Same metadata on both sides" in printed


def test_an_interrupt_prints_one_line_and_ends_in_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_run", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "fastfake demo: interrupted\n"
