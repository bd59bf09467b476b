import torch

from thalweg.core.refreshed import refreshed


def refuse():
    raise AssertionError("not due")


def test_what_is_not_due_is_not_made():
    old = (torch.zeros(2), None)
    assert refreshed(False, refuse, old) is old
    assert refreshed(1 > 2, refuse, old) is old


def test_in_a_batch_each_member_has_its_own_time():
    due = torch.tensor([True, False])
    made = torch.vmap(lambda due: refreshed(due, lambda: (torch.ones(2), None), (torch.zeros(2), None))[0])(due)
    assert torch.equal(made, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
