"""`eval()` and `train()`: the answer of an averaged rule is there whenever it is asked for."""

import torch
from torch import nn

from thalweg import optim


def walked(optimizer_of=optim.ScheduleFreeSGD):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = optimizer_of([parameter], lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()
    return parameter, optimizer


def answered(parameter, optimizer):
    with optimizer.answer():
        return parameter.detach().clone()


def test_the_answer_is_the_average_and_training_goes_on_where_it_was():
    parameter, optimizer = walked()
    before = parameter.detach().clone()
    assert (answered(parameter, optimizer) - before).abs().min() > 0.01
    assert torch.equal(parameter, before)


def test_the_answer_is_still_there_after_a_look_at_the_state():
    expected = answered(*walked())
    parameter, optimizer = walked()
    optimizer.state_dict()
    optimizer.zero_grad()
    assert torch.equal(answered(parameter, optimizer), expected)


def test_the_answer_comes_out_of_a_checkpoint_without_another_step():
    expected = answered(*walked())
    parameter, optimizer = walked()
    fresh = optim.ScheduleFreeSGD([parameter], lr=0.1)
    fresh.load_state_dict(optimizer.state_dict())
    assert torch.equal(answered(parameter, fresh), expected)


def test_a_look_at_the_answer_changes_nothing_that_follows():
    (a, undisturbed), (b, optimizer) = walked(), walked()
    answered(b, optimizer)
    for parameter, own in ((a, undisturbed), (b, optimizer)):
        parameter.grad = torch.ones(3)
        own.step()
    assert torch.equal(a, b)


def test_a_subclass_keeps_its_rule():
    class Mine(optim.Lion):
        pass

    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    Mine([parameter], lr=0.5).step()
    assert parameter.tolist() == [0.5, 0.5, 0.5]
