"""`python -m fastfake memory` tells what a training step takes, and whether it fits."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import fastfake
from fastfake.__main__ import main
from fastfake.memory import estimate, fit

pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 512,
}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_key_value_heads": 2, **SIZES}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_head": 4, "n_layer": 2},
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"], **SIZES},
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 64,
        "d_ff": 128,
        "d_kv": 16,
        "num_heads": 4,
        "num_layers": 2,
        "vocab_size": 512,
    },
    "vit": {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": 32,
        "patch_size": 16,
        **{name: size for name, size in SIZES.items() if name != "vocab_size"},
    },
    "headless": LLAMA | {"architectures": ["LlamaModel"]},
    "nameless": {name: value for name, value in LLAMA.items() if name != "architectures"},
}


@pytest.fixture
def without_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the largest batch trains many steps; one test does it, the others need not."""
    monkeypatch.setattr(fit, "MOST_SAMPLES", 1)
    monkeypatch.setattr(estimate, "MOST_SAMPLES", 1)


class Cli:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def config(self, name: str, **changes: Any) -> str:
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(CONFIGS[name] | changes))
        return str(path)

    def figures(self, *arguments: str) -> dict[str, Any]:
        code = main(["memory", *arguments, "--json", "-"])
        output = self.capsys.readouterr()
        assert (code, output.err) == (0, "")
        return json.loads(output.out)

    def of_llama(self, *arguments: str) -> dict[str, Any]:
        return self.figures("--config", self.config("llama"), "--sequence", "32", *arguments)

    def error(self, *arguments: str) -> str:
        try:
            code = main(["memory", *arguments])
        except SystemExit as exit:
            code = exit.code
        assert code == 2
        return self.capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)


def parameters_of(name: str) -> int:
    import transformers

    config = dict(CONFIGS[name])
    with torch.device("meta"):
        made = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
        model = getattr(transformers, CONFIGS[name]["architectures"][0])(made)
    return sum(parameter.numel() for parameter in set(model.parameters()))


# What is trained


@pytest.mark.usefixtures("without_search")
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5", "vit"])
def test_models_of_each_kind_are_trained_with_the_state_that_adamw_keeps(cli: Cli, name: str) -> None:
    sequence = [] if name == "vit" else ["--sequence", "16"]
    found = cli.figures("--config", cli.config(name), *sequence)
    categories = found["peak"]["by_category"]
    assert found["fits"] and found["steps"] == 2
    assert found["allocated"] == sum(categories.values()) <= found["reserved"]
    # Each allocation is rounded up to 512 bytes.
    assert 0 <= categories["parameter"] - 4 * parameters_of(name) < 512 * 200
    assert categories["optimizer state"] >= 8 * parameters_of(name)
    # What goes in needs no gradient, which in a small model counts.
    assert 1.5 < found["flops"]["backward"] / found["flops"]["forward"] <= 2.5
    assert found["collectives"] == []
    assert CONFIGS[name]["architectures"][0] in found["title"]


@pytest.mark.usefixtures("without_search")
@pytest.mark.parametrize("name", ["nameless", "headless"])
def test_a_config_that_names_no_head_is_taken_for_what_transformers_has_for_it(cli: Cli, name: str) -> None:
    assert "LlamaForCausalLM" in cli.figures("--config", cli.config(name), "--sequence", "8")["title"]


@pytest.mark.usefixtures("without_search")
def test_causal_masks_are_left_to_flash_attention(cli: Cli) -> None:
    operators = cli.of_llama("--sequence", "64")["peak"]["by_operator"]
    assert "aten::_scaled_dot_product_flash_attention" in operators
    assert not any("efficient" in name for name in operators)


FUNCTIONS = """
import torch
from torch import nn

def pair():
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    def loss(batch, length=1):
        x = torch.randn(batch, length, 16)
        assert x.device.type == "cuda" and x.dtype == torch.get_default_dtype()
        return model(x).square().mean()
    return model, loss

def of_transformers():
    import transformers
    return transformers.BertForMaskedLM(transformers.BertConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=2, vocab_size=512))

def nothing():
    return None

def no_loss():
    return nn.Linear(2, 2), lambda batch: torch.ones(batch)

def failing():
    return nn.Linear(2, 2), lambda batch: torch.ones(1, 2) @ torch.ones(3, 1)

def demanding(size):
    pass

value = 5
"""


