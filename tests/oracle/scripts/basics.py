import torch

torch.manual_seed(0)
x = torch.randn(3, 4)
print(x, x.sum(), x.mean(0), x.T.shape, x[x > 0], (x @ x.T).max().item())
print(torch.arange(5), torch.tensor([1, 2]) / 3, torch.zeros(2, dtype=torch.bool), torch.linspace(0, 1, 3), torch.eye(2))
print(torch.rand(2), torch.randint(0, 10, (3,)), torch.randperm(5), torch.normal(0.0, 1.0, (2,)), x.requires_grad_())
print(torch.stack([x, x]).shape, torch.cat([x, x]).shape, torch.where(x > 0, x, torch.zeros_like(x)), x.numpy if 0 else 0)
