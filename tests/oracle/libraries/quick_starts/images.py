import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

torch.manual_seed(0)
unet = UNet2DModel(
    sample_size=8,
    in_channels=3,
    out_channels=3,
    layers_per_block=1,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=4,
)
scheduler = DDPMScheduler(num_train_timesteps=100)
pipeline = DDPMPipeline(unet, scheduler)
pipeline.set_progress_bar_config(disable=True)
images = pipeline(num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="np").images
print(images.shape, images.dtype, np.asarray(images, dtype=np.float64).sum())
pipeline.save_pretrained("saved")
pipeline = DDPMPipeline.from_pretrained("saved").to("cpu")
pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
pipeline.set_progress_bar_config(disable=True)
print(np.asarray(pipeline(batch_size=2, num_inference_steps=3, output_type="np").images, dtype=np.float64).sum())

optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
for _ in range(3):
    clean, noise = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    steps = torch.randint(0, 100, (4,))
    predicted = unet(scheduler.add_noise(clean, noise, steps), steps).sample
    loss = torch.nn.functional.mse_loss(predicted, noise)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"{loss.item():.6f}")  # a gradient of a group norm may differ in its last bits: docs/limits.md
