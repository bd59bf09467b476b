"""Hugging Face: a callback that watches Trainer, and says at the end what it saw."""

import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainingArguments

from thalweg.diagnose.adapters.transformers import Watch

pixels, labels = load_digits(return_X_y=True)
data = [
    {"pixels": torch.tensor(x / 16, dtype=torch.float32), "labels": int(y)} for x, y in zip(pixels, labels, strict=True)
]


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, pixels, labels):
        logits = self.network(pixels)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


torch.manual_seed(0)
watch = Watch(forward=lambda model, batch: model(**batch)["loss"], cost=10.0)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, num_train_epochs=4, per_device_train_batch_size=64, learning_rate=1e-7, use_cpu=True, report_to="none",
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    Trainer(Digits(), arguments, train_dataset=data, callbacks=[watch]).train()
print(f"{len(watch.monitor.history['loss'])} steps; {watch.monitor.findings()[0].name}")
