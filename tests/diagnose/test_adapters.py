"""The monitor in other people's loops, as far as it can be shown without them."""

from types import SimpleNamespace

import torch
from torch import nn

from thalweg.diagnose.adapters.listening import Listening
from thalweg.diagnose.adapters.tensorboard import write
from thalweg.diagnose.monitor import Monitor

F = nn.functional


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 4))

    def forward(self, x, labels):
        logits = self.layers(x)
        return SimpleNamespace(loss=F.cross_entropy(logits, labels), logits=logits)


def trained(callback, steps=30):
    """The events of Hugging Face's Trainer in its order, an evaluation every tenth step among them."""
    torch.manual_seed(0)
    model = WithLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x = torch.randn(64, 8)
    y = x[:, :4].argmax(1)
    if callback:
        callback.on_train_begin(None, None, None, model=model, optimizer=optimizer, train_dataloader=None)
    for t in range(steps):
        model(x=x, labels=y).loss.backward()
        optimizer.step()
        if callback:
            callback.on_optimizer_step(None, None, None, model=model)
        optimizer.zero_grad()
        if t % 10 == 9:
            with torch.no_grad():
                loss = float(model.eval()(x=x, labels=y).loss)
            model.train()
            if callback:
                callback.on_evaluate(None, None, None, metrics={"eval_loss": loss})
    if callback:
        callback.on_train_end(None, None, None)
    return model


def test_a_callback_that_is_not_told_of_batches_hears_them_and_changes_nothing():
    watch = Listening(cost=100.0)
    having, without = trained(watch), trained(None)
    assert all(map(torch.equal, having.parameters(), without.parameters()))
    assert not having._forward_hooks and len(watch.monitor.history["loss"]) == 30
    assert len(watch.monitor.history["validation loss"]) == 3 and "noise scale" in watch.monitor.history


def test_a_writer_gets_every_figure_once_and_what_it_means():
    class Kept:
        def __init__(self):
            self.scalars, self.texts = [], []

        def add_scalar(self, tag, scalar_value, global_step):
            self.scalars.append((tag, scalar_value, global_step))

        def add_text(self, tag, text_string, global_step):
            self.texts.append((text_string, global_step))

    model, kept = nn.Linear(2, 2), Kept()
    monitor = Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1))
    monitor.step(2.0)
    after = write(monitor, kept)
    monitor.step(float("inf"))
    monitor.step(1.0)
    assert write(monitor, kept, after) == 3
    assert kept.scalars == [("monitor/loss", 2.0, 1), ("monitor/loss", 1.0, 3)]
    assert [step for _, step in kept.texts] == [3] and "inf at step 2" in kept.texts[0][0]
