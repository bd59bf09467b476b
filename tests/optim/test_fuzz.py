"""A thousand random lives of an optimizer: whatever is done to it, torch's has the same parameters afterwards."""

import copy
import random

import pytest
import torch

from thalweg import optim

SETTINGS = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.5, "dampening": 0.3}, {"momentum": 0.9, "nesterov": True}],
    "Adam": [{}, {"amsgrad": True}, {"decoupled_weight_decay": True}],
    "AdamW": [{}, {"weight_decay": 0.0}],
    "NAdam": [{}, {"decoupled_weight_decay": True}],
    "RAdam": [{}],
    "Adamax": [{}],
    "Adadelta": [{}],
    "Adagrad": [{}, {"lr_decay": 0.1}],
    "RMSprop": [{}, {"centered": True}, {"momentum": 0.9}, {"centered": True, "momentum": 0.3}],
    "Rprop": [{}],
    "ASGD": [{}, {"t0": 2}],
    "Adafactor": [{}],
}
SHAPES = [(2, 3), (4,), (), (1,), (3, 2)]


class Life:
    """An optimizer of ours and torch's, on equal parameters."""

    def __init__(self, random):
        self.random = random
        self.name = random.choice(list(SETTINGS))
        self.kwargs = {"lr": 0.02, **random.choice(SETTINGS[self.name])}
        if random.random() < 0.3 and self.name != "Rprop":
            self.kwargs["weight_decay"] = 0.1
        if random.random() < 0.2:
            self.kwargs["maximize"] = True
        self.execution = random.choice([None, None, "eager"])
        self.params = [], []
        given = [self.born() for _ in range(random.randint(1, 3))]
        self.optimizers = self.made([p for p, _ in given], [q for _, q in given])

    def made(self, mine, theirs):
        ours = getattr(optim, self.name)(mine, **self.kwargs, execution=self.execution)
        return ours, getattr(torch.optim, self.name)(theirs, **self.kwargs)

    def drawn(self, shape):
        return torch.tensor([self.random.gauss(0, 1) for _ in range(torch.Size(shape).numel())]).view(shape)

    def born(self):
        start = self.drawn(self.random.choice(SHAPES))
        pair = torch.nn.Parameter(start), torch.nn.Parameter(start.clone())
        for params, p in zip(self.params, pair, strict=True):
            params.append(p)
        return pair

    # What may happen

    def step(self):
        for p, q in zip(*self.params, strict=True):
            g = None if self.random.random() < 0.15 else self.drawn(p.shape)
            p.grad, q.grad = g, g
        for optimizer in self.optimizers:
            optimizer.step()

    def save_and_load(self):
        grouped = [[group["params"] for group in o.param_groups] for o in self.optimizers]
        fresh = self.made(*([{"params": list(ps)} for ps in groups] for groups in grouped))
        crossed = self.optimizers[:: self.random.choice([1, -1])]  # each from its own, or from the other's
        for new, old in zip(fresh, crossed, strict=True):
            new.load_state_dict(copy.deepcopy(old.state_dict()))
        self.optimizers = fresh

    def new_group(self):
        lr = self.random.choice([0.01, 0.05])
        for optimizer, p in zip(self.optimizers, self.born(), strict=True):
            optimizer.add_param_group({"params": [p], "lr": lr})

    def another_lr(self):
        lr, k = self.random.choice([0.01, 0.03]), self.random.randrange(len(self.optimizers[0].param_groups))
        for optimizer in self.optimizers:
            optimizer.param_groups[k]["lr"] = lr

    def write(self):
        for params in self.params:
            params[0].data.mul_(0.5)

    def other_data(self):
        for params in self.params:
            params[-1].data = params[-1].data.clone()

    def look(self):
        assert len(self.optimizers[0].state) == len(self.optimizers[1].state)

    def copy(self):
        self.optimizers, self.params = copy.deepcopy((self.optimizers, self.params))


@pytest.fixture(autouse=True)
def double_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("hundred", range(10))
def test_whatever_happens_the_parameters_are_torchs(hundred):
    events = [Life.step] * 8 + [Life.save_and_load, Life.new_group, Life.another_lr, Life.write, Life.other_data]
    events += [Life.look, Life.copy]
    for seed in range(100 * hundred, 100 * (hundred + 1)):
        life, happened = Life(random.Random(seed)), []
        for _ in range(8):
            event = life.random.choice(events)
            happened.append(event.__name__)
            event(life)
        for p, q in zip(*life.params, strict=True):
            close = torch.allclose(p, q, rtol=1e-9, atol=1e-11)
            assert close, f"seed {seed}: {life.name} {life.kwargs} {life.execution} after {', '.join(happened)}"
