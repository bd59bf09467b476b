import pytest
import torch

from thalweg.adaptive.adam import adam
from thalweg.basic.momentum import momentum
from thalweg.execution.generate import kernel_source
from thalweg.execution.kernels import KERNEL, compiled, executable
from thalweg.strategies.averaging import averaged_late
from thalweg.strategies.lookahead import lookahead
from thalweg.strategies.maximised import maximised
from thalweg.strategies.penalised import penalised
from thalweg.strategies.rounding import compensated, stochastically_rounded

WITHIN = [
    penalised(adam, weight_decay=0.3),
    maximised(adam),
    lookahead(adam, slow_every=3),
    lookahead(momentum, slow_every=1, slow_step=0.3),
    averaged_late(adam, average_from=4, average_every=3),
    averaged_late(lookahead(maximised(penalised(momentum, weight_decay=0.2)))),
]
AROUND = [compensated(adam), stochastically_rounded(momentum)]


@pytest.fixture(autouse=True)
def kernel_folder(tmp_path_factory, monkeypatch):
    """One folder of kernels for all tests of the session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "kernels-of-tests"))


@pytest.mark.parametrize("rule", WITHIN, ids=lambda rule: rule.name)
def test_an_elementwise_combinator_is_part_of_the_one_kernel(rule):
    assert rule.per == "element" and kernel_source(rule, torch.float32).count("for i in range") == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rule", [*WITHIN, *AROUND], ids=lambda rule: rule.name)
def test_its_kernel_takes_its_steps(run, rule, dtype):
    theta = torch.linspace(-1, 1, 37, dtype=dtype)
    gradients = torch.randn(17, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    eager, expected = run(rule, theta, gradients)
    fast, memory = run(compiled(rule, theta), theta, gradients)
    near = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    if rule in AROUND:
        near = {"rtol": 2**-7, "atol": 1e-3}  # a neighbour in bfloat16, where the last bit decides
    torch.testing.assert_close(torch.stack(fast), torch.stack(eager), **near)
    assert [type(v) for v in memory.values()] == [type(v) for v in expected.values()]
    for name in memory.keys() - {"c"}:
        torch.testing.assert_close(torch.as_tensor(memory[name]), torch.as_tensor(expected[name]), **near)


@pytest.mark.parametrize("rule", AROUND, ids=lambda rule: rule.name)
def test_rounding_runs_around_the_kernel_of_its_rule(rule):
    chosen = executable(rule, torch.zeros(37))
    assert chosen.how == KERNEL and chosen.rule is not rule
