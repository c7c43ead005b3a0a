"""A forked child continues its parent's sequence, and so does the parent, independently."""

import os
import types

import torch

library = types.ModuleType("library")
exec("import torch", library.__dict__)
torch.manual_seed(0)
print(torch.rand(2).sum().item(), flush=True)
for _ in range(2):
    child = os.fork()
    if not child:
        print(library.torch.rand(2).tolist(), library.torch.randn(3).tolist(), flush=True)
        library.torch.manual_seed(1)
        print(library.torch.rand(2).tolist(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(torch.rand(2).tolist(), flush=True)
