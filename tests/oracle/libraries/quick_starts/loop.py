import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
accelerator = Accelerator(gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.GELU(), nn.Linear(16, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
rows = DataLoader(TensorDataset(torch.randn(24, 6), torch.randn(24, 1)), batch_size=4, shuffle=True)
model, optimizer, rows, scheduler = accelerator.prepare(model, optimizer, rows, scheduler)
for epoch in range(2):
    for inputs, targets in rows:
        with accelerator.accumulate(model):
            loss = nn.functional.mse_loss(model(inputs), targets)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    print(epoch, accelerator.gather_for_metrics(loss).item())
accelerator.save_state("state")
before = accelerator.unwrap_model(model)[0].weight.detach().clone()
optimizer.param_groups[0]["params"][0].data.zero_()
accelerator.load_state("state")
print(torch.equal(before, accelerator.unwrap_model(model)[0].weight), before.sum().item())