@pytest.fixture
def functions(tmp_path: Path) -> str:
    path = tmp_path / "programs.py"
    path.write_text(FUNCTIONS)
    return str(path)


@pytest.mark.usefixtures("without_search")
def test_a_function_gives_a_model_and_its_loss(cli: Cli, functions: str) -> None:
    plain = cli.figures(f"{functions}:pair", "--batch", "1024")
    # Two weights and two biases, and each twice for the optimizer, of which each is rounded up to 512 bytes.
    assert plain["peak"]["by_category"]["parameter"] == 2 * (1024 + 512)
    assert plain["flops"]["forward"] == 2 * 2 * 1024 * 16 * 16
    longer = cli.figures(f"{functions}:pair", "--batch", "1024", "--sequence", "4", "--dtype", "bfloat16")
    assert longer["flops"]["forward"] == 4 * plain["flops"]["forward"]
    assert longer["peak"]["by_category"]["parameter"] == 2 * (512 + 512)


@pytest.mark.usefixtures("without_search")
def test_a_function_may_give_a_model_of_transformers(cli: Cli, functions: str) -> None:
    assert (
        "BertForMaskedLM, samples of 8 tokens"
        in cli.figures(f"{functions}:of_transformers", "--sequence", "8")["title"]
    )


# How it is trained


@pytest.mark.usefixtures("without_search")
def test_types_change_what_parameters_and_activations_take(cli: Cli) -> None:
    found = {dtype: cli.of_llama("--dtype", dtype, "--batch", "16") for dtype in ("float32", "bfloat16", "mixed")}
    categories = {dtype: figures["peak"]["by_category"] for dtype, figures in found.items()}
    assert categories["mixed"]["parameter"] == categories["float32"]["parameter"]
    assert categories["bfloat16"]["parameter"] < 0.6 * categories["float32"]["parameter"]
    assert found["bfloat16"]["allocated"] < found["mixed"]["allocated"] < found["float32"]["allocated"]


@pytest.mark.usefixtures("without_search")
@pytest.mark.parametrize(
    ("optimizer", "copies"), [("sgd", 0), ("sgd-momentum", 1), ("adam:fused", 2), ("adamw:for-loop", 2), ("rmsprop", 1)]
)
def test_optimizers_keep_copies_of_the_parameters(cli: Cli, optimizer: str, copies: int) -> None:
    categories = cli.of_llama("--optimizer", optimizer)["peak"]["by_category"]
    # Adam's numbers of steps are a few bytes each.
    assert categories.get("optimizer state", 0) // categories["parameter"] == copies


@pytest.mark.usefixtures("without_search")
def test_checkpointing_takes_less_memory_and_more_operations(cli: Cli) -> None:
    none, selective, full = (
        cli.of_llama("--checkpointing", kind, "--batch", "8") for kind in ("none", "selective", "full")
    )
    assert none["allocated"] > selective["allocated"] > full["allocated"]
    assert none["flops"]["step"] < selective["flops"]["step"] < full["flops"]["step"]
    assert not any("_checkpoint" in name for name in full["peak"]["by_module"])


@pytest.mark.usefixtures("without_search")
def test_fsdp_shards_parameters_and_says_what_it_sends(cli: Cli) -> None:
    whole, sharded = cli.of_llama(), cli.of_llama("--fsdp", "8", "--rank", "7")
    categories = sharded["peak"]["by_category"]
    assert categories["parameter"] < whole["peak"]["by_category"]["parameter"] / 6
    gathered, scattered = sharded["collectives"]
    if "all" not in gathered["operator"]:
        gathered, scattered = scattered, gathered
    numbers = parameters_of("llama")
    assert (gathered["operator"], gathered["group"], gathered["ranks"]) == ("c10d::_allgather_base_", "fsdp", 8)
    assert (gathered["dtype"], scattered["dtype"]) == ("bfloat16", "float32")
    # Two layers and the rest; the root stays gathered until the backward pass.
    assert (gathered["calls"], scattered["calls"]) == (5, 3)
    assert scattered["bytes"] == pytest.approx(4 * numbers, rel=0.01)
    assert not torch.distributed.is_initialized()


