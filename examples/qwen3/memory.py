"""How much memory a run needs on the worker at most, computed from the model's sizes before anything is loaded.

Every term is something that model.py, loss.py, lora.py or optimizers.py makes; README.md, "Memory", has the sum. All sizes
are in bytes, and GB are 10^9 of them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from config import Config
from loss import BLOCK, FEWEST_ROWS, MOST_CHUNKS
from optimizers import GROUP_ELEMENTS, STATE
from prepared import padded

FP32, BF16 = 4, 2
"""Bytes of an element."""
INPUTS = (
    ("hidden", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("queries", ("self_attn.o_proj",)),
    ("hidden", ("mlp.gate_proj", "mlp.up_proj")),
    ("inner", ("mlp.down_proj",)),
)
"""The width of what enters a layer's linear modules, and which of them it enters."""
OUTPUTS = {"q_proj": "queries", "k_proj": "keys", "v_proj": "keys", "gate_proj": "inner", "up_proj": "inner"}
"""The widths of what leaves them; of the others: hidden."""


@dataclass(frozen=True)
class Sizes:
    """The widths of a model."""

    config: Config

    @property
    def hidden(self) -> int:
        return self.config.hidden_size

    @property
    def queries(self) -> int:
        return self.config.num_attention_heads * self.config.head_dim

    @property
    def keys(self) -> int:
        return self.config.num_key_value_heads * self.config.head_dim

    @property
    def inner(self) -> int:
        return self.config.intermediate_size

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def vocabulary(self) -> int:
        return self.config.vocab_size

    @property
    def embedding(self) -> int:
        """Parameters of the embedding, and of the head."""
        return self.vocabulary * self.hidden

    @property
    def modules(self) -> Iterator[tuple[str, int, int]]:
        """A layer's linear modules, with their widths in and out."""
        return ((name, getattr(self, width), self.width_out(name)) for width, names in INPUTS for name in names)

    def width_out(self, name: str) -> int:
        return int(getattr(self, OUTPUTS.get(name.rpartition(".")[2], "hidden")))

    @property
    def linear(self) -> int:
        """Parameters of a layer's linear modules, without biases."""
        return sum(wide * out for _, wide, out in self.modules)

    @property
    def parameters(self) -> int:
        """All of them, a tied head once."""
        norms = 2 * self.hidden + (2 * self.config.head_dim if self.config.qk_norm else 0)
        biases = self.queries + 2 * self.keys if self.config.qkv_bias else 0
        heads = 1 if self.config.tie_word_embeddings else 2
        return self.layers * (self.linear + norms + biases) + heads * self.embedding + self.hidden


@dataclass(frozen=True)
class Needed:
    """What a run needs: all the time, in a step besides that, and while a checkpoint is written."""

    weights: int
    optimizer: int
    """Its state, and the float32 copies of weights in bf16."""
    step: int
    """Gradients, activations and the loss, at the moment of a step that needs the most."""
    snapshot: int
    """What a checkpoint is written from while training goes on."""

    @property
    def peak(self) -> int:
        return self.weights + self.optimizer + self.step

    def of_each(self, workers: int) -> float:
        """The least that each of several workers needs: their share, if a sharding file divides everything."""
        return self.peak / workers

    def __str__(self) -> str:
        parts = {
            "weights": self.weights, "optimizer": self.optimizer, "gradients and activations": self.step,
        }  # fmt: skip
        told = ", ".join(f"{name} {shown(size)}" for name, size in parts.items())
        copy = f", and {shown(self.snapshot)} while a checkpoint is written" if self.snapshot else ""
        return f"up to {shown(self.peak)} ({told}){copy}"


