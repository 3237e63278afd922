"""Timelines that were made up: a few allocations, or training steps as large as one asks for, known to the byte."""

from __future__ import annotations

from dataclasses import replace

from fastfake.memory import Allocation, Category, Phase, Timeline

__all__ = ["allocation", "timeline_of", "training_timeline"]

LINEAR = {
    "self_attn.q_proj": (1.0, 1.0),
    "self_attn.k_proj": (1.0, 0.25),
    "self_attn.v_proj": (1.0, 0.25),
    "self_attn.o_proj": (1.0, 1.0),
    "mlp.gate_proj": (1.0, 3.5),
    "mlp.up_proj": (1.0, 3.5),
    "mlp.down_proj": (3.5, 1.0),
}
"""The linear modules of a layer, with what enters and leaves them in hidden sizes."""
NORMS = ("input_layernorm", "post_attention_layernorm")
SCRIPT, MODEL = "/home/someone/work/train.py", "/home/someone/work/models/llama.py"
STEP = f"{SCRIPT}:44 in main"


def allocation(
    number: int,
    size: int,
    born: int,
    died: int | None = None,
    *,
    device: str = "cuda:0",
    operator: str = "aten::mm",
    module: str = "layers.0",
    line: str = "/home/me/train.py:12 in forward",
    phase: Phase = Phase.FORWARD,
    category: Category = Category.ACTIVATION,
    step: int = 0,
) -> Allocation:
    """Make an allocation of so many bytes from one moment to another."""
    rounded = -(-size // 512) * 512
    return Allocation(number, device, rounded, size, born, died, operator, module, line, phase, category, step)


def timeline_of(*lives: tuple[int, int, int | None], device: str = "cuda:0") -> Timeline:
    """Make allocations of so many bytes from one moment to another."""
    return Timeline(
        [allocation(number, *life, device=device) for number, life in enumerate(lives)],
        1 + max(max(born, died or 0) for _, born, died in lives),
    )


def training_timeline(
    *,
    layers: int = 16,
    hidden: int = 4096,
    vocabulary: int = 32000,
    tokens: int = 8192,
    steps: int = 3,
    kernels: int = 6,
    checkpoint_from: int | None = None,
) -> Timeline:
    """Train a Llama on paper, in bfloat16 with AdamW.

    Args:
        layers: How many layers.
        hidden: Their width.
        vocabulary: How many tokens there are.
        tokens: How many a step takes.
        steps: How many steps to train.
        kernels: How many temporaries each linear module takes, forward and backward: for more moments.
        checkpoint_from: The first layer whose forward pass runs again in the backward pass; None for none.
    """
    training = Training(
        layers, hidden, vocabulary, tokens, kernels, layers if checkpoint_from is None else checkpoint_from
    )
    training.build()
    for _ in range(steps):
        training.run_step()
    return Timeline(training.allocations, training.moment)


class Training:
    """Writes down what a training allocates."""

    def __init__(
        self, layers: int, hidden: int, vocabulary: int, tokens: int, kernels: int, checkpoint_from: int
    ) -> None:
        self.layers, self.hidden, self.vocabulary = layers, hidden, vocabulary
        self.tokens, self.kernels, self.checkpoint_from = tokens, kernels, checkpoint_from
        self.allocations: list[Allocation] = []
        self.moment = self.step = 0
        self.phase = Phase.FORWARD
        self.weights: dict[str, float] = {}
        self.gradients: list[int] = []

    def make(self, size: float, operator: str, module: str, line: str, category: Category) -> int:
        """Note down a birth and give the allocation's number."""
        number = len(self.allocations)
        self.allocations.append(
            allocation(
                number, int(size), self.moment, operator=operator, module=module, line=line, phase=self.phase,
                category=category, step=self.step,
            )
        )  # fmt: skip
        self.moment += 1
        return number

    def give_back(self, number: int) -> None:
        self.allocations[number] = replace(self.allocations[number], died=self.moment)
        self.moment += 1

    def take_briefly(self, size: float, operator: str, module: str, line: str) -> None:
        self.give_back(self.make(size, operator, module, line, Category.TEMPORARY))

    def build(self) -> None:
        self.make_parameter("model.embed_tokens", self.vocabulary * self.hidden)
        for layer in range(self.layers):
            for name, (inward, outward) in LINEAR.items():
                self.make_parameter(f"model.layers.{layer}.{name}", inward * outward * self.hidden**2)
            for norm in NORMS:
                self.make_parameter(f"model.layers.{layer}.{norm}", self.hidden)
        self.make_parameter("lm_head", self.vocabulary * self.hidden)
        self.make(4 * 64, "aten::reciprocal", "model.rotary_emb", f"{MODEL}:88 in __init__", Category.BUFFER)

    def make_parameter(self, module: str, elements: float) -> None:
        self.weights[module] = 2 * elements
        self.make(2 * elements, "aten::empty", module, f"{SCRIPT}:20 in build", Category.PARAMETER)

    def run_step(self) -> None:
        self.phase = Phase.FORWARD
        batch = self.make(8 * self.tokens, "aten::randint", "", f"{SCRIPT}:40 in main", Category.INPUT)
        embedded = self.make(
            2 * self.tokens * self.hidden, "aten::embedding", "model.embed_tokens", f"{MODEL}:210 in forward",
            Category.ACTIVATION,
        )  # fmt: skip
        saved = [self.run_layer(layer) for layer in range(self.layers)]
        self.run_loss()
        for layer in reversed(range(self.layers)):
            self.run_layer_backward(layer, saved[layer])
        self.make_gradient("model.embed_tokens")
        self.give_back(embedded)
        self.optimize()
        self.give_back(batch)

    def run_layer(self, layer: int) -> list[int]:
        """Run forward, and give what stays for the backward pass."""
        is_dropped = layer >= self.checkpoint_from and self.phase is Phase.FORWARD
        category = Category.TEMPORARY if is_dropped else Category.ACTIVATION
        made = []
        for place, (name, (inward, outward)) in enumerate(LINEAR.items()):
            module, line = f"model.layers.{layer}.{name}", f"{MODEL}:{130 + place} in forward"
            for kernel in range(self.kernels):
                self.take_briefly(2 * self.tokens * inward * self.hidden / (2 + kernel), "aten::mul", module, line)
            made.append(self.make(2 * self.tokens * outward * self.hidden, "aten::mm", module, line, category))
        for norm in NORMS:
            module, line = f"model.layers.{layer}.{norm}", f"{MODEL}:61 in forward"
            made.append(self.make(4 * self.tokens * self.hidden, "aten::_to_copy", module, line, category))
            made.append(self.make(4 * self.tokens, "aten::rsqrt", module, line, category))
        if is_dropped:
            for number in reversed(made):
                self.give_back(number)
            return []
        return made

    def run_loss(self) -> None:
        """Run what follows the layers, forward and backward."""
        logits = 2 * self.tokens * self.vocabulary
        root, activation = "LlamaForCausalLM", Category.ACTIVATION
        product = self.make(logits, "aten::mm", "lm_head", f"{MODEL}:251 in forward", activation)
        wide = self.make(2 * logits, "aten::_to_copy", root, f"{MODEL}:255 in loss", activation)
        self.phase = Phase.BACKWARD
        softmax = self.make(2 * logits, "aten::_log_softmax_backward_data", root, STEP, Category.TEMPORARY)
        self.give_back(wide)
        self.make_gradient("lm_head")
        self.give_back(softmax)
        self.give_back(product)

    def run_layer_backward(self, layer: int, saved: list[int]) -> None:
        if layer >= self.checkpoint_from:
            self.phase = Phase.RECOMPUTATION
            saved = self.run_layer(layer)
            self.phase = Phase.BACKWARD
        for name in reversed(LINEAR):
            module, inward = f"model.layers.{layer}.{name}", LINEAR[name][0]
            for kernel in range(self.kernels):
                self.take_briefly(2 * self.tokens * inward * self.hidden / (1 + kernel), "aten::mm", module, STEP)
            self.make_gradient(module)
            self.give_back(saved.pop())
        for norm in NORMS:
            self.make_gradient(f"model.layers.{layer}.{norm}")
        while saved:
            self.give_back(saved.pop())

    def make_gradient(self, module: str) -> None:
        self.gradients.append(self.make(self.weights[module], "aten::mm", module, STEP, Category.GRADIENT))

    def optimize(self) -> None:
        self.phase = Phase.OPTIMIZER
        for module, size in self.weights.items():
            line = f"{SCRIPT}:45 in main"
            if self.step == 0:
                for _ in range(2):
                    self.make(size, "aten::zeros_like", module, line, Category.OPTIMIZER_STATE)
            self.take_briefly(size, "aten::sqrt", module, line)
        self.step += 1
        while self.gradients:
            self.give_back(self.gradients.pop())
