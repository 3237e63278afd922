"""The contents of the dispatch cache as Python sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from both_sides import assert_same
from torch._higher_order_ops.invoke_subgraph import invoke_subgraph
from torch._ops import HigherOrderOperator
from torch._subclasses._fake_tensor_utils import _CacheKeyState

import fastfake
from fastfake import cache_entries
from fastfake.metadata import extract_tensor_metadata

aten = torch.ops.aten


@pytest.fixture
def mode() -> fastfake.FakeTensorMode:
    fastfake.install()
    fastfake.FakeTensorMode.cache_clear()
    return fastfake.FakeTensorMode()


class TestKeys:
    def test_they_are_equal_where_torchs_are(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                tensors = [
                    torch.randn(4, 3),
                    torch.randn(4, 3),
                    torch.randn(4, 3, device="cuda"),
                    torch.randn(4, 3, dtype=torch.float64),
                    torch.randn(3, 4).t(),
                    torch.randn(4, 3).requires_grad_(),
                    torch.randn(5, 3)[1:],
                ]
            calls = [([t], {}) for t in tensors]
            calls += [([tensors[0], other], {"alpha": alpha}) for other in (1, 1.0, True, -1) for alpha in (1, 2)]
            keys = [mode._cache_key(_CacheKeyState(), aten.add.Tensor, args, kwargs) for args, kwargs in calls[:7]]
            keys += [mode._cache_key(_CacheKeyState(), aten.add.Scalar, args, kwargs) for args, kwargs in calls[7:]]
            return [[one == other for one in keys] for other in keys], [hash(key) == key.hashvalue for key in keys]

        assert_same(program)

    @pytest.mark.parametrize("setting", ["default dtype", "inference mode"])
    def test_they_differ_where_a_setting_of_the_thread_does(self, setting: str) -> None:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            fake = mode.from_tensor(torch.ones(2))
            keys = [mode._cache_key(_CacheKeyState(), aten.add.Scalar, [fake, 1], {})]
            if setting == "default dtype":
                torch.set_default_dtype(torch.float64)
            try:
                with torch.inference_mode(setting == "inference mode"):
                    keys.append(mode._cache_key(_CacheKeyState(), aten.add.Scalar, [fake, 1], {}))
            finally:
                torch.set_default_dtype(torch.float32)
            return keys[0] == keys[1]

        assert assert_same(program) is False

    def test_the_operator_comes_first(self) -> None:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            fake = mode.from_tensor(torch.ones(2))
            return mode._cache_key(_CacheKeyState(), aten.sin.default, [fake], {}).key[0] is aten.sin.default

        assert assert_same(program) is True

    @pytest.mark.parametrize("kind", ["real", "of another mode", "constant", "sparse"])
    def test_arguments_that_are_not_cached_are_refused_for_torchs_reason(self, kind: str) -> None:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            with mode:
                constant, sparse = torch.tensor(3), torch.empty(2).to_sparse()
            other = fakes.FakeTensorMode().from_tensor(torch.ones(2))
            tensor = {"real": torch.ones(2), "of another mode": other, "constant": constant, "sparse": sparse}[kind]
            try:
                mode._cache_key(_CacheKeyState(), aten.sin.default, [tensor], {})
            except Exception as bypass:
                return type(bypass).__name__, bypass.reason

        assert_same(program)

    def test_arguments_that_the_operator_does_not_take_have_keys_too(self) -> None:
        def program(fakes: Any) -> Any:
            with fakes.FakeTensorMode() as mode:
                fake, same, other = torch.empty(2, 3), torch.empty(2, 3), torch.empty(3)
            calls: list[tuple[list[Any], dict[str, Any]]] = [
                ([fake, "text"], {}),
                ([same, "text"], {}),
                ([other, "text"], {}),
                ([fake, "another text"], {}),
                ([fake, ["a", ("b", 1)]], {}),
                ([fake, ["a", ("b", 1.0)]], {}),
                ([fake, {"a": 1}], {}),
                ([fake, fake, 1, 1], {}),
                ([fake, fake, 1, 2], {}),
                ([fake, fake], {"unknown": 1}),
                ([fake, fake], {"unknown": 2}),
                ([fake, fake], {"self": fake}),
                ([fake, fake], {}),
            ]
            keys = [mode._cache_key(_CacheKeyState(), aten.add.Tensor, args, kwargs) for args, kwargs in calls]
            found = [key in fakes.FakeTensorMode.cache for key in keys[:-1]]
            for key in keys[:-1]:
                fakes.evict_fake_tensor_cache_key(key)
            return [[one == other for one in keys] for other in keys], found, [hash(key) for key in keys] != []

        assert_same(program)

    @pytest.mark.parametrize("kind", ["a set", "a real tensor"])
    def test_an_argument_that_no_key_can_hold_raises_what_torch_raises(self, kind: str) -> None:
        def program(fakes: Any) -> Any:
            mode = fakes.FakeTensorMode()
            fake = mode.from_tensor(torch.ones(2))
            argument: object = {1} if kind == "a set" else ["text", torch.ones(2)]
            return mode._cache_key(_CacheKeyState(), aten.add.Tensor, [fake, argument], {})

        assert_same(program)

    def test_they_compare_by_value_and_with_nothing_else(self) -> None:
        def program(fakes: Any) -> Any:
            key, same, other = (fakes._DispatchCacheKey(words) for words in ((1, 2), (1, 2), (1, 3)))
            return key == same, hash(key) == hash(same), key == other, key == (1, 2), key.key

        assert assert_same(program) == (True, True, False, False, (1, 2))


class TestView:
    def test_it_has_an_entry_for_each_call(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            fake = torch.empty(2, 3)
            for _ in range(2):
                fake.sin()
                fake.t()
        view = fastfake.FakeTensorMode.cache
        assert len(view) == fastfake.FakeTensorMode.cache_info().size == 3
        assert {key.key[0] for key in view} == {aten.empty.memory_format, aten.sin.default, aten.t.default}

    def test_the_key_of_a_call_finds_its_entry(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            fake = torch.empty(2, 3)
            result = fake.sin()
        key = cache_entries.key_of_call(mode, aten.sin.default, [fake], {})
        assert key in fastfake.FakeTensorMode.cache
        (info,) = fastfake.FakeTensorMode.cache[key].output_infos
        assert info.metadata == extract_tensor_metadata(result)
        assert (info.inplace_idx, info.view_idx) == (None, None)
        assert info.constant_value is cache_entries.SingletonConstant

    def test_looking_counts_as_nothing(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            torch.empty(2, 3)
        before = fastfake.FakeTensorMode.cache_info()
        assert len(list(fastfake.FakeTensorMode.cache.items())) == 1
        assert fastfake.FakeTensorMode.cache_info() == before

    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (lambda t: t.add_(1), {"inplace_idx": 0}),
            (lambda t: t.view(6), {"view_idx": 0}),
            (lambda t: torch.view_as_real(t.to(torch.complex64)), {"view_idx": 0}),
            (lambda t: t.is_same_size(t), {"constant_value": True}),
        ],
        ids=["in place", "view", "view of another dtype", "constant"],
    )
    def test_it_tells_how_a_result_is_made(
        self, mode: fastfake.FakeTensorMode, call: Any, expected: dict[str, Any]
    ) -> None:
        with mode:
            fake = torch.empty(2, 3)
            call(fake)
        infos = [info for entry in fastfake.FakeTensorMode.cache.values() for info in entry.output_infos]
        assert any(all(getattr(info, name) == value for name, value in expected.items()) for info in infos)

    def test_several_results_have_one_description_each(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            torch.empty(2, 3).max(dim=1)
        (entry,) = [entry for key, entry in fastfake.FakeTensorMode.cache.items() if key.key[0] is aten.max.dim]
        assert entry.is_output_tuple is True
        assert [info.metadata.dtype for info in entry.output_infos] == [torch.float32, torch.int64]

    def test_a_call_that_is_computed_each_time_has_its_reason(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            fake = torch.empty(2, 3, layout=torch.sparse_coo)
        del fake
        (entry,) = fastfake.FakeTensorMode.cache.values()
        assert entry == cache_entries._DispatchCacheBypassEntry("sparse output")

    def test_higher_order_operators_have_entries_too(self, mode: fastfake.FakeTensorMode) -> None:
        graph = torch.fx.symbolic_trace(lambda x: (x.sin(), 3))
        with mode:
            fake = torch.empty(2, 3)
            fastfake.FakeTensorMode.cache_clear()
            invoke_subgraph(graph, "name", fake)
        (key,) = [key for key in fastfake.FakeTensorMode.cache if isinstance(key.key[0], HigherOrderOperator)]
        assert key.key[0] is invoke_subgraph
        tensor, constant = fastfake.FakeTensorMode.cache[key].output_infos
        assert tensor.metadata == extract_tensor_metadata(fake)
        assert constant.constant_value == 3
        assert len(fastfake.FakeTensorMode.cache) == len(list(fastfake.FakeTensorMode.cache))

    def test_an_unknown_key_is_an_error(self, mode: fastfake.FakeTensorMode) -> None:
        with pytest.raises(KeyError):
            fastfake.FakeTensorMode.cache[cache_entries._DispatchCacheKey((1,))]


class TestEviction:
    def test_an_evicted_call_is_computed_again(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            fake = torch.empty(2, 3)
            fake.sin()
            key = cache_entries.key_of_call(mode, aten.sin.default, [fake], {})
            cache_entries.evict_fake_tensor_cache_key(key)
            assert key not in fastfake.FakeTensorMode.cache
            fake.sin()
        assert fastfake.FakeTensorMode.cache_misses == 3
        assert key in fastfake.FakeTensorMode.cache

    def test_evicting_an_unknown_key_changes_nothing(self, mode: fastfake.FakeTensorMode) -> None:
        with mode:
            torch.empty(2, 3)
        cache_entries.evict_fake_tensor_cache_key(cache_entries._DispatchCacheKey((aten.sin.default, 1)))
        assert len(fastfake.FakeTensorMode.cache) == 1
