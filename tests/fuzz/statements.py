"""What hostile programs are made of: lines of Python with numbers to be filled in.

A line sees what `world.World` offers: `T(i)` is one of the tensors that there are, `S(i)` a size, `N(i)` a number that
a size may be or should not be, `D(i)` a data type, `V(i)` a device; `keep(x)` adds a tensor, or those in a list, to
what `T` gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_MAKING = (
    "keep(torch.empty(N({0}), N({1}), dtype=D({2}), device=V({3})))",
    "keep(torch.empty(S({0}), dtype=D({2}), device=V({3})))",
    "keep(torch.full((S({0}), S({1})), N({2})))",
    "keep(torch.arange(N({0})))",
    "keep(torch.tensor([N({0}), 2]))",
    "keep(torch.tensor(N({0}), device='cpu' if 'cuda' in V({1}) else V({1})))",
    "keep(torch.randn(S({0}), S({1}), requires_grad=True))",
    "keep(torch.empty_strided((S({0}), S({1})), (N({2}), S({3}))))",
    "keep(torch.zeros(S({0}), S({1})).to_sparse())",
    "keep(T({0}).new_empty(S({1}), N({2})))",
    "keep(torch.empty_like(T({0}), dtype=D({1})))",
    "keep(convert(torch.ones(S({0}), S({1}))))",
    "keep(torch.nn.Parameter(T({0})))",
    "keep(T({0}).as_subclass(Plain))",
    "keep(dynamic(S({0}), S({1})))",
    "keep(torch.empty(T({0}).shape[-1], S({1})))",
)
_COMPUTING = (
    "keep(T({0}) + T({1}))",
    "keep(T({0}) * N({1}))",
    "keep(T({0}) / T({1}))",
    "keep(T({0}) @ T({1}))",
    "keep(T({0}).sum(N({1})))",
    "keep(T({0}).mean())",
    "keep(torch.cat([T({0}), T({1})], N({2})))",
    "keep(torch.stack([T({0}), T({0})], N({1})))",
    "keep(torch.where(T({0}) > 0, T({1}), T({2})))",
    "keep(torch.nn.functional.linear(T({0}), T({1})))",
    "keep(torch.nn.functional.embedding(T({0}), T({1})))",
    "keep(torch.nn.functional.softmax(T({0}), N({1})))",
    "keep(torch.nn.functional.cross_entropy(T({0}), T({1})))",
    "keep(torch.nn.functional.conv1d(T({0}), T({1}), stride=N({2})))",
    "keep(torch.nn.functional.max_pool1d(T({0}), S({1})))",
    "keep(torch.nn.functional.layer_norm(T({0}), [S({1})]))",
    "keep(torch._foreach_add([T({0}), T({1})], 1.5))",
    "keep(torch.split(T({0}), N({1}), N({2})))",
    "keep(torch.topk(T({0}), N({1}))[1])",
    "keep(torch.sort(T({0}), N({1}))[0])",
    "keep(T({0}).to(D({1})))",
    "keep(T({0}).to(V({1}) if V({1}) in ('cpu', 'meta') else 'cpu'))",
    "keep(T({0})[T({1})])",
    "keep(torch.nonzero(T({0})))",
    "keep(torch.add(T({0}), T({1}), out=T({2})))",
    "keep(aten.add.Tensor(T({0}), N({1})))",
    "keep(aten.sum.dim_IntList(T({0}), [N({1}), N({2})]))",
    "keep(T({0}) * T({1}).shape[0])",
    "keep(T({0}).new_zeros(T({1}).shape[0] + S({2})))",
    "any_operator({0}, {1}, {2}, {3})",
    "any_operator({0}, {1}, {2}, {3})",
    "any_operator({0}, {1}, {2}, {3})",
    "aten.mm.default(T({0}))",
    "aten.add.Tensor(T({0}), 'text')",
    "aten.view.default(T({0}), [None, N({1})])",
    "T({0}).item()",
    "int(T({0}))",
    "bool(T({0}))",
    "T({0}).tolist()",
    "T({0}).numpy()",
    "repr(T({0}))",
    "T({0}).data_ptr()",
    "int(T({0}).shape[0])",
    "note(T({0}).shape[0] == T({1}).shape[-1])",
    "note(bool(T({0}).numel() < N({1})))",
    "note(T({0}).is_contiguous())",
    "note(T({0}).stride(N({1})))",
    "torch._check(T({0}).shape[0] == T({1}).shape[0])",
)
_VIEWING = (
    "keep(T({0}).view(N({1}), N({2})))",
    "keep(T({0}).reshape(-1, N({1})))",
    "keep(T({0}).t())",
    "keep(T({0}).transpose(N({1}), N({2})))",
    "keep(T({0}).expand(N({1}), N({2})))",
    "keep(T({0}).unsqueeze(N({1})))",
    "keep(T({0}).squeeze())",
    "keep(T({0}).narrow(N({1}), N({2}), N({3})))",
    "keep(T({0}).select(N({1}), N({2})))",
    "keep(T({0}).unbind(N({1})))",
    "keep(T({0})[N({1}):N({2})])",
    "keep(T({0}).as_strided((S({1}), S({2})), (N({3}), 1), S({0})))",
    "keep(T({0}).detach())",
    "keep(T({0}).view(D({1})))",
    "keep(T({0}).contiguous())",
    "keep(T({0}).conj())",
    "keep(T({0}).view(T({1}).shape[0], -1))",
    "keep(T({0})[: T({1}).shape[0]])",
)
_WRITING = (
    "T({0}).add_(T({1}))",
    "T({0}).mul_(N({1}))",
    "T({0}).copy_(T({1}))",
    "T({0}).zero_()",
    "T({0})[T({1})] = T({2})",
    "T({0}).index_add_(N({1}), T({2}), T({3}))",
    "T({0}).resize_(N({1}), S({2}))",
    "T({0}).resize_as_(T({1}))",
    "T({0}).set_(T({1}))",
    "T({0}).set_(T({1}).untyped_storage(), S({2}), (S({3}),), (1,))",
    "T({0}).untyped_storage().resize_(N({1}))",
    "T({0}).data = T({1})",
    "T({0}).t_()",
    "T({0}).squeeze_()",
    "T({0}).requires_grad_()",
    "T({0}).swapdims_(0, N({1}))",
)
_DIFFERENTIATING = (
    "T({0}).sum().backward()",
    "T({0}).sum().backward(retain_graph=True)",
    "keep(torch.autograd.grad(T({0}).sum(), T({1}), allow_unused=True))",
    "keep(torch.autograd.grad(T({0}).exp().sum(), T({0}), create_graph=True))",
    "keep(T({0}).grad)",
    "T({0}).grad = T({1})",
    "T({0}).register_hook(raising)",
    "T({0}).register_hook(reentering)",
    "keep(torch.utils.checkpoint.checkpoint(torch.sin, T({0}), use_reentrant=bool(S({1}) % 2)))",
    "torch.set_grad_enabled(bool(S({0}) % 2))",
    "T({0}).register_post_accumulate_grad_hook(raising)",
    "keep(Cube.apply(T({0})))",
    "keep(Failing.apply(T({0})))",
    "with torch.autograd.graph.saved_tensors_hooks(lambda x: x, raising): keep(T({0}).exp())",
    "with torch.autograd.graph.saved_tensors_hooks(raising, raising): keep(T({0}).exp())",
    "with torch.autograd.graph.saved_tensors_hooks(lambda x: x + 0, lambda x: x * 1): keep(T({0}).exp())",
    "keep(torch.func.grad(lambda x: x.sum())(T({0})))",
    "keep(torch.func.vmap(torch.sin)(T({0})))",
    "keep(torch.func.jvp(torch.sin, (T({0}),), (T({1}),))[1])",
    "keep(torch.func.functionalize(lambda x: x.add_(1))(T({0})))",
    "make_fx(lambda x: x * 2 + N({1}))(T({0}))",
    "keep(torch.nn.Linear(S({0}), S({1}))(T({2})))",
    "torch.optim.SGD([T({0})], lr=0.1, momentum=0.9).step()",
    "torch.optim.AdamW([T({0}), T({1})], lr=0.1).step()",
)
# After these, what a tensor is like is nobody's promise: both sides only have to live on.
_CHEATING = (
    "T({0}).__class__ = Derived",
    "del T({0}).fake_mode",
    "del T({0}).fake_device",
    "T({0}).fake_mode = other_mode",
    "T({0}).fake_mode = None",
    "keep(T({0}).to(V({1})))",
    "keep(T({0}).to('cuda'))",  # which torch refuses where it was built without CUDA
    "keep(torch.empty(S({0}), S({1}), device='cuda:1', requires_grad=True))",
    "keep(torch.tensor(N({0}), device=V({1})))",  # with the value of which torch computes there
    "T({0}).constant = 3",
    "keep(torch.Tensor._make_subclass(FakeTensor, torch.empty(S({0}), device='meta')))",
    "keep(FakeTensor.__new__(FakeTensor))",
    "keep(copy.copy(T({0})))",  # which torch puts on storage of the CPU
    "copy.deepcopy(mode)",  # which has torch free twice what its constants are in
    "keep(copy.deepcopy(T({0})))",
    "keep(copy.deepcopy([T({0}), T({1})])[1])",
    "torch.utils.swap_tensors(T({0}), T({1}))",
    "T({0}).__class__ = torch.Tensor",
    "install()",
    "uninstall()",  # after which torch does not know ours by their class
    "in_thread(install)",
    "in_thread(uninstall)",
    "interrupt_soon(S({0}))",
    "interrupt_at({0}, {1}, {2} % 4)",
    "interrupt_at({0}, {1}, {2})",
    "interrupt_from_thread(S({0}), {1})",
    "enter(tools.pretend())",
    "enter(following_mode)",
    "with following_mode: keep(torch.tensor([S({0}), S({1})]) * N({2}))",
    "with following_mode: T({0}).tolist()",
)
_LIVING = (
    "T({0}).unknown_attribute = T({1})",
    "keep(FakeTensor(mode, torch.empty(S({0}), device='meta'), V({1})))",
    "keep(Wrapper(T({0})))",
    "note(deep_copied(T({0})))",
    "pickle.loads(pickle.dumps(T({0})))",
    "forget(S({0}))",
    "pickle.dumps(mode)",
    "torch.save([T({0})], io.BytesIO())",
)
_MODES = (
    "enter(mode)",
    "enter(other_mode)",
    "enter(Raising())",
    "enter(Passing())",
    "enter(torch.inference_mode())",
    "enter(torch.no_grad())",
    "enter(FunctionMode())",
    "leave()",
    "leave()",
    "mode.__exit__(None, None, None)",
    "with mode: keep(T({0}) + 1)",
    "with other_mode: keep(T({0}) * 2)",
    "with Raising(): keep(T({0}) * 2)",
    "with Passing(): keep(T({0}).sum())",
    "keep(in_generator(T({0})))",
    "keep(in_task(T({0})))",
    "keep(library.scale(T({0}), N({1})))",
    "library.broken(T({0}))",
    "keep(library.reentering(T({0})))",
    "keep(library.meddling(T({0})))",
    "library.interrupted(T({0}))",
    "enter(Meddling())",
    "with Meddling(): keep(T({0}) * 2)",
    "keep(in_tasks_that_overlap(T({0})))",
    "suspend(mode)",
    "suspend(Passing())",
    "resume()",
    "enter(torch.autocast('cpu', dtype=torch.bfloat16))",
    "enter(torch.utils._python_dispatch._disable_current_modes())",
    "with torch._subclasses.fake_tensor.unset_fake_temporarily(): keep(torch.ones(S({0}), 2))",
    "with tools.cache_operator(library.scale.default): keep(library.scale(T({0}), N({1})))",
    "with tools.track(): keep(T({0}) + 1)",
    "enter(tools.track(T({0})))",
)
_ELSEWHERE = (
    "gc.collect()",
    "FakeTensorMode.cache_clear()",
    "in_thread(FakeTensorMode.cache_clear)",
    "in_thread(gc.collect)",
    "keep(in_thread(lambda: T({0}) + 1))",
    "keep(in_thread(lambda: torch.empty(S({0}))))",
    "in_fork(lambda: T({0}) + 1)",
    "in_fork(lambda: T({0}).sum().backward())",
    "in_fork(FakeTensorMode.cache_clear)",
    "in_thread(lambda: in_fork(lambda: T({0}) + 1))",
    "go_on_in_fork()",
    "disturb(N({0}) if isinstance(N({0}), int) else 0)",
    "calm()",
    "tools.limit_cache(S({0}) * 1000)",
    "mode.cache_crosscheck_enabled = bool(S({0}) % 2)",
    "in_thread(lambda: mode.__enter__() and mode.__exit__(None, None, None))",
    "tools.enable_cache(mode, bool(S({0}) % 2))",
    "mode.allow_fallback_kernels = bool(S({0}) % 2)",
    "torch.set_default_dtype((torch.float32, torch.float64)[S({0}) % 2])",
    "torch.use_deterministic_algorithms(bool(S({0}) % 2))",
    "in_fork(uninstall)",
    "uninstalled(lambda: keep(T({0}) + T({1})))",
    "uninstalled(lambda: T({0}).sum().backward())",
    "uninstalled(lambda: keep(convert(torch.ones(S({0}), S({1})))))",
    "uninstalled(lambda: repr(T({0})))",
)

_ORDINARY = (_MAKING, _COMPUTING, _VIEWING, _WRITING)
_HOSTILE = (_DIFFERENTIATING, _LIVING, _MODES, _ELSEWHERE)


def _filled(template: str, numbers: Sequence[int]) -> str:
    return template.format(*numbers)


def _statements(*kinds: Sequence[Sequence[str]]) -> st.SearchStrategy[str]:
    numbers = st.tuples(*(st.integers(0, 23) for _ in range(4)))
    # What is ordinary is as likely as each other kind of kinds.
    lines = st.one_of(*(st.one_of(*map(st.sampled_from, kind)) for kind in kinds))
    return st.builds(_filled, lines, numbers)


def _programs(*kinds: Sequence[Sequence[str]]) -> st.SearchStrategy[list[str]]:
    beginnings: st.SearchStrategy[list[str]] = st.sampled_from(([], [], ["begin_symbolic()"]))
    # Most of hypothesis' examples are an earlier one with a part of it copied over another, but where elements have to
    # differ. What is alike in programs finds nothing, so each line has a number by which it differs.
    number = st.integers(0, 2**32)
    # A list of a given length does not lose elements when it shrinks. A line's chance does, and 0 is for none.
    chance = st.integers(0, 15)
    lines = st.tuples(number, chance, _statements(*kinds))
    # A list's own lengths are short ones, and starting a program takes longer than most of its lines.
    numbered = st.integers(1, 40).flatmap(lambda n: st.lists(lines, min_size=n, max_size=n, unique_by=_number_of))
    return st.builds(_program, beginnings, numbered)


_Line = tuple[int, int, str]


def _number_of(line: _Line) -> int:
    return line[0]


def _program(beginning: list[str], lines: Sequence[_Line]) -> list[str]:
    return [*beginning, *(statement for _, chance, statement in lines if chance)]


def programs() -> st.SearchStrategy[list[str]]:
    """Give a strategy for programs that do the same to both sides. They shrink to few and simple lines."""
    return _programs(_ORDINARY, _HOSTILE)


def cheating_programs() -> st.SearchStrategy[list[str]]:
    """Give a strategy for programs that also break what nobody may: ours has to live on, and no more."""
    return _programs(_ORDINARY, _HOSTILE, [_CHEATING])
