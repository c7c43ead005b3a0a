import torch

g = torch.default_generator
print(g is torch.random.default_generator, g.device, type(g), torch.manual_seed(4) is g, g.initial_seed(), torch.rand(2))
g.manual_seed(5)
state = g.get_state()
a = torch.rand(2), torch.randn(3, generator=g), torch.empty(2).uniform_(generator=g), torch.rand(2)
g.set_state(state)
print(a, torch.rand(2), torch.randn(3), torch.initial_seed(), torch.random.initial_seed())
print(g.seed() == torch.initial_seed() == torch.random.initial_seed(), torch.manual_seed(-1) is g, torch.rand(1))
