"""Inside of `fastfake.pretend` a program finds the CUDA devices that it asks for; outside nothing is different."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import fresh_process
import pytest
import torch
import torch.distributed.fsdp
import torch.testing._internal.distributed.fake_pg
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fastfake import FakeTensorMode, pretend

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a device that is there answers for itself")

GIB = 1024**3


def all_of_torch_cuda() -> dict[str, object]:
    modules = (torch.cuda, torch.cuda.random, torch.cuda.memory, torch.cuda.streams, torch.accelerator)
    return {f"{m.__name__}.{name}": value for m in modules for name, value in vars(m).items() if callable(value)}


def test_programs_find_the_devices() -> None:
    with pretend(count=8, capability=(8, 0), memory="40GB", name="A card"):
        assert torch.cuda.is_available()
        assert torch.cuda.is_initialized()
        assert torch.cuda.device_count() == torch.accelerator.device_count() == 8
        assert torch.cuda.current_device() == torch.accelerator.current_device_index() == 0
        assert torch.accelerator.is_available()
        assert torch.accelerator.current_accelerator(check_available=True) == torch.device("cuda")
        assert torch.device(3) == torch.device("cuda:3")
        properties = torch.cuda.get_device_properties(7)
        assert (properties.name, properties.major, properties.minor) == ("A card", 8, 0)
        assert properties.total_memory == 40 * GIB
        assert torch.cuda.get_device_name() == "A card"
        assert torch.cuda.get_device_capability("cuda:1") == (8, 0)
        assert torch.cuda.get_arch_list() == ["sm_80"]
        assert torch.cuda.is_bf16_supported()
        assert torch.cuda.can_device_access_peer(0, 1)


def test_no_memory_is_taken() -> None:
    with pretend(memory=1000):
        assert torch.cuda.mem_get_info() == (1000, 1000)
        assert torch.cuda.memory_allocated() == torch.cuda.max_memory_reserved() == 0
        assert torch.cuda.memory_stats() == {}
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
        torch.cuda.synchronize()


@pytest.mark.parametrize(
    ("text", "amount"), [("80GB", 80 * GIB), ("1.5 GiB", GIB * 3 // 2), ("512m", GIB // 2), ("7", 7), (7, 7)]
)
def test_memory_is_bytes_or_a_text(text: int | str, amount: int) -> None:
    with pretend(memory=text):
        assert torch.cuda.get_device_properties().total_memory == amount


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"device": "xpu"}, "only 'cuda'"),
        ({"count": 0}, "1 to 127"),
        ({"count": 128}, "1 to 127"),
        ({"memory": "much"}, "no amount of memory"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_claimed(arguments: dict[str, Any], error: str) -> None:
    before = all_of_torch_cuda()
    with pytest.raises(ValueError, match=error), pretend(**arguments):
        pass
    assert all_of_torch_cuda() == before


def test_everything_is_as_before_afterwards_and_after_an_error() -> None:
    before, accelerator = all_of_torch_cuda(), torch.accelerator.current_accelerator()

    def fail() -> None:
        with pretend(), FakeTensorMode():
            torch.ones(2, device="cuda", requires_grad=True).sum().backward()
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fail()
        assert all_of_torch_cuda() == before
        assert torch.accelerator.current_accelerator() == accelerator
    with pytest.raises((AssertionError, RuntimeError)):
        torch.cuda.current_device()


def test_what_picks_a_device_for_process_groups_finds_the_claimed_ones() -> None:
    before = torch._C._get_accelerator()
    with pretend():
        assert torch._C._get_accelerator() == torch.device("cuda")
    assert torch._C._get_accelerator() == before


def test_a_second_claim_is_refused_and_the_first_one_stays() -> None:
    with pretend(count=2):
        with pytest.raises(RuntimeError, match="pretended devices already"), pretend(count=3):
            pass
        assert torch.cuda.device_count() == 2


def test_a_real_tensor_on_a_claimed_device_is_torchs_error() -> None:
    with pretend(), pytest.raises(RuntimeError):
        torch.ones(2, device="cuda")


def test_real_gradients_are_computed_meanwhile() -> None:
    with pretend():
        start = torch.ones(3, requires_grad=True)
        (start * 2 + start).sum().backward()
        assert start.grad is not None
        assert start.grad.tolist() == [3, 3, 3]


def made_on_the_current_device() -> list[Tensor]:
    module = nn.Linear(2, 2, device="cuda")
    return [torch.empty(2, device="cuda"), torch.ones(2).cuda(), torch.ones(2).to("cuda"), module.weight]


def test_tensors_are_made_on_the_current_device_also_by_remembered_calls() -> None:
    with pretend(count=3), FakeTensorMode():
        for _ in range(2):
            for index in range(3):
                with torch.cuda.device(index):
                    assert {tensor.device.index for tensor in made_on_the_current_device()} == {index}
        torch.cuda.set_device(2)
        assert {tensor.device.index for tensor in made_on_the_current_device()} == {2}
    with FakeTensorMode():
        assert {tensor.device.index for tensor in made_on_the_current_device()[:1]} == {0}


def test_each_thread_has_a_current_device() -> None:
    seen = []
    with pretend(count=2):
        torch.cuda.set_device(1)
        thread = threading.Thread(target=lambda: seen.append(torch.cuda.current_device()))
        thread.start()
        thread.join()
        assert (seen, torch.cuda.current_device()) == ([0], 1)
    with pretend(count=2):
        assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("call", [torch.cuda.set_device, torch.cuda.current_stream, torch.cuda.get_rng_state])
def test_a_device_that_is_not_claimed_is_torchs_error(call: Callable[[int], object]) -> None:
    with pretend(count=2), pytest.raises(torch.AcceleratorError, match="invalid device ordinal"):
        getattr(torch.cuda, call.__name__)(2)
    with pretend(count=2), pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(2)


def test_streams_and_events_are_passed_around() -> None:
    with pretend(count=2), FakeTensorMode():
        first, second = torch.cuda.Stream(), torch.cuda.Stream(device=1, priority=-1)
        assert first != second
        assert (first.device, second.device) == (torch.device("cuda:0"), torch.device("cuda:1"))
        default = torch.cuda.current_stream()
        assert default == torch.cuda.default_stream()
        with torch.cuda.stream(second):
            assert torch.cuda.current_stream(1) == second
            assert torch.cuda.current_device() == 1
            x = torch.ones(2, device="cuda")
        assert torch.cuda.current_stream() == default
        with first:
            assert torch.cuda.current_stream() == first
        assert torch.cuda.current_stream() == default
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        end.record(first)
        first.wait_event(begin)
        first.wait_stream(second)
        x.record_stream(second)
        assert first.record_event().query()
        assert end.query()
        assert begin.elapsed_time(end) == 0
        for waiting in (first, end):
            waiting.synchronize()
        assert isinstance(first, torch.Stream)
        assert isinstance(end, torch.Event)


def test_checkpoints_save_the_state_of_random_numbers() -> None:
    with pretend(count=2), FakeTensorMode():
        torch.manual_seed(3)
        torch.cuda.manual_seed_all(3)
        assert [state.shape for state in torch.cuda.get_rng_state_all()] == [(16,), (16,)]
        for use_reentrant in (True, False):
            start = torch.ones(4, 4, device="cuda:1", requires_grad=True)
            checkpoint(nn.Dropout(), start, use_reentrant=use_reentrant).sum().backward()
            assert start.grad is not None
            assert start.grad.device == torch.device("cuda:1")


def test_autocast_is_on() -> None:
    with pretend(), FakeTensorMode():
        module, start = nn.Linear(4, 4, device="cuda"), torch.ones(2, 4, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = module(start)
        assert out.dtype == torch.bfloat16
        out.float().sum().backward()
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == torch.float32


def test_gradients_are_scaled_where_a_number_stands_for_unknown_ones() -> None:
    with pretend(), FakeTensorMode(unknown_items=0.0):
        module = nn.Linear(4, 4, device="cuda")
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cuda")
        assert scaler.is_enabled()
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(module(torch.ones(2, 4, device="cuda")).sum()).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        assert optimizer.state[module.weight]["momentum_buffer"].device == torch.device("cuda:0")


def train_a_shard() -> list[tuple[object, ...]]:
    store = torch.testing._internal.distributed.fake_pg.FakeStore()
    torch.distributed.init_process_group("fake", rank=3, world_size=64, store=store)
    with pretend(count=8):
        torch.cuda.set_device(3)
        mesh = torch.distributed.init_device_mesh("cuda", (64,))
        with FakeTensorMode():
            module = nn.Sequential(*(nn.TransformerEncoderLayer(128, 4, device="cuda") for _ in range(2)))
            for part in (*module, module):
                torch.distributed.fsdp.fully_shard(part, mesh=mesh)
            optimizer = torch.optim.AdamW(module.parameters(), fused=True)
            for _ in range(2):
                module(torch.randn(16, 4, 128, device="cuda")).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            return [
                (tuple(p.shape), tuple(p.to_local().shape), str(p.device), str(optimizer.state[p]["exp_avg"].device))
                for p in module.parameters()
            ]


def test_a_rank_of_sixty_four_trains_its_shards() -> None:
    shards = fresh_process.call(train_a_shard)
    assert ((384, 128), (6, 128), "cuda:3", "cuda:3") in shards
    assert {shard[2:] for shard in shards} == {("cuda:3", "cuda:3")}


def compile_first_of_all() -> tuple[str, ...]:
    with pretend(), FakeTensorMode():
        program = torch.compile(lambda x: x.sin() if torch.compiler.is_compiling() else x, backend="aot_eager")
        out = program(torch.empty(2, device="cuda"))
        return str(out.device), str(torch.accelerator.current_stream().device), str(torch.cuda.current_stream().device)


def test_a_process_may_compile_for_the_first_time() -> None:
    assert fresh_process.call(compile_first_of_all) == ("cuda:0",) * 3


FLASH, EFFICIENT = "ScaledDotProductFlashAttentionBackward0", "ScaledDotProductEfficientAttentionBackward0"


@pytest.mark.parametrize(
    ("capability", "dtype", "heads", "lengths", "head", "settings", "expected"),
    [
        ((8, 0), torch.bfloat16, (4, 4), (8, 8), 64, {}, FLASH),
        ((8, 0), torch.float16, (4, 4), (8, 8), 64, {"is_causal": True}, FLASH),
        ((8, 0), torch.bfloat16, (4, 2), (8, 8), 64, {"enable_gqa": True}, FLASH),
        ((7, 5), torch.float16, (4, 4), (8, 8), 64, {}, EFFICIENT),
        ((7, 5), torch.bfloat16, (4, 4), (8, 8), 64, {}, None),
        ((8, 0), torch.float32, (4, 4), (8, 8), 64, {}, EFFICIENT),
        ((8, 0), torch.float64, (4, 4), (8, 8), 64, {}, None),
        ((8, 0), torch.bfloat16, (4, 4), (8, 8), 64, {"attn_mask": True}, EFFICIENT),
        ((8, 0), torch.bfloat16, (4, 4), (4, 8), 64, {"is_causal": True}, EFFICIENT),
        ((8, 0), torch.bfloat16, (4, 4), (8, 8), 264, {}, EFFICIENT),
        ((8, 0), torch.float32, (4, 4), (8, 8), 30, {}, None),
        ((8, 0), torch.float32, (4, 2), (8, 8), 64, {"enable_gqa": True}, None),
        ((8, 0), torch.bfloat16, (4, 4), (0, 8), 64, {}, None),
    ],
)
def test_attention_takes_the_operator_that_torch_takes_on_such_a_device(
    capability: tuple[int, int],
    dtype: torch.dtype,
    heads: tuple[int, int],
    lengths: tuple[int, int],
    head: int,
    settings: dict[str, Any],
    expected: str | None,
) -> None:
    """The rules are those of torch's sdp_utils.cpp; None is for the composite of other operators."""
    with pretend(capability=capability), FakeTensorMode():
        query = torch.empty(2, heads[0], lengths[0], head, dtype=dtype, device="cuda", requires_grad=True)
        key, value = torch.empty(2, 2, heads[1], lengths[1], head, dtype=dtype, device="cuda").unbind()
        if "attn_mask" in settings:
            settings = {"attn_mask": torch.empty(lengths, dtype=dtype, device="cuda")}
        out = functional.scaled_dot_product_attention(query, key, value, **settings)
        name = out.grad_fn.name()
        assert (name if name in (FLASH, EFFICIENT) else None) == expected
        assert out.shape == query.shape
        out.sum().backward()
        assert query.grad is not None
        assert query.grad.shape == query.shape


