"""Lightning: an optimizer of thalweg in configure_optimizers, a scheduler on it, and training that resumes."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg import optim

pixels, labels = load_digits(return_X_y=True)
QUIET = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)]


def trained(epochs, ckpt_path=None):
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=epochs, enable_progress_bar=False, **QUIET)
    trainer.fit(Digits(), DataLoader(data, batch_size=64), ckpt_path=ckpt_path)
    return trainer


trained(2).save_checkpoint("half.ckpt")
model = trained(4, ckpt_path="half.ckpt").model  # goes on where the first one was
right = (model.network(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
print(f"{right:.1%} right after 4 epochs, lr {model.optimizers().param_groups[0]['lr']:.4f}")
