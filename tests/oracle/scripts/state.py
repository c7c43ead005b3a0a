import copy

import torch

torch.manual_seed(3)
state = torch.get_rng_state()
a = torch.rand(2)
torch.set_rng_state(state)
print(a, torch.rand(2), torch.equal(torch.get_rng_state(), state), torch.initial_seed())
g = torch.Generator().manual_seed(5)
print(torch.rand(2, generator=g), torch.rand(2, generator=g), torch.utils.data.random_split(range(6), [4, 2])[0].indices)
with torch.random.fork_rng():
    torch.rand(3)
print(torch.rand(2))
torch.save({"generator": g.get_state()}, "state.pt")
first = torch.rand(2, generator=g)
print(torch.equal(torch.rand(2, generator=g.set_state(torch.load("state.pt")["generator"])), first))
print(g.device == first.device, torch.Generator(device=first.device).device == first.device, type(g))
print(torch.rand(2, generator=copy.deepcopy(g)), torch.rand(2, generator=g.clone_state()), torch.rand(2, generator=g))
