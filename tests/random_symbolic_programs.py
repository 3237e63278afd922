"""Random programs over tensors with symbolic sizes, run alike with and without a cache.

Each runs in two worlds step by step: two modes with a ShapeEnv each, of which one has a cache. Between calls the
ShapeEnvs learn things. A program is made from its seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from opinfo.random_programs import COMPUTATIONS, METADATA_WRITES, VIEWS, WRITES, Step
from symbolic_tensors import describe, dynamic, forget_torchs_memos, hits, shape_env_of, symbolic_mode
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv, guard_or_false, statically_known_true

from fastfake import FakeTensorMode

Picks = tuple[int, int, int]
STARTING = 5


@dataclass
class World:
    """What a program has at hand."""

    mode: FakeTensorMode
    tensors: list[Tensor] = field(default_factory=list)
    numbers: list[Any] = field(default_factory=list)

    def tensor(self, pick: int) -> Tensor:
        """Often one of the first ones, so that calls and facts meet."""
        several = self.tensors[:STARTING] if pick % 4 else self.tensors
        return several[pick // 4 % len(several)]

    def number(self, pick: int) -> Any:
        """A size of one of the first tensors, or some other number."""
        sizes = [size for tensor in self.tensors[:STARTING] for size in tensor.shape if isinstance(size, torch.SymInt)]
        several = sizes if pick % 4 else sizes + self.numbers
        return several[pick // 4 % len(several)]


# With sizes that are symbols. The second argument is a symbolic number.
WITH_NUMBERS: dict[str, Callable[[Tensor, Any, Picks], object]] = {
    "new_empty": lambda x, n, p: x.new_empty(n, p[0] % 3 + 1),
    "new_empty of a sum": lambda x, n, p: x.new_empty(n + p[0] % 3, n * 2),
    "narrow": lambda x, n, p: x.narrow(0, 0, n) if x.dim() else x,
    "slice": lambda x, n, p: x[:n] if x.dim() else x,
    "slice from": lambda x, n, p: x[n - 1 :] if x.dim() else x,
    "arange": lambda x, n, p: torch.arange(n),
    "full": lambda x, n, p: torch.full([2], n),
    "full of a float": lambda x, n, p: torch.full([2], n / (p[0] % 3 + 2)),
    "scale": lambda x, n, p: x * n,
    "scale by a float": lambda x, n, p: x * (n / 7),
    "truth value": lambda x, n, p: torch.full([2], n > p[0] % 7, dtype=torch.bool),
    "view of two": lambda x, n, p: x.view(n, -1),
    "unsafe view": lambda x, n, p: torch.ops.aten._unsafe_view.default(x, [-1]),
    "expand": lambda x, n, p: x.expand(n, *x.shape),
    "repeat": lambda x, n, p: x.repeat(n, *[1] * x.dim()),
    "as_strided": lambda x, n, p: x.as_strided([n], [1]),
    "split": lambda x, n, p: x.split(n),
    "pad": lambda x, n, p: torch.nn.functional.pad(x, (0, n)),
    "like": lambda x, n, p: torch.empty(n, n + 1).t().contiguous(),
    "contiguity": lambda x, n, p: x.is_contiguous(),
}

# Of two symbolic numbers: what a ShapeEnv learns, or says.
FACTS: dict[str, Callable[[World, Any, Any, Picks], object]] = {
    "specialisation": lambda w, a, b, p: int(a),
    "equality": lambda w, a, b, p: bool(a == b),
    "order": lambda w, a, b, p: bool(a < b),
    "bound": lambda w, a, b, p: bool(a < p[0] % 9 + 2),
    "checked bound": lambda w, a, b, p: torch._check(a <= p[0] % 90 + 10),
    "checked equality": lambda w, a, b, p: torch._check(a == b),
    "checked value": lambda w, a, b, p: torch._check(a == p[0] % 5),
    "checked sum": lambda w, a, b, p: torch._check(a + b > p[0] % 4),
    "divisibility": lambda w, a, b, p: bool(a % (p[0] % 3 + 2) == 0),
    "checked divisibility": lambda w, a, b, p: torch._check(a % (p[0] % 3 + 2) == 0),
    "product": lambda w, a, b, p: bool(a * b > p[0] % 30),
    "question": lambda w, a, b, p: [guard_or_false(a == b), statically_known_true(a < 50)],
    "size": lambda w, a, b, p: torch._check(a >= 0),
    "unbacked": lambda w, a, b, p: w.numbers.append(_unbacked(w, p)),
    "number": lambda w, a, b, p: w.numbers.append(a + b if p[0] % 2 else a * (p[1] % 3 + 2)),
    "unbacked tensor": lambda w, a, b, p: w.tensors.append(torch.empty(_unbacked(w, p), p[1] % 3 + 1)),
    "new symbols": lambda w, a, b, p: w.tensors.append(
        dynamic(w.mode, p[0] % 3 + 3, p[1] % 3 + 3, name=f"n{len(w.tensors)}")
    ),
}


def _unbacked_size(mode: FakeTensorMode) -> Any:
    shape_env = shape_env_of(mode)
    number = shape_env.create_unbacked_symint()
    shape_env.pending_fresh_unbacked_symbols.clear()
    torch._check(number >= 0)
    return number


def _unbacked(world: World, picks: Picks) -> Any:
    number = _unbacked_size(world.mode)
    if picks[2] % 3:
        torch._check(number >= picks[2] % 3)
        torch._check(number <= 60)
    return number


# torch's C++ reads the sizes of the tensor that squeeze_ is writing sizes to, freed by then.
STEPS: dict[str, Step] = {
    name: step for name, step in {**VIEWS, **WRITES, **METADATA_WRITES, **COMPUTATIONS}.items() if name != "squeeze_"
}
KINDS: list[tuple[str, str]] = [
    *(("step", name) for name in STEPS),
    *(("number", name) for name in WITH_NUMBERS),
    *(("number", name) for name in WITH_NUMBERS),
    *(("fact", name) for name in FACTS),
    ("suppressed step", ""),
]


@dataclass(frozen=True)
class Instruction:
    kind: str
    name: str
    operands: tuple[int, int]
    picks: Picks
    repetitions: int
    suppressed: bool


def program_of(seed: int) -> list[Instruction]:
    """The instructions of a program."""
    chance = random.Random(seed)

    def pick() -> int:
        return chance.randrange(1 << 16)

    instructions: list[Instruction] = []
    calls: list[Instruction] = []
    for _ in range(chance.randrange(6, 14)):
        if calls and instructions[-1].kind == "fact":
            # Calls again, on what may be known better by now.
            instructions += chance.choices(calls, k=3)
        kind, name = chance.choice(KINDS)
        suppressed = kind == "suppressed step"
        if suppressed:
            kind, name = "step", chance.choice(list(STEPS))
        picks = pick(), pick(), pick()
        instruction = Instruction(kind, name, (pick(), pick()), picks, chance.randrange(1, 4), suppressed)
        instructions.append(instruction)
        if kind != "fact":
            calls.append(instruction)
    return instructions


def run(seed: int) -> int:
    """Run a program in both worlds and compare them after each step. Returns the number of hits."""
    program = program_of(seed)
    worlds = [_new_world(seed, cached=cached) for cached in (True, False)]
    before = hits()
    for number, instruction in enumerate(program):
        seen = []
        for world in worlds:
            # torch remembers that it could not decide something also after it learned what decides it, unless
            # something else makes it forget.
            forget_torchs_memos()
            seen.append((_execute(world, instruction), _facts(shape_env_of(world.mode))))
        if seen[0] != seen[1]:
            done = "\n".join(map(str, program[: number + 1]))
            different = "\n".join(_differences(*seen))
            raise AssertionError(f"the program of seed {seed} differs at step {number}:\n{done}\n{different}")
    return hits() - before


def _differences(remembered: object, computed: object, place: str = "") -> Iterator[str]:
    """Tell where two descriptions differ."""
    if type(remembered) is type(computed):
        if isinstance(remembered, (tuple, list)) and len(remembered) == len(computed):  # type: ignore[arg-type]
            for index, pair in enumerate(zip(remembered, computed, strict=True)):  # type: ignore[call-overload]
                yield from _differences(*pair, f"{place}[{index}]")
            return
        if isinstance(remembered, dict) and remembered.keys() == computed.keys():  # type: ignore[attr-defined]
            for key, value in remembered.items():
                yield from _differences(value, computed[key], f"{place}[{key}]")  # type: ignore[index]
            return
    if remembered != computed:
        yield f"{place}: with a cache {remembered}, without {computed}"


def _new_world(seed: int, *, cached: bool) -> World:
    chance = random.Random(seed)
    mode = symbolic_mode(cached=cached, duck_shape=chance.random() < 0.3, specialize_zero_one=chance.random() < 0.7)
    with mode:
        hints = [chance.choice((2, 3, 4, 4)) for _ in range(4)]
        tensors = [
            dynamic(mode, *hints[:2], name="a"),
            dynamic(mode, *hints[:2], name="b", static=(chance.randrange(2),)),
            dynamic(mode, hints[2], name="c"),
            dynamic(mode, *hints[1:], name="d"),
            torch.empty(_unbacked_size(mode), 3),
        ]
    return World(mode, tensors)


def _execute(world: World, instruction: Instruction) -> object:
    descriptions = []
    result: object = None
    for _ in range(instruction.repetitions):
        try:
            with world.mode:
                if instruction.suppressed:
                    with shape_env_of(world.mode).suppress_guards():
                        result = _call(world, instruction)
                else:
                    result = _call(world, instruction)
        except Exception as error:
            descriptions.append(type(error).__name__)
            break
        descriptions.append(describe(result))
    else:
        tensors = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, (tuple, list)) else []
        world.tensors += [each for each in tensors[:2] if isinstance(each, Tensor) and each.is_floating_point()]
    x = world.tensor(instruction.operands[0])
    return descriptions, describe(x)


def _call(world: World, instruction: Instruction) -> object:
    first, second = instruction.operands
    x, y = world.tensor(first), world.tensor(second)
    if instruction.kind == "step":
        return STEPS[instruction.name](x, y, instruction.picks)
    if instruction.kind == "number":
        return WITH_NUMBERS[instruction.name](x, world.number(second), instruction.picks)
    return FACTS[instruction.name](world, world.number(first), world.number(second), instruction.picks)


def _facts(shape_env: ShapeEnv) -> dict[str, object]:
    asserted = [each.expr for of_symbol in shape_env.deferred_runtime_asserts.values() for each in of_symbol]
    return {
        # torch adds a guard again that it could not conclude from itself; an answer from the cache does not.
        "guards": list(dict.fromkeys(guard.expr for guard in shape_env.guards)),
        "runtime assertions": list(dict.fromkeys(asserted)),
        # A symbol can be replaced in several steps; torch shortens the way when it goes it.
        "replacements": {symbol: shape_env.replace(symbol) for symbol in shape_env.replacements},
        "ranges": dict(shape_env.var_to_range),
        # What became a number by a replacement since, torch forgets when it next asks.
        "divisible": {
            remainder for remainder in map(shape_env.replace, shape_env.divisible) if not remainder.is_number
        },
        "size-like": set(shape_env.size_like),
        "fresh": list(shape_env.pending_fresh_unbacked_symbols),
    }
