"""What loops of real programs cost: elements read one by one, lengths that grow, cells of an LSTM, text that is generated.

Each side is the same code on another device; both return what they computed, so that the runs can be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

Program = Callable[[], object]


def reading(device: str) -> Program:
    """200 elements of a new tensor, read one by one."""

    def run() -> list[float]:
        return [element.item() for element in torch.arange(200.0, device=device)]

    return run


def growing(device: str) -> Program:
    """39 lengths that were never seen before, through a layer of a transformer, each run with another batch size."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, device=device).eval()
    batches = itertools.count(1).__next__

    def run() -> float:
        batch = batches()
        with torch.no_grad():
            for length in range(1, 40):
                out = layer(torch.ones(batch, length, 32, device=device)).sum()
        return float(out.item())

    return run


def training_on_lengths(device: str) -> Program:
    """19 training steps of a layer on batches of lengths that were never seen before."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 2, 64, 0.0, batch_first=True, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    batches = itertools.count(1).__next__

    def run() -> float:
        batch = batches()
        for length in range(1, 20):
            loss = layer(torch.ones(batch, length, 32, device=device)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.item())

    return run


class Cells(nn.Module):
    """Two LSTM cells on a sequence [rows, steps], and a linear layer that predicts the next value of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.linear = nn.LSTMCell(1, 51), nn.LSTMCell(51, 51), nn.Linear(51, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        h1, c1, h2, c2 = torch.zeros(4, values.size(0), 51, dtype=values.dtype, device=values.device)
        outputs = []
        for value in values.split(1, dim=1):
            h1, c1 = self.first(value, (h1, c1))
            h2, c2 = self.second(h1, (h2, c2))
            outputs.append(self.linear(h2))
        return torch.cat(outputs, dim=1)


def cells(device: str) -> Program:
    """1,000 cells, their backward pass and one fetch of the loss, as a closure of L-BFGS has them."""
    torch.manual_seed(0)
    model = Cells().double().to(device)
    values = torch.sin(torch.arange(501.0, dtype=torch.double) / 20 + torch.arange(97.0)[:, None]).to(device)

    def run() -> float:
        model.zero_grad()
        loss = nn.functional.mse_loss(model(values[:, :-1]), values[:, 1:])
        loss.backward()
        return float(loss.item())

    return run


def generating(device: str) -> Program:
    """64 tokens of greedy text by a tiny Llama of `transformers`, from a prompt whose length is new each time."""
    from transformers import LlamaConfig, LlamaForCausalLM  # late import: only this benchmark needs it

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().to(device)
    lengths = itertools.count(5).__next__

    def run() -> list[int]:
        prompt = torch.arange(lengths(), device=device)[None]
        mask = torch.ones_like(prompt)
        out = model.generate(prompt, attention_mask=mask, max_new_tokens=64, do_sample=False, pad_token_id=0)
        return [int(token) for token in out[0].tolist()]

    return run


PROGRAMS: dict[str, tuple[str, Callable[[str], Program], float]] = {
    "lengths": ("39 new lengths, an encoder layer", growing, 3.0),
    "training-lengths": ("19 new lengths, trained on", training_on_lengths, 3.0),
    "lstm": ("1,000 LSTM cells, forward and backward", cells, 1.5),
    "generate": ("64 tokens of a tiny Llama, generated", generating, 1.5),
}
