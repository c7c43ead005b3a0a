"""Models that nobody tuned for, on several layouts, against one worker.

    python -m tests.oracle.sharding.models [MODEL...] [--layout NAME] [--steps N]

Prints a row for each model and layout: the largest relative differences of losses, of the first step's gradients and of the
parameters at the end, and the operators that were gathered because they have no rule. Exit 1 if any is too large.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

import gt
from tests.oracle.sharding.systems import Running, sharded
from tests.oracle.sharding.training import Apart, Trained, apart, train

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import transformers

F = torch.nn.functional
Backward = Callable[[int], torch.Tensor]
Build = Callable[[], tuple[torch.nn.Module, Backward]]
"""Makes a model on the workers, and what does a step's forward and backward passes."""
TOLERANCE = Apart(1e-5, 1e-5, 1e-4)

DP = """
mesh: {dp: 2}
inputs: {"*": {dp: shard(0)}}
"""
FSDP = """
mesh: {dp: 2}
params: {"**": {dp: fully_shard}}
inputs: {"*": {dp: shard(0)}}
"""


@dataclass(frozen=True)
class Model:
    """A model and its layouts in YAML, by name."""

    build: Build
    layouts: dict[str, str]
    tolerance: Apart = TOLERANCE


def numbers(step: int, *shape: int, below: int = 64) -> torch.Tensor:
    """Token ids or labels, on the workers."""
    return torch.randint(3, below, shape, generator=torch.Generator().manual_seed(step)).to("remote")


