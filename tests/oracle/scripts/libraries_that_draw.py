"""Libraries (weights, samplers, augmentations) and the script draw from one sequence, in any order."""

import itertools
import types

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from transformers import BertConfig, BertModel

library = types.ModuleType("library")
exec(
    """import torch
class Noisy(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, i): return torch.tensor([float(i)]) + torch.randn(1)
def seeded(): state = torch.get_rng_state(); torch.manual_seed(7); x = torch.randn(2); torch.set_rng_state(state); return x
def forked():
    with torch.random.fork_rng(): return torch.rand(2)
def named(): return torch.rand(2, generator=torch.default_generator)
def seeds(): torch.default_generator.manual_seed(3); return torch.randperm(5)
""",
    library.__dict__,
)
CONFIG = BertConfig(
    vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, max_position_embeddings=8
)


def weights():
    model = BertModel(CONFIG).to("cpu")
    ids = torch.tensor([[1, 2, 3]])
    out = model(ids).pooler_output  # in training mode: dropout, also inside attention
    out.sum().backward()
    return out.tolist(), model.embeddings.word_embeddings.weight.grad[1].tolist()


def loader():
    rows = TensorDataset(torch.arange(6.0))
    return [b.tolist() for (b,) in DataLoader(rows, 2, shuffle=True)], random_split(range(6), [4, 2])[0].indices


def augmented():
    return [b.tolist() for b in DataLoader(library.Noisy(), 2, shuffle=True)]


def dropout():
    return nn.functional.dropout(torch.ones(8)).tolist(), nn.Linear(2, 2).weight.tolist()


def library_calls():
    return [f().tolist() for f in (library.seeded, library.forked, library.named)] + torch.rand(2).tolist()


torch.manual_seed(0)
for order in itertools.permutations((weights, loader, augmented, dropout, library_calls), 3):
    print([step() for step in order])
state = torch.get_rng_state()
print(library.seeds().tolist(), torch.rand(2).tolist(), library.seeds().tolist(), library.named().tolist())
torch.set_rng_state(state)
print(library.named().tolist(), torch.rand(2).tolist(), torch.initial_seed())
