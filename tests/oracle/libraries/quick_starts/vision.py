import numpy as np
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

torch.manual_seed(0)
np.random.seed(0)
for name, size in (("resnet10t.c3_in1k", {}), ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2})):
    model = timm.create_model(name, pretrained=False, num_classes=5, **size)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=4)
    mix, loss_of = Mixup(num_classes=5), SoftTargetCrossEntropy()
    for step in range(2):
        images, targets = mix(torch.randn(4, 3, 32, 32), torch.randint(0, 5, (4,)))
        loss = loss_of(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step(step)
        print(name, loss.item())
    model.eval()
    with torch.inference_mode():
        print(model(torch.randn(1, 3, 32, 32)).tolist())
