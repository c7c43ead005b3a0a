import torch
import torch.distributions as D
from torch.distributions import Normal, kl_divergence

torch.manual_seed(0)


class Shifted(Normal):
    def __init__(self, loc):
        super().__init__(loc + 1, 2.0)


x = torch.randn(2)
for d in (Normal(0.0, 1.0), D.Bernoulli(0.3), D.Gamma(2.0, 3.0), D.Categorical(logits=x), D.Uniform(-1, 1), Shifted(0.5)):
    print(d, type(d) == Normal, isinstance(d, D.Distribution), d.sample((2,)) + x.abs(), d.entropy())
print(kl_divergence(Normal(0.0, 1.0), Normal(x, 2.0)), D.Independent(Normal(x, 1.0), 1).log_prob(torch.zeros(2)))
print(D.TransformedDistribution(Normal(0.0, 1.0), [D.transforms.AffineTransform(1.0, 2.0)]).rsample((2,)))