@pytest.mark.usefixtures("without_search")
def test_tensor_parallelism_splits_layers_and_says_what_it_sends(cli: Cli) -> None:
    # Torch does not take DTensors and others for one fused step.
    whole, split = cli.of_llama(), cli.of_llama("--tensor-parallel", "2", "--optimizer", "adamw:fused")
    assert split["flops"]["step"] == pytest.approx(whole["flops"]["step"] / 2, rel=0.02)
    assert split["peak"]["by_category"]["parameter"] < whole["peak"]["by_category"]["parameter"]
    reductions = [row for row in split["collectives"] if row["operator"] == "_c10d_functional::all_reduce"]
    assert {(row["group"], row["ranks"]) for row in reductions} == {("tensor", 2)}
    # Forward for the attention and the MLP of both layers, and backward for what goes into these.
    assert sum(row["calls"] for row in reductions) >= 8


@pytest.mark.usefixtures("without_search")
def test_both_kinds_of_parallelism_go_together(cli: Cli) -> None:
    found = cli.of_llama("--tensor-parallel", "2", "--fsdp", "2", "--rank", "3", "--checkpointing", "full")
    assert {row["group"] for row in found["collectives"]} == {"fsdp", "tensor"}


@pytest.mark.usefixtures("without_search")
def test_an_embedding_that_shares_its_weight_still_does_under_tensor_parallelism(cli: Cli) -> None:
    sizes = []
    for is_tied in (False, True):
        path = cli.config("llama", tie_word_embeddings=is_tied)
        found = cli.figures("--config", path, "--sequence", "8", "--tensor-parallel", "2", "--dtype", "float32")
        sizes.append(found["peak"]["by_category"]["parameter"])
    # The embedding was whole, and is now the half that the head has.
    assert sizes[0] - sizes[1] == 512 * 64 * 4


# What is told


def test_the_largest_batch_is_one_that_fits_and_one_more_does_not(cli: Cli) -> None:
    common = ("--device-memory", "1GB", "--optimizer", "sgd", "--sequence", "2048", "--batch")
    largest = cli.of_llama(*common, "2")["largest_batch"]
    assert 2 < largest < 100
    assert cli.of_llama(*common, str(largest))["fits"]
    assert not cli.of_llama(*common, str(largest + 1))["fits"]


@pytest.mark.usefixtures("without_search")
def test_tables_end_with_whether_it_fits(cli: Cli) -> None:
    assert main(["memory", "--config", cli.config("llama"), "--sequence", "8", "--fsdp", "2"]) == 0
    output = cli.capsys.readouterr()
    assert output.err == ""
    for part in ("optimizer state", "model.layers.*", "reserved", "At the peak: ", "FLOP forward", "_allgather_base_"):
        assert part in output.out
    assert output.out.splitlines()[-1].startswith("Fits in 80.00 GiB")
    assert main(["memory", "--config", cli.config("llama"), "--device-memory", "515MB"]) == 0
    assert cli.capsys.readouterr().out.splitlines()[-1].startswith("Does not fit in 515.00 MiB: ")


@pytest.mark.usefixtures("without_search")
def test_the_cpu_has_no_allocator_of_cudas(cli: Cli) -> None:
    found = cli.of_llama("--device", "cpu", "--device-memory", "2GB")
    assert (found["device"], found["reserved"]) == ("cpu", found["allocated"])


@pytest.mark.usefixtures("without_search")
def test_files_are_written(cli: Cli) -> None:
    pytest.importorskip("plotly")
    names = {option: str(cli.folder / f"out{option}") for option in ("--json", "--html", "--snapshot")}
    options = [part for pair in names.items() for part in pair]
    assert main(["memory", "--config", cli.config("llama"), "--sequence", "8", *options]) == 0
    assert json.loads(Path(names["--json"]).read_text())["peak"]["reached_by"]["line"]
    assert "optimizer state" in Path(names["--html"]).read_text()
    assert pickle.loads(Path(names["--snapshot"]).read_bytes())["segments"]


