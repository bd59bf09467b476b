"""A module as one vector."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.core.errors import NetworkError
from thalweg.core.network import Batch, Network


def batch(n: int = 6, inputs: int = 4, outputs: int = 3, dtype: torch.dtype = torch.float32) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(*(torch.randn(n, size, generator=draw, dtype=dtype) for size in (inputs, outputs)))


def module(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5) if norm else nn.Tanh(), nn.Linear(5, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.up.weight = self.down.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.up(torch.tanh(self.down(inputs)))


class HalfUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


def test_theta_is_every_parameter_end_to_end():
    plain = module()
    expected = torch.cat([p.detach().clone().reshape(-1) for p in plain.parameters()])
    assert torch.equal(Network(plain, F.mse_loss).theta, expected)


def test_writing_to_theta_writes_to_the_module_and_back():
    network = Network(module(), F.mse_loss)
    network.theta.fill_(0.5)
    assert all((p == 0.5).all() for p in network.module.parameters())
    with torch.no_grad():
        network.module[2].bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert network.theta[-3:].tolist() == [1.0, 2.0, 3.0]


def test_a_step_of_a_torch_optimizer_moves_theta():
    network = Network(module(), F.mse_loss)
    before = network.theta.clone()
    _, g = network.gradient(batch())
    for parameter, piece in zip(network.parameters, network.views(g).values(), strict=True):
        parameter.grad = piece
    torch.optim.SGD(network.module.parameters(), lr=0.1).step()
    torch.testing.assert_close(network.theta, before - 0.1 * g)


def test_views_have_the_names_and_shapes_of_the_parameters():
    network = Network(module(), F.mse_loss)
    shapes = {name: p.shape for name, p in network.module.named_parameters()}
    assert {name: view.shape for name, view in network.views(network.theta).items()} == shapes


@pytest.mark.parametrize("norm", [False, True])
def test_the_gradient_of_f_is_the_gradient(norm):
    network = Network(module(norm=norm), F.mse_loss)
    theta = network.theta.clone().requires_grad_()
    loss = network.f(theta, batch())
    (expected,) = torch.autograd.grad(loss, theta)
    value, g = network.gradient(batch())
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(g, expected)


def test_the_gradient_is_the_one_of_the_normal_equations():
    network = Network(nn.Linear(4, 1, bias=False).double(), F.mse_loss)
    x, y = batch(outputs=1, dtype=torch.float64)
    _, g = network.gradient(Batch(x, y))
    torch.testing.assert_close(g, 2 / len(x) * (x.T @ (x @ network.theta - y[:, 0])))


def test_f_leaves_parameters_and_buffers_alone():
    network = Network(module(norm=True), F.mse_loss)
    before = network.state()
    network.f(torch.zeros_like(network.theta), batch())
    assert all(torch.equal(before[name], now) for name, now in network.state().items())


def test_f_can_be_differentiated_twice():
    network = Network(nn.Linear(4, 1, bias=False).double(), F.mse_loss)
    data = batch(outputs=1, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda theta: network.f(theta, data), network.theta)
    torch.testing.assert_close(hessian, 2 / len(data) * data.inputs.T @ data.inputs)


def test_the_buffers_of_batch_normalisation_move_with_the_gradient():
    network = Network(module(norm=True), F.mse_loss)
    hidden = network.module[0](batch().inputs).detach()
    network.gradient(batch())
    torch.testing.assert_close(network.module[1].running_mean, 0.1 * hidden.mean(0))


def test_buffers_travel_in_the_state():
    network, other = Network(module(norm=True), F.mse_loss), Network(module(norm=True), F.mse_loss)
    network.gradient(batch())
    network.theta.mul_(2)
    other.load(network.state())
    assert torch.equal(other.theta, network.theta)
    assert torch.equal(other.module[1].running_var, network.module[1].running_var)
    assert torch.equal(other.outputs(batch().inputs), network.outputs(batch().inputs))


def test_a_state_is_a_copy():
    network = Network(module(), F.mse_loss)
    state = network.state()
    network.theta.zero_()
    assert state["theta"].abs().sum() > 0


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    network = Network(module(norm=True), F.mse_loss)
    state = {**network.state(), "theta": torch.zeros_like(network.theta)}
    del state["buffer.1.running_var"]
    before = network.theta.clone()
    with pytest.raises(NetworkError, match=r"the state holds nothing for buffer\.1\.running_var, the model has \(5,\)"):
        network.load(state)
    with pytest.raises(NetworkError, match=r"\(43,\) torch\.float32 for theta, the model has \(53,\)"):
        network.load({"theta": Network(module(), F.mse_loss).theta})
    assert torch.equal(network.theta, before)


def test_tied_weights_stand_in_theta_once_and_stay_tied():
    network = Network(Tied(), F.mse_loss)
    assert network.theta.shape == (16,)
    data = batch(outputs=4)
    network.theta.fill_(0.25)
    assert network.module.up.weight is network.module.down.weight
    theta = network.theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network.f(theta, data), theta)
    torch.testing.assert_close(network.gradient(data)[1], expected)


def test_frozen_parameters_are_left_out_and_stay():
    plain = module()
    plain[0].requires_grad_(False)
    kept = plain[0].weight.clone()
    network = Network(plain, F.mse_loss)
    assert network.names == ["2.weight", "2.bias"]
    network.theta.zero_()
    assert torch.equal(network.module[0].weight, kept)
    theta = network.theta.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network.f(theta, batch()), theta)
    torch.testing.assert_close(network.gradient(batch())[1], expected)


def test_an_unused_parameter_has_a_gradient_of_zero():
    network = Network(HalfUsed(), F.mse_loss)
    g = network.views(network.gradient(batch())[1])
    assert g["used.weight"].abs().sum() > 0
    assert not g["idle.weight"].any() and not g["idle.bias"].any()


def test_a_parameter_that_is_no_longer_used_has_no_gradient_left():
    network = Network(HalfUsed(), F.mse_loss)
    network.gradient(batch())
    network.module.used, network.module.idle = network.module.idle, network.module.used
    g = network.views(network.gradient(batch())[1])
    assert not g["used.weight"].any() and g["idle.weight"].any()  # by the names that they had


def test_the_gradients_of_the_module_are_left_to_the_user():
    network = Network(module(), F.mse_loss)
    kept = network.parameters[0].grad = torch.ones_like(network.parameters[0])
    network.gradient(batch())
    assert network.parameters[0].grad is kept and (kept == 1).all()
    assert all(p.grad is None for p in network.parameters[1:])


def test_mixed_dtypes_are_refused():
    plain = module()
    plain[2].double()
    with pytest.raises(NetworkError, match=r"dtypes .*0\.weight is torch\.float32; 2\.weight is torch\.float64"):
        Network(plain, F.mse_loss)


def test_a_module_with_nothing_to_train_is_refused():
    with pytest.raises(NetworkError, match="Tanh has no trainable parameters"):
        Network(nn.Tanh(), F.mse_loss)


def test_double_precision_stays_double():
    network = Network(module().double(), F.mse_loss)
    loss, g = network.gradient(batch(dtype=torch.float64))
    assert network.theta.dtype == loss.dtype == g.dtype == torch.float64


def test_the_gradient_is_one_buffer_written_anew():
    network = Network(module(), F.mse_loss)
    first = network.gradient(batch())[1]
    kept = first.clone()
    second = network.gradient(Batch(*(2 * part for part in batch())))[1]
    assert second.data_ptr() == first.data_ptr()
    assert not torch.equal(first, kept)


def test_outputs_are_those_of_evaluation_and_leave_the_mode_as_it_was():
    network = Network(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)), F.mse_loss)
    network.module.train()
    inputs = batch().inputs
    assert torch.equal(network.outputs(inputs), network.module[0](inputs))
    assert network.module.training
    assert not network.outputs(inputs).requires_grad


def test_evaluating_leaves_each_part_in_the_mode_that_it_was_in():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    module[2].eval()
    Network(module, nn.functional.mse_loss).outputs(torch.ones(3, 2))
    assert [part.training for part in module] == [True, True, False] and module.training


def test_a_module_that_is_only_looked_at_keeps_its_parameters_where_they_are():
    module = nn.Linear(3, 1)
    places = [p.data_ptr() for p in module.parameters()]
    network = Network(module, nn.functional.mse_loss, own=False)
    network.theta.zero_()
    assert [p.data_ptr() for p in module.parameters()] == places
    assert all(p.any() for p in module.parameters())
    batch = Batch(torch.ones(5, 3), torch.zeros(5, 1))
    assert float(network.f(network.theta, batch)) == 0
    assert float(network.gradient(batch)[0]) > 0
