import torch
import torch.nn as nn

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2, device=device)).to(device)
model.to(device=device, dtype=torch.float64).float()
x = torch.randn(6, 4).to(device)
hidden = torch.zeros(6, 2, device="cpu") + torch.ones_like(x, device=device)[:, :2]
out = model(x) + hidden
print(device, out, out.cpu().detach().numpy(), x.new_zeros(1, device=device) + x.to("cpu", torch.float64).sum())
kind = device.type
for cast in (torch.autocast(kind, torch.bfloat16), torch.amp.autocast("cpu"), torch.autocast(device_type=kind)):
    with cast:
        print(model(x).dtype, torch.is_autocast_enabled("cpu"))
scaler = torch.amp.GradScaler(device.type, init_scale=8.0)
print(
    scaler.scale(out.sum()), torch.as_tensor(x, device=device).sum(), torch.rand(2, generator=torch.Generator(device=device))
)
torch.save(model.state_dict(), "model.pt")
print(model.load_state_dict(torch.load("model.pt", map_location=device)), model(x.to(device)).to("cpu").detach().numpy())
torch.set_default_device(device)
print(torch.rand(2) + torch.rand(2, device="cpu"), nn.Linear(1, 1)(torch.ones(1)))
