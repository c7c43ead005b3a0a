import lightning as L
import torch
from torch import nn, utils


class AutoEncoder(L.LightningModule):
    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def training_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        loss = nn.functional.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def test_step(self, batch, batch_idx):
        x, _ = batch
        x = x.view(x.size(0), -1)
        self.log("test_loss", nn.functional.mse_loss(self.decoder(self.encoder(x)), x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


L.seed_everything(1, verbose=False)
encoder = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
decoder = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 16))
autoencoder = AutoEncoder(encoder, decoder)
rows = utils.data.TensorDataset(torch.rand(20, 4, 4), torch.arange(20))
loader = utils.data.DataLoader(rows, batch_size=5, shuffle=True)
trainer = L.Trainer(max_epochs=2, logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(model=autoencoder, train_dataloaders=loader)
print({name: value.item() for name, value in trainer.callback_metrics.items()})
print(trainer.test(autoencoder, utils.data.DataLoader(rows, 5), verbose=False))

checkpoint = trainer.checkpoint_callback.best_model_path
again = AutoEncoder.load_from_checkpoint(checkpoint, encoder=encoder, decoder=decoder, weights_only=False)
again.encoder.eval()
print(again.encoder(torch.rand(4, 4 * 4)).tolist())
trainer = L.Trainer(accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(autoencoder, loader, ckpt_path=checkpoint, weights_only=False)
print({name: value.item() for name, value in trainer.callback_metrics.items()}, encoder(torch.rand(1, 16)).tolist())