def features(step: int, *shape: int) -> torch.Tensor:
    """Numbers, on the workers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(step)).to("remote")


def backward_of(loss: Callable[[int], torch.Tensor]) -> Backward:
    """A step whose loss is given."""

    def step(number: int) -> torch.Tensor:
        found = loss(number)
        found.backward()
        return found.detach()

    return step


# -- a GPT with a fused projection of query, key and value, with biases and dropout ----------------------------------------


def gpt_block(nn: Any, width: int, heads: int, dropout: float) -> Any:
    """A block of a GPT, from modules of `torch.nn` or `gt.nn`."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.c_attn, self.attn_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.c_fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.drop = nn.Dropout(dropout)

        def forward(self, x: Any) -> Any:
            rows, tokens, _ = x.shape
            parts = self.c_attn(self.ln_1(x)).split(width, dim=2)
            q, k, v = (t.view(rows, tokens, heads, width // heads).transpose(1, 2) for t in parts)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            y = y.transpose(1, 2).contiguous().view(rows, tokens, width)
            x = x + self.drop(self.attn_proj(y))
            return x + self.drop(self.mlp_proj(nn.functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")))

    return Block()


def gpt_of(nn: Any, dropout: float = 0.1, width: int = 32) -> Any:
    """A GPT with tied embeddings."""

    class GPT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wte, self.wpe = nn.Embedding(64, width), nn.Embedding(16, width)
            self.drop = nn.Dropout(dropout)
            self.h = nn.ModuleList([gpt_block(nn, width, 4, dropout) for _ in range(2)])
            self.ln_f, self.head = nn.LayerNorm(width), nn.Linear(width, 64, bias=False)
            self.head.weight = self.wte.weight

        def forward(self, ids: Any) -> Any:
            positions = torch.arange(ids.shape[1], device=ids.device)
            x = self.drop(self.wte(ids) + self.wpe(positions))
            for block in self.h:
                x = block(x)
            return self.head(self.ln_f(x))

    return GPT()


def gpt() -> tuple[torch.nn.Module, Backward]:
    model = gpt_of(torch.nn).to("remote")
    return model, backward_of(lambda step: _next_token(model(numbers(step, 4, 16)), numbers(step, 4, 16)))


def gpt_by_the_facade() -> tuple[torch.nn.Module, Backward]:
    model = gpt_of(gt.nn)

    def loss(step: int) -> torch.Tensor:
        gt.manual_seed(step)
        ids = gt.randint(3, 64, (4, 16))
        return _next_token(model(ids), ids)

    return model, backward_of(loss)


def _next_token(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


GPT_TP = """
  "**.c_attn.{weight,bias}": {tp: "shard(0, parts=3)"}
  "**.attn_proj.weight": {tp: shard(1)}
  "**.c_fc.{weight,bias}": {tp: shard(0)}
  "**.mlp_proj.weight": {tp: shard(1)}
"""
GPT_LAYOUTS = {
    "dp2": DP,
    "fsdp2": FSDP,
    "tp2": f"mesh: {{tp: 2}}\nparams:{GPT_TP}",
    "vocabulary": f'mesh: {{tp: 2}}\nparams:\n  "wte.weight": {{tp: shard(0)}}{GPT_TP}',
    "dp2xtp2": f"mesh: {{dp: 2, tp: 2}}\nparams:{GPT_TP}\n" + 'inputs: {"*": {dp: shard(0)}}',
    "sp2": 'mesh: {sp: 2}\ninputs: {"*": {sp: shard(1)}}',
}

# -- of transformers ------------------------------------------------------------------------------------------------------


def gpt2() -> tuple[torch.nn.Module, Backward]:
    config = transformers.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config).to("remote").train()
    return model, backward_of(lambda step: model(input_ids=numbers(step, 4, 12), labels=numbers(step, 4, 12)).loss)


GPT2_TP = """
mesh: {tp: 2}
params:
  "**.c_attn.weight": {tp: "shard(1, parts=3)"}
  "**.c_attn.bias": {tp: "shard(0, parts=3)"}
  "**.attn.c_proj.weight": {tp: shard(0)}
  "**.c_fc.weight": {tp: shard(1)}
  "**.c_fc.bias": {tp: shard(0)}
  "**.mlp.c_proj.weight": {tp: shard(0)}
"""


def t5() -> tuple[torch.nn.Module, Backward]:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=64, decoder_start_token_id=0, **sizes)
    model = transformers.T5ForConditionalGeneration(config).to("remote").train()

    def loss(step: int) -> torch.Tensor:
        labels = numbers(step + 50, 4, 6)
        labels[0, 4:] = -100
        return model(input_ids=numbers(step, 4, 10), labels=labels).loss

    return model, backward_of(loss)


T5_TP = """
mesh: {tp: 2}
params:
  "**.{q,k,v,wi}.weight": {tp: shard(0)}
  "**.{o,wo}.weight": {tp: shard(1)}
  "**.relative_attention_bias.weight": {tp: shard(1)}
"""


def mixtral() -> tuple[torch.nn.Module, Backward]:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    experts = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2, "output_router_logits": True}
    model = (
        transformers.MixtralForCausalLM(transformers.MixtralConfig(vocab_size=64, **sizes, **experts)).to("remote").train()
    )
    return model, backward_of(lambda step: model(input_ids=numbers(step, 4, 10), labels=numbers(step, 4, 10)).loss)


MIXTRAL_TP = """
mesh: {tp: 2}
params:
  "**.self_attn.{q,k,v}_proj.weight": {tp: shard(0)}
  "**.self_attn.o_proj.weight": {tp: shard(1)}
  "**.experts.gate_up_proj": {tp: "shard(1, parts=2)"}
  "**.experts.down_proj": {tp: shard(2)}
"""
EXPERTS = """
mesh: {ep: 2}
params: {"**.experts.*": {ep: shard(0)}}
"""

# -- others ---------------------------------------------------------------------------------------------------------------


class Residual(torch.nn.Module):
    """A block of a ResNet."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv2 = torch.nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = torch.nn.BatchNorm2d(after), torch.nn.BatchNorm2d(after)
        self.shortcut = torch.nn.Sequential(
            torch.nn.Conv2d(before, after, 1, stride, bias=False), torch.nn.BatchNorm2d(after)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet() -> tuple[torch.nn.Module, Backward]:
    nn = torch.nn
    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    tail = [Residual(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*stem, Residual(8, 8, 1), *tail).to("remote")
    return model, backward_of(lambda step: F.cross_entropy(model(features(step, 8, 3, 16, 16)), numbers(step, 8, below=10)))


class Tagger(torch.nn.Module):
    """An LSTM in both directions over embedded ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(64, 16)
        self.lstm = torch.nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(48, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(ids))[0])


def lstm() -> tuple[torch.nn.Module, Backward]:
    model = Tagger().to("remote")

    def loss(step: int) -> torch.Tensor:
        return F.cross_entropy(model(numbers(step, 4, 9)).flatten(0, 1), numbers(step, 4, 9, below=5).flatten())

    return model, backward_of(loss)


MODELS = {
    "gpt": Model(gpt, GPT_LAYOUTS),
    "gpt facade": Model(gpt_by_the_facade, {"dp2": DP, "tp2": GPT_LAYOUTS["tp2"]}),
    "gpt2": Model(gpt2, {"dp2": DP, "tp2": GPT2_TP}),
    "t5": Model(t5, {"dp2": DP, "fsdp2": FSDP, "tp2": T5_TP}),
    "mixtral": Model(mixtral, {"dp2": DP, "fsdp2": FSDP, "tp2": MIXTRAL_TP, "ep2": EXPERTS}),
    "resnet": Model(resnet, {"dp2": DP, "fsdp2": FSDP}),
    "lstm": Model(lstm, {"dp2": DP, "fsdp2": FSDP}),
}


def run(name: str, layout: str | None, steps: int) -> Trained:
    """Train a model on a layout; without one, on one worker."""
    model = MODELS[name]
    with sharded(model.layouts[layout] if layout else None) as running:
        return _train(running, model, steps)


def _train(running: Running, model: Model, steps: int) -> Trained:
    torch.manual_seed(0)
    module, backward = model.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, eps=1e-4)
    shown = train(module, optimizer, steps, backward, running.collectives, clip=1.0)
    if running.planner is not None:
        shown.gathered = {**dict.fromkeys(running.planner.solver.underivable, 0), **running.planner.unruled}
    return shown


def too_far(found: Apart, allowed: Apart) -> bool:
    return not (found.loss <= allowed.loss and found.gradient <= allowed.gradient and found.parameter <= allowed.parameter)


def compare(names: Iterable[str], only: str | None, steps: int) -> Iterable[tuple[str, str, Apart, Trained]]:
    for name in names:
        wanted = run(name, None, steps)
        for layout in MODELS[name].layouts:
            if only in (None, layout):
                got = run(name, layout, steps)
                yield name, layout, apart(got, wanted), got


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--layout")
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    began, failed = time.perf_counter(), 0
    print(f"{'model':10} {'layout':10} loss    grads   params  collectives of a step, and what was gathered")
    for name, layout, found, got in compare(given.models or MODELS, given.layout, given.steps):
        bad = too_far(found, MODELS[name].tolerance)
        failed += bad
        gathered = ", ".join(f"{op.removeprefix('aten::')} {n or 'view'}" for op, n in got.gathered.items())
        count = got.collectives[-1].total()
        note = f"   TOO FAR: {found.worst}" if bad else ""
        print(f"{name:10} {layout:10} {found} {count:3} {gathered}{note}", flush=True)
    print(f"{failed} too far apart, in {time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
