"""What a process with fastfake leaves behind, others can use, with fastfake and without, and the other way round."""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import fresh_process
import pytest
import torch


@dataclass
class Compilation:
    """What happened in a process that compiled a model.

    Attributes:
        counters: torch's counters of its caches of compiled graphs.
        results: the output and the gradients.
        artifacts: what ``torch.compiler.save_cache_artifacts`` saved.
        stderr: what was written there.
    """

    counters: dict[str, int]
    results: list[torch.Tensor]
    artifacts: bytes
    stderr: str
    hits: int = field(init=False)
    misses: int = field(init=False)

    def __post_init__(self) -> None:
        self.hits = self.counters.get("autograd_cache_hit", 0)
        self.misses = self.counters.get("autograd_cache_miss", 0)


def compile_model(directory: Path, with_fastfake: bool, artifacts: bytes | None = None) -> Compilation:
    import torch._dynamo.utils

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(directory)
    with fresh_process.captured_stderr() as stderr:
        if with_fastfake:
            import fastfake

            fastfake.install()
        if artifacts is not None:
            assert torch.compiler.load_cache_artifacts(artifacts) is not None
        torch.manual_seed(0)
        weight = torch.randn(4, 4, requires_grad=True)
        results = []
        for dynamic in (False, True):
            torch._dynamo.reset()
            # Without any kernel that a C++ compiler would have to build.
            run = torch.compile(lambda x, weight: x @ weight @ weight, dynamic=dynamic)
            result = run(torch.randn(3, 4), weight)
            result.sum().backward()
            results += [result.detach(), weight.grad.clone()]
        saved = torch.compiler.save_cache_artifacts()
        counters = torch._dynamo.utils.counters
        counted = {**counters["inductor"], **counters["aot_autograd"]}
        return Compilation(counted, results, saved[0] if saved else b"", stderr())


@dataclass
class Caches:
    """Compilations of the same model: four in turn with one cache, and three from the artifacts of others."""

    theirs: Compilation
    ours: Compilation
    ours_again: Compilation
    theirs_again: Compilation
    ours_from_ours: Compilation
    ours_from_theirs: Compilation
    theirs_from_ours: Compilation


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Caches:
    shared = tmp_path_factory.mktemp("shared")
    turns = [fresh_process.call(compile_model, shared, with_fastfake) for with_fastfake in (False, True, True, False)]
    theirs, ours = turns[0].artifacts, turns[1].artifacts
    loads = [(True, ours), (True, theirs), (False, ours)]
    loaded = [
        fresh_process.call(compile_model, tmp_path_factory.mktemp("loaded"), with_fastfake, artifacts)
        for with_fastfake, artifacts in loads
    ]
    return Caches(*turns, *loaded)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["ours_again", "theirs_again", "ours_from_ours"])
def test_a_process_uses_the_graphs_that_an_earlier_one_of_its_kind_compiled(caches: Caches, name: str) -> None:
    compilation = getattr(caches, name)
    assert (compilation.hits, compilation.misses) == (2, 0)
    assert compilation.counters["fxgraph_cache_hit"] == 4
    assert "fxgraph_cache_miss" not in compilation.counters


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["theirs", "ours", "ours_from_theirs", "theirs_from_ours"])
def test_a_process_compiles_what_only_another_kind_compiled(caches: Caches, name: str) -> None:
    # So that a program run without fastfake, to see what fastfake does to it, gets nothing that fastfake made.
    compilation = getattr(caches, name)
    assert (compilation.hits, compilation.misses) == (0, 2)
    assert compilation.counters["fxgraph_cache_miss"] == 4
    assert "fxgraph_cache_hit" not in compilation.counters


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Caches)])
def test_no_cache_is_bypassed_or_complained_of_and_results_are_equal(caches: Caches, name: str) -> None:
    compilation = getattr(caches, name)
    assert [counter for counter in compilation.counters if "bypass" in counter] == []
    assert compilation.stderr == ""
    torch.testing.assert_close(compilation.results, caches.theirs.results, rtol=0, atol=0)


# What a user pickles or saves.


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu().sum(0)


def save(directory: Path, with_fastfake: bool) -> None:
    if with_fastfake:
        import fastfake

        fastfake.install()
    from torch._subclasses.fake_tensor import FakeTensorMode, extract_tensor_metadata
    from torch.fx._graph_pickler import GraphPickler
    from torch.fx.experimental.proxy_tensor import make_fx

    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Model(), (torch.ones(4, 3),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, directory / "exported.pt2")
    traced, graph = (make_fx(lambda x: x.view(-1).sin() + 1, tracing_mode=mode) for mode in ("fake", "symbolic"))
    torch.save(traced(torch.ones(4, 3)), directory / "traced.pt")
    (directory / "graph").write_bytes(GraphPickler.dumps(graph(torch.ones(4, 3))))
    with FakeTensorMode() as mode:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save(Model().state_dict(), directory / "fake.pt")
        fake = mode.from_tensor(torch.ones(4, 3)[:, ::2])
    (directory / "metadata").write_bytes(pickle.dumps(extract_tensor_metadata(fake)))


