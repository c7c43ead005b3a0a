import torch
from torch import nn
from torch.quasirandom import SobolEngine
from torch.testing import make_tensor
from torch.utils import data
from torch.utils.data.datapipes.iter import IterableWrapper
from torch.utils.data.datapipes.map import SequenceWrapper

torch.manual_seed(3)
for engine in (SobolEngine(3, scramble=True), SobolEngine(2, scramble=True, seed=5), SobolEngine(2)):
    points = engine.draw(3, dtype=torch.float64)
    print(
        engine,
        points + torch.rand(1),
        engine.draw_base2(0),
        engine.reset().draw(2),
        engine.fast_forward(2).draw(),
        type(engine),
    )
for dtype in (torch.float32, torch.int64, torch.bool, torch.complex64):
    print(make_tensor((2, 2), dtype=dtype, device="cpu") + torch.ones(2), torch.rand(1))

numbers = IterableWrapper(range(10)).shuffle()
print(list(numbers), list(numbers.batch(3)), list(SequenceWrapper(range(6)).shuffle()), torch.rand(1))
print([b.tolist() for b in data.DataLoader(numbers, 5, shuffle=True)], torch.rand(1))

own, default, weights = torch.Generator().manual_seed(4), torch.default_generator, torch.empty(2, 3)
for generator in (own, None, default):
    print([part.indices for part in data.random_split(range(6), [0.5, 0.5], generator=generator)])
    print(
        [list(s) for s in (data.RandomSampler(range(5), generator=generator), data.SubsetRandomSampler([3, 4], generator))]
    )
    print(list(data.WeightedRandomSampler([1.0, 2.0], 4, generator=generator)), torch.randperm(5, generator=generator))
    for init in (nn.init.trunc_normal_, nn.init.orthogonal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_):
        print(init(weights, generator=generator))
    print(torch.poisson(torch.ones(4), generator), torch.binomial(torch.full((4,), 5.0), torch.tensor(0.5), generator))
    print(torch.multinomial(torch.ones(4), 2, generator=generator), torch.normal(0.0, 1.0, (2,), generator=generator))
    print(torch.bernoulli(torch.full((4,), 0.5), generator=generator), torch.rand(1))
