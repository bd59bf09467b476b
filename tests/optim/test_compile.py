import shutil

import pytest
import torch

from thalweg import optim

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")


@pytest.mark.filterwarnings("ignore")  # torch's own compiler warns of itself
def test_a_rule_through_torch_compile_takes_torchs_steps_and_a_new_lr_compiles_nothing():
    generator = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((30, 7), (5,))]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    optimizer, peer = optim.AdamW(mine, execution="compile"), torch.optim.AdamW(theirs)
    compiled = []
    for t in range(6):
        for p, q in zip(mine, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        optimizer.param_groups[0]["lr"] = peer.param_groups[0]["lr"] = 0.01 / (1 + t)
        optimizer.step()
        peer.step()
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert compiled[-1] == compiled[0]
    assert optimizer.state[mine[0]]["step"] == 6