def load(directory: Path, with_fastfake: bool) -> dict[str, str]:
    """Describe what a process reads that `save` wrote."""
    if with_fastfake:
        import fastfake

        fastfake.install()
    import torch._subclasses.fake_tensor as fake_tensor
    from torch.fx._graph_pickler import GraphPickler
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    assert fake_tensor.FakeTensorMode.__module__.startswith("fastfake") == with_fastfake
    exported = torch.export.load(directory / "exported.pt2")
    traced = torch.load(directory / "traced.pt", weights_only=False)
    graph = GraphPickler.loads((directory / "graph").read_bytes(), fake_tensor.FakeTensorMode(shape_env=ShapeEnv()))
    graph.recompile()
    values = [node.meta["val"] for node in graph.graph.nodes if "val" in node.meta]
    fakes = [value for value in values if isinstance(value, torch.Tensor)]
    assert fakes and {type(value) for value in fakes} == {fake_tensor.FakeTensor}
    with fake_tensor.FakeTensorMode():
        fake = torch.load(directory / "fake.pt", weights_only=False)
    assert ("fastfake" in sys.modules) == with_fastfake
    metadata = pickle.loads((directory / "metadata").read_bytes())
    return {
        "exported": f"{exported} {exported.range_constraints} {exported.module()(torch.ones(5, 3))}",
        "traced": f"{traced.code} {traced(torch.ones(4, 3))}",
        "graph": f"{graph.code} {values} {graph(torch.ones(4, 3))}",
        "fake": str({name: (type(value).__name__, value.shape, value.device) for name, value in fake.items()}),
        "metadata": str(metadata),
        "class of metadata": type(metadata).__module__,
    }


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, str]]:
    """What each kind of process read, by who wrote it and who reads."""
    kinds = {"torch": False, "fastfake": True}
    directories = {kind: tmp_path_factory.mktemp(kind) for kind in kinds}
    for kind, directory in directories.items():
        fresh_process.call(save, directory, kinds[kind])
        names = [path.name for path in directory.iterdir() if b"fastfake" in path.read_bytes()]
        assert names == (["metadata"] if kind == "fastfake" else [])
    return {
        (writer, reader): fresh_process.call(load, directories[writer], kinds[reader])
        for writer in kinds
        for reader in kinds
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", ["exported", "traced", "graph", "fake", "metadata"])
def test_what_was_saved_with_fastfake_reads_the_same_without_and_the_other_way_round(
    readings: dict[tuple[str, str], dict[str, str]], what: str
) -> None:
    assert len(readings) == 4
    assert len({reading[what] for reading in readings.values()}) == 1


@pytest.mark.exhaustive
def test_metadata_is_read_as_what_it_was_unless_fastfake_is_installed(
    readings: dict[tuple[str, str], dict[str, str]],
) -> None:
    classes = {key: reading["class of metadata"] for key, reading in readings.items()}
    assert classes == {
        ("torch", "torch"): "torch._subclasses.fake_tensor",
        ("torch", "fastfake"): "fastfake.metadata",
        ("fastfake", "torch"): "fastfake.metadata",
        ("fastfake", "fastfake"): "fastfake.metadata",
    }


# What AOTInductor packages.


def package(directory: Path, cache: Path, with_fastfake: bool) -> dict[str, str]:
    """Package an exported model; return the generated code, without the commands that compile it."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
    if with_fastfake:
        import fastfake

        fastfake.install()
    torch.manual_seed(0)
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Model(), (torch.ones(4, 3),), dynamic_shapes=({0: batch},))
    # What compiles fastest.
    options = {"aot_inductor.compile_wrapper_opt_level": "O0", "aot_inductor.precompile_headers": False}
    torch._inductor.aoti_compile_and_package(
        exported, package_path=str(directory / "model.pt2"), inductor_configs=options
    )
    with zipfile.ZipFile(directory / "model.pt2") as archive:
        return {
            name: archive.read(name).decode().partition("// Compile cmd")[0]
            for name in archive.namelist()
            if name.endswith((".cpp", ".json"))
        }


def run_package(directory: Path) -> torch.Tensor:
    return torch._inductor.aoti_load_package(str(directory / "model.pt2"))(torch.ones(5, 3))


@pytest.mark.exhaustive
def test_a_package_made_with_fastfake_has_torchs_code_and_runs_without(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    expected = fresh_process.call(package, theirs, tmp_path, False)
    assert any("class AOTInductorModel" in text for text in expected.values())
    assert fresh_process.call(package, ours, tmp_path, True) == expected
    assert torch.equal(fresh_process.call(run_package, ours), fresh_process.call(run_package, theirs))
