"""Every way to draw, by a library and by the script in turn: each continues where the other left off."""

import types

import torch

library = types.ModuleType("library")
exec("import torch, torch.nn.utils.prune, torch.utils.checkpoint", library.__dict__)


def attention(torch):
    q = torch.ones(1, 2, 4, 4)
    return torch.nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5)


def checkpointed(torch):
    x = torch.ones(6, requires_grad=True)
    y = torch.utils.checkpoint.checkpoint(lambda t: torch.nn.functional.dropout(t) * t, x, use_reentrant=False)
    y.sum().backward()
    return x.grad


def forked(torch):
    with torch.random.fork_rng():
        x = torch.rand(2)
    return x + torch.rand(2)


DRAWS = [
    lambda torch: torch.rand(3),
    lambda torch: torch.randn(3),  # an odd count leaves a normal number in the generator's state
    lambda torch: torch.randn(40),
    lambda torch: torch.randn(2, dtype=torch.complex64).real,
    lambda torch: torch.randint(9, (3,)),
    lambda torch: torch.randint_like(torch.ones(3), 2, 9),
    lambda torch: torch.randperm(7),
    lambda torch: torch.rand_like(torch.ones(2)) + torch.randn_like(torch.ones(2)),
    lambda torch: torch.normal(torch.zeros(3), torch.ones(3)),
    lambda torch: torch.normal(torch.zeros(3), 2.0) + torch.normal(1.0, torch.ones(3)) + torch.normal(0.0, 1.0, (3,)),
    lambda torch: torch.bernoulli(torch.full((4,), 0.5)) + torch.bernoulli(torch.zeros(4), p=0.3),
    lambda torch: torch.empty(4).bernoulli_(0.4) + torch.empty(4).bernoulli_(torch.full((4,), 0.5)),
    lambda torch: torch.multinomial(torch.ones(5), 3),
    lambda torch: torch.poisson(torch.full((3,), 2.0)),
    lambda torch: torch.binomial(torch.full((3,), 5.0), torch.tensor(0.5)),
    lambda torch: torch.empty(3).exponential_() + torch.empty(3).geometric_(0.3),
    lambda torch: torch.empty(3).cauchy_() + torch.empty(3).log_normal_(),
    lambda torch: torch.empty(3).uniform_(1, 2) + torch.empty(3).random_() + torch.empty(3).random_(4, 9),
    lambda torch: torch.nn.functional.dropout(torch.ones(5)),
    lambda torch: torch.nn.functional.alpha_dropout(torch.ones(5), training=True),
    lambda torch: torch.nn.functional.feature_alpha_dropout(torch.ones(2, 3), training=True),
    lambda torch: torch.nn.functional.dropout2d(torch.ones(1, 4, 2, 2)),
    lambda torch: torch.nn.functional.rrelu(-torch.ones(4), training=True),
    lambda torch: torch.nn.functional.gumbel_softmax(torch.ones(4)),
    lambda torch: torch.nn.functional.fractional_max_pool2d(torch.arange(36.0).view(1, 6, 6), 2, 3),
    lambda torch: torch.distributions.Gamma(2.0, 3.0).sample((2,)),
    lambda torch: torch.distributions.Dirichlet(torch.ones(3)).sample(),
    lambda torch: torch.nn.LSTM(2, 3, 2, dropout=0.5)(torch.ones(3, 1, 2))[0],
    lambda torch: torch.nn.init.trunc_normal_(torch.empty(3)),
    lambda torch: torch.nn.init.orthogonal_(torch.empty(2, 3)),
    lambda torch: torch.nn.init.sparse_(torch.empty(4, 4), 0.5),
    lambda torch: torch.nn.Embedding(2, 2).weight,
    lambda torch: torch.quasirandom.SobolEngine(2, scramble=True).draw(2),
    lambda torch: torch.nn.utils.prune.random_structured(torch.nn.Linear(4, 4), "weight", 0.5, 0).weight,
    lambda torch: torch.tensor([list(torch.utils.data.RandomSampler(range(5)))]),
    lambda torch: torch.tensor(list(torch.utils.data.WeightedRandomSampler([1.0, 2.0], 4))),
    lambda torch: torch.tensor(torch.utils.data.random_split(range(6), [4, 2])[0].indices),
    lambda torch: torch.tensor(list(torch.utils.data.datapipes.iter.IterableWrapper(range(6)).shuffle())),
    attention,
    checkpointed,
    forked,
]
torch.manual_seed(0)
for draw in DRAWS:
    print([draw(t).tolist() for t in (library.torch, torch, torch, library.torch, torch, library.torch)])
