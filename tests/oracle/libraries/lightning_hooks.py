import lightning as L
import torch
from lightning.fabric.utilities.data import _replace_dunder_methods, _update_dataloader
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset


class Model(L.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(width, 1)

    def training_step(self, batch, i):
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, i, dataloader_idx=0):
        self.log("held_out", self.layer(batch[0]).pow(2).mean())

    def predict_step(self, batch, i):
        return self.layer(batch[0])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(data(), 4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(data(), 3)


class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(data(), 4, sampler=RandomSampler(data()))

    def val_dataloader(self):
        return [DataLoader(data(), 4), Loader(data(), name="own", batch_size=2)]


class Loader(DataLoader):
    def __init__(self, dataset, name, **kwargs):
        super().__init__(dataset, **kwargs)
        self.name = name


def data():
    return TensorDataset(torch.arange(40.0).reshape(10, 4) / 40)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(max_epochs=2, accelerator="cpu", **quiet, **options)


torch.manual_seed(0)
model, fitted = Model(), trainer()
fitted.fit(model)  # makes the loaders in hooks, while `__init__` of every class of loaders is wrapped
print({name: round(value.item(), 5) for name, value in sorted(fitted.callback_metrics.items())})
fitted = trainer(reload_dataloaders_every_n_epochs=1)
fitted.fit(model, datamodule=Data())
print({name: round(value.item(), 5) for name, value in sorted(fitted.callback_metrics.items())})
print([rows.shape for rows in trainer().predict(model, Loader(data(), "own", batch_size=4))])  # which recreates the loader
print(len(DataLoader(range(8), batch_size=4)), len(Loader(range(8), "own", batch_size=4)), list(DataLoader(range(2))))

with _replace_dunder_methods(DataLoader, "dataset"), _replace_dunder_methods(BatchSampler):
    loaders = [
        DataLoader(data(), 4),
        Loader(data(), "own", batch_size=4),
        DataLoader(data(), batch_sampler=BatchSampler(RandomSampler(data()), 4, False)),
    ]
for loader in loaders:
    anew = _update_dataloader(loader, SequentialSampler(data()))
    print(type(anew) == type(loader), getattr(anew, "name", None), anew.sampler is not loader.sampler)
    print([rows.shape for (rows,) in anew], next(iter(anew))[0].device == torch.ones(1).device)
print([name for name in dir(DataLoader) if "old" in name], DataLoader.__init__.__name__, type(DataLoader([1])) == DataLoader)