def shown(size: float) -> str:
    """A size for people."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def needed(config: Config, given: argparse.Namespace, stored: int = BF16, is_copied: bool = True) -> Needed:
    """What a run with these options needs if its rows are as long as they may be, and every token is a target.

    stored: bytes of an element in the checkpoint's files, in which LoRA's base is held. is_copied: whether checkpoints are
    written in the background, from a copy, as GT's workers do (docs/decisions/023).
    """
    step = _Step(Sizes(config), given, stored)
    snapshot = step.trained * step.trained_element + step.optimizer if is_copied else 0
    return Needed(step.weights, step.optimizer, step.peak, snapshot)


@dataclass(frozen=True)
class _Step:
    """A training step: what exists when. Bytes per element: of float32 4, of bf16 2."""

    sizes: Sizes
    given: argparse.Namespace
    stored: int

    @property
    def tokens(self) -> int:
        """Of a micro-batch."""
        return int(self.given.batch_size) * padded(self.given.max_tokens)

    @property
    def is_autocast(self) -> bool:
        return bool(self.given.precision == "bf16-autocast")

    @property
    def element(self) -> int:
        """Of the weights, and of the stream of activations from layer to layer."""
        if self.given.precision == "bf16":
            return BF16
        return self.stored if self.given.lora else FP32

    @property
    def product(self) -> int:
        """Of what matrices are multiplied in."""
        return BF16 if self.is_autocast else self.element

    # -- what exists all the time ----------------------------------------------------------------------------------------

    def adapters(self, layer: int) -> list[tuple[str, int, int]]:
        """The modules of a layer that have an adapter, with their widths in and out."""
        if not self.given.lora:
            return []
        named = ((f"model.layers.{layer}.{name}", name, wide, out) for name, wide, out in self.sizes.modules)
        targets = self.given.lora_targets
        return [
            (name, wide, out)
            for full, name, wide, out in named
            if targets is None or any(f".{full}".endswith(f".{target}") for target in targets)
        ]

    @cached_property
    def trained(self) -> int:
        """Parameters that are trained."""
        if not self.given.lora:
            return self.sizes.parameters
        widths = (wide + out for layer in range(self.sizes.layers) for _, wide, out in self.adapters(layer))
        return int(self.given.lora_rank) * sum(widths)

    @property
    def trained_element(self) -> int:
        return FP32 if self.given.lora else self.element  # adapters are float32 whatever the base is

    @property
    def weights(self) -> int:
        base = self.element * self.sizes.parameters
        return base + FP32 * self.trained if self.given.lora else base

    @property
    def has_masters(self) -> bool:
        return self.trained_element != FP32

    @property
    def optimizer(self) -> int:
        return (len(STATE[self.given.optimizer]) + self.has_masters) * FP32 * self.trained

    # -- the moments of a step that may need the most --------------------------------------------------------------------

    @property
    def peak(self) -> int:
        return max(self.after_the_loss, self.in_the_last_layer, self.after_the_first_layer, self.in_the_optimizer)

    @property
    def after_the_loss(self) -> int:
        """All activations, the loss's last chunk, and its gradients of the head and of what the head reads."""
        return self.accumulated + self.activations + self.of_head + self.loss

    @property
    def in_the_last_layer(self) -> int:
        """As its backward pass begins. With checkpointing its activations have been computed again."""
        again = self.layer(self.sizes.layers - 1) if self.given.activation_checkpointing else 0
        kept = self.layers_kept + again
        return self.accumulated + kept + self.of_head + self.tables + self.working * self.tokens

    @property
    def after_the_first_layer(self) -> int:
        """All gradients. A tied head's is held until the embedding's, just as large, is added to it.

        A CPU's worker makes only the rows of tokens of the latter, if they are few: it needs less.
        """
        if self.given.lora:
            return self.gradients
        twice = self.element * self.sizes.embedding
        whole = self.element * self.trained
        if self.given.accumulate == 1:
            return whole + (twice if self.sizes.config.tie_word_embeddings else 0)
        return self.gradients + twice + (twice if self.sizes.config.tie_word_embeddings else 0)

    @property
    def in_the_optimizer(self) -> int:
        """All gradients; those of a group of masters are in float32 as it is stepped."""
        if not self.has_masters or self.given.accumulate > 1:
            return self.gradients
        group = min(self.trained, max(self.sizes.embedding, GROUP_ELEMENTS))
        return self.gradients + (FP32 - self.trained_element) * group

    @property
    def gradients(self) -> int:
        """Of a whole step; those of several micro-batches are added up in float32."""
        return self.trained * (FP32 if self.given.accumulate > 1 else self.trained_element)

    @property
    def accumulated(self) -> int:
        """Gradients of the micro-batches before."""
        return self.gradients if self.given.accumulate > 1 else 0

    # -- what the backward pass needs ------------------------------------------------------------------------------------

    @property
    def activations(self) -> int:
        """Everything that the forward pass leaves, the output of the last norm included."""
        stream = FP32 if self.is_autocast else self.element
        last = self.norm + stream * self.sizes.hidden
        return self.layers_kept + self.cast + self.tables + self.tokens * last

    @property
    def layers_kept(self) -> int:
        layers = range(self.sizes.layers)
        if self.given.activation_checkpointing:  # their inputs
            return len(layers) * self.tokens * self.element * self.sizes.hidden
        return sum(map(self.layer, layers))

    @property
    def cast(self) -> int:
        """Autocast's copies of the weights. Those of trained weights are held until the loss has been computed."""
        if self.given.lora or not self.given.activation_checkpointing:
            return 0  # counted with the layers
        return self.sizes.layers * self.cast_of_layer

    @property
    def cast_of_layer(self) -> int:
        return BF16 * self.sizes.linear if self.product != self.element else 0

    def layer(self, number: int) -> int:
        """What the backward pass of a layer reads."""
        has_adapter = [name for name, _, _ in self.adapters(number)]
        of_token = 2 * self.norm + self.attention + 3 * self.product * self.sizes.inner  # gate, silu(gate), up
        of_token += sum(self.inputs(width, names, has_adapter) for width, names in INPUTS)
        of_token += len(has_adapter) * int(self.given.lora_rank) * (BF16 if self.is_autocast else FP32)
        return self.tokens * of_token + self.cast_of_layer

    @property
    def norm(self) -> int:
        """Its input in float32; for the gradient of its weight also the scaled input."""
        return (FP32 + (0 if self.given.lora else self.element)) * self.sizes.hidden

    @property
    def attention(self) -> int:
        """Queries, keys, values (repeated for the query heads) and their result; what the norms of queries and keys read;
        and of each query head the logarithm of the softmax's sum."""
        found = 4 * self.product * self.sizes.queries + FP32 * self.sizes.config.num_attention_heads
        if self.sizes.config.qk_norm:
            scaled = 0 if self.given.lora else self.product
            found += (FP32 + scaled) * (self.sizes.queries + self.sizes.keys)
        return found

    def inputs(self, width: str, names: tuple[str, ...], has_adapter: list[str]) -> int:
        """What enters linear modules that read the same: once, the result of the attention being counted there.

        Autocast casts it for each of them. A frozen weight needs no input. An adapter reads it in float32: its own copy,
        unless it is in that already; dropout keeps its result, and a byte for what it dropped.
        """
        shared = 0 if width == "queries" else 1
        readers = sum(name in has_adapter for name in names)
        has_dropout = bool(self.given.lora_dropout)
        if not self.given.lora:
            of_module = len(names) if self.is_autocast and width == "hidden" else shared
            return int(getattr(self.sizes, width)) * of_module * self.product
        if self.is_autocast:
            of_adapters = readers * (BF16 + has_dropout)
        elif has_dropout or self.element != FP32:
            of_adapters = readers * (FP32 + has_dropout)
        else:
            of_adapters = shared * FP32 * bool(readers)
        return int(getattr(self.sizes, width)) * of_adapters

    @property
    def tables(self) -> int:
        """The rotary tables, of packed rows for each row, and the mask of packed rows."""
        width = padded(self.given.max_tokens)
        places = self.tokens if self.given.pack else width
        mask = self.product * self.tokens * width if self.given.pack else 0
        return 2 * self.element * places * self.sizes.config.head_dim + mask

    @property
    def working(self) -> int:
        """Of a token: two gradients as wide as the MLP, in the base's and an adapter's dtype, and two of the stream."""
        is_mixed = self.given.lora and self.product != FP32 and not self.is_autocast
        of_mlp = BF16 + FP32 if is_mixed else 2 * self.product
        return of_mlp * self.sizes.inner + 2 * self.element * self.sizes.hidden

    # -- the loss --------------------------------------------------------------------------------------------------------

    @property
    def of_head(self) -> int:
        """The gradient of the head's weight, which is made with the loss."""
        return 0 if self.given.lora else self.element * self.sizes.embedding

    @property
    def loss(self) -> int:
        """The tokens with a target, all but each row's last, their gradient in float32, and a chunk of logits."""
        stream = FP32 if self.is_autocast else self.element
        targets = self.tokens - self.given.batch_size
        chunks = min(max(targets // FEWEST_ROWS, 1), MOST_CHUNKS)
        return targets * self.sizes.hidden * (stream + FP32) + self._logits(math.ceil(targets / chunks))

    def _logits(self, chunk: int) -> int:
        """Logits in float32. Beside them: nothing, or all of them in bf16, or of a block of a weight that is cast."""
        logits = FP32 * chunk * self.sizes.vocabulary
        if self.product == FP32:
            return logits
        if self.element == self.product:
            return logits + BF16 * chunk * self.sizes.vocabulary
        return logits + BF16 * min(BLOCK, self.sizes.vocabulary) * (chunk + self.sizes.hidden)