# Wrong input


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "fastfake memory: name what is to be trained: either --config FILE or MODULE:FUNCTION"),
        (["--config", "absent.json"], "absent.json: cannot read the config"),
        (["absent_module:f"], "cannot import absent_module: ModuleNotFoundError"),
        (["absent.py:f"], "absent.py: no such file"),
        (["json"], "'json' names no function: write it as module:function or file.py:function"),
        (["json:absent"], "json has no function absent"),
        (["json:loads"], "json:loads has to be callable without arguments"),
        (["json:f", "--device-memory", "80XB"], "'80XB' is no amount of memory"),
        (["json:f", "--device-memory", "0"], "has to be more than nothing"),
        (["json:f", "--batch", "0"], "has to be a positive integer, not '0'"),
        (["json:f", "--rank", "1"], "--rank 1: there is rank 0 alone"),
        (["json:f", "--fsdp", "2", "--rank", "2"], "--rank 2: there are ranks 0 to 1"),
        (["json:f", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["json:f", "--json", "absent/out.json"], "absent/out.json: cannot be written: no such folder"),
        (["json:f", "--snapshot", "out", "--device", "cpu"], "--snapshot is of CUDA's allocator"),
    ],
)
def test_wrong_arguments_are_one_line(cli: Cli, arguments: list[str], line: str) -> None:
    assert line in cli.error(*arguments)


@pytest.mark.parametrize(
    ("function", "line"),
    [
        ("nothing", "returned an object of type NoneType; it has to return a pair (model, loss)"),
        ("no_loss", "is a tensor of shape [1] without gradients, not a scalar that has gradients"),
        ("failing", "a step with --batch 1 failed: RuntimeError: "),
        ("demanding", "has to be callable without arguments"),
        ("value", "has no function value"),
    ],
)
def test_functions_that_give_something_else_are_one_line(cli: Cli, functions: str, function: str, line: str) -> None:
    assert line in cli.error(f"{functions}:{function}")


@pytest.mark.parametrize(
    ("name", "changes", "options", "line"),
    [
        ("llama", {}, ["--sequence", "4096"], "--sequence 4096 is more than the model's 2048 positions"),
        ("llama", {}, ["--device-memory", "1MB"], "a device of 1.00 MiB has less than "),
        ("llama", {}, ["--optimizer", "lion"], "--optimizer lion: there are adamw, adam"),
        ("llama", {}, ["--optimizer", "adamw:best"], "--optimizer adamw:best: there are"),
        ("llama", {}, ["--optimizer", "adafactor:fused"], "--optimizer adafactor:fused: TypeError"),
        ("llama", {}, ["--tensor-parallel", "3"], "--tensor-parallel 3: does not divide the 64 channels of "),
        ("bert", {}, ["--tensor-parallel", "2"], "BertForMaskedLM has no plan for it"),
        ("vit", {}, ["--sequence", "8"], "--sequence does not fit: vit reads images"),
        ("nameless", {"model_type": "wav2vec2"}, [], "cannot tell how wav2vec2 is trained"),
        ("bert", {"architectures": ["BertForQuestionAnswering"]}, [], "cannot tell how BertForQuestionAnswering is"),
        ("llama", {"model_type": "unheard_of"}, [], "knows no model_type 'unheard_of'"),
    ],
)
def test_what_does_not_go_with_a_config_is_one_line(
    cli: Cli, name: str, changes: dict[str, Any], options: list[str], line: str
) -> None:
    assert line in cli.error("--config", cli.config(name, **changes), *options)


def test_an_interrupt_is_code_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(estimate, "estimate", interrupt)
    assert main(["memory", "--config", cli.config("llama")]) == 130
    assert cli.capsys.readouterr().err == "fastfake memory: interrupted\n"


def test_without_native_code_one_line_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fastfake, "_C")
    assert "fastfake has no native code for the torch that is installed" in cli.error("json:f")


def test_errors_of_meta_kernels_are_not_logged(cli: Cli, functions: str, caplog: pytest.LogCaptureFixture) -> None:
    cli.error(f"{functions}:failing")
    assert caplog.records == []


def test_nothing_is_left_behind_after_an_error(cli: Cli, functions: str) -> None:
    cli.error(f"{functions}:failing", "--fsdp", "2")
    assert not torch.distributed.is_initialized()
    assert torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is None
    assert torch.get_default_dtype() is torch.float32