def test_backends_of_attention_that_the_user_turned_off_are_not_taken() -> None:
    with pretend(), FakeTensorMode():
        query = torch.empty(2, 4, 8, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        names = []
        for backends in ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"):
            with nn.attention.sdpa_kernel(getattr(nn.attention.SDPBackend, backends)):
                names.append(functional.scaled_dot_product_attention(query, query, query).grad_fn.name())
        assert names[:2] == [FLASH, EFFICIENT]
        assert names[2] not in (FLASH, EFFICIENT)


def test_attention_is_the_composite_again_afterwards() -> None:
    def name() -> str:
        with FakeTensorMode():
            query = torch.empty(2, 4, 8, 64, dtype=torch.bfloat16, device="cuda", requires_grad=True)
            return functional.scaled_dot_product_attention(query, query, query).grad_fn.name()

    before = name()
    with pretend():
        assert name() == FLASH
    assert name() == before


OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop)
SETTINGS: tuple[dict[str, bool], ...] = ({}, {"foreach": True}, {"fused": True}, {"capturable": True})
# Those settings that torch's optimizers have.
OPTIMIZERS_AND_SETTINGS = [
    pytest.param(optimizer, settings, id=" ".join((optimizer.__name__, *settings)))
    for optimizer in OPTIMIZERS
    for settings in SETTINGS
    if settings.keys() <= inspect.signature(optimizer).parameters.keys()
]


@pytest.mark.parametrize(("optimizer", "settings"), OPTIMIZERS_AND_SETTINGS)
def test_optimizers_make_steps(optimizer: type[torch.optim.Optimizer], settings: dict[str, bool]) -> None:
    with pretend(), FakeTensorMode():
        module = nn.Linear(4, 4, device="cuda")
        made = optimizer(module.parameters(), lr=0.1, **settings)
        for _ in range(2):
            made.zero_grad()
            module(torch.ones(2, 4, device="cuda")).sum().backward()
            made.step()
        states = [value for state in made.state.values() for value in state.values() if isinstance(value, Tensor)]
        assert {value.shape for value in states} <= {(), (4, 4), (4,)}
        assert {value.device.type for value in states if value.dim()} <= {"cuda"}
