"""Lightning: a callback that watches training, and says at the end what it saw."""

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.diagnose.adapters.lightning import Watch

pixels, labels = load_digits(return_X_y=True)
order = labels.argsort(kind="stable")  # digit by digit, and not shuffled: that is what is wrong here
data = TensorDataset(torch.tensor(pixels[order] / 16, dtype=torch.float32), torch.tensor(labels[order]))


class Digits(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.003)


lightning.seed_everything(0, verbose=False)
watch = Watch(loss=nn.functional.cross_entropy, cost=10.0)
quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
trainer = lightning.Trainer(accelerator="cpu", max_epochs=10, callbacks=[watch], **quiet)
trainer.fit(Digits(), DataLoader(data, batch_size=64))
print(f"{len(watch.monitor.history['loss'])} steps; {watch.monitor.findings()[0].name}")
