"""Parameters and gradients of any layout, empty ones, some without a gradient: the trajectory is torch's."""

import functools

import pytest
import torch

from thalweg import clipped, optim

CLASSES = pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adagrad", "Adafactor"])
EXECUTIONS = pytest.mark.parametrize("execution", [None, "eager"])

LAYOUTS = {
    "contiguous": lambda t: t.clone(),
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "sliced_and_transposed": lambda t: torch.stack([t, t], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0],
    "part_of_a_larger": lambda t: torch.cat([t, t, t])[2:4],
    "expanded": lambda t: t[:1].expand(t.shape),
}


def run(cls, params, gradients, **kwargs):
    params = [torch.nn.Parameter(p) for p in params]
    optimizer = cls(params, **kwargs)
    for given in gradients:
        for p, g in zip(params, given, strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


@CLASSES
@EXECUTIONS
@pytest.mark.parametrize("of_p", [k for k in LAYOUTS if k != "expanded"])
def test_layouts_do_not_matter(name, execution, of_p, drawn, assert_same):
    start, gradients = drawn(2, 3, 4, 5), [drawn(2, 3, 4, 5, seed=t) for t in range(1, 8)]
    small = drawn(3), [drawn(3, seed=t) for t in range(7)]
    laid_out = [[LAYOUTS[of_g](g)] for g, of_g in zip(gradients, LAYOUTS, strict=True)]
    given = [[*g, s] for g, s in zip(laid_out, small[1], strict=True)]
    p = LAYOUTS[of_p](start)
    mine = run(getattr(optim, name), [p, small[0].clone()], given, execution=execution)
    assert mine[0].stride() == p.stride()
    theirs = run(getattr(torch.optim, name), [start, small[0].clone()], given)
    assert_same(mine, theirs)


@pytest.mark.parametrize("name", ["LAMB", "Prodigy", "MuonAdamW", "SOAP", "DoG"])
@pytest.mark.parametrize("clips", [False, True])
def test_layouts_do_not_matter_to_what_looks_at_tensors_or_all_of_theta(name, clips, drawn, assert_same):
    gradients = [[drawn(2, 3, 4, 5, seed=t)] for t in range(1, 5)]
    declared = getattr(optim, name)._declared

    def walked(layout):
        return run(
            optim.Optimizer, [layout(drawn(2, 3, 4, 5))], gradients, rule=clipped(declared) if clips else declared
        )

    for name in ("transposed", "channels_last", "sliced", "sliced_and_transposed"):
        assert_same(walked(LAYOUTS[name]), walked(LAYOUTS["contiguous"]))


@CLASSES
@EXECUTIONS
def test_state_of_any_layout_is_taken_and_torchs_is_given(name, execution, drawn):
    """What is remembered has torch's numbers at torch's indices."""
    gradients, states = [drawn(2, 3, 4, 5, seed=t) for t in range(1, 5)], []
    for cls in (functools.partial(getattr(optim, name), execution=execution), getattr(torch.optim, name)):
        p = torch.nn.Parameter(LAYOUTS["sliced_and_transposed"](drawn(2, 3, 4, 5)))
        optimizer = cls([p], lr=0.01)
        for t, g in enumerate(gradients):
            p.grad = g
            optimizer.step()
            if t == 1:
                for key, value in optimizer.state[p].items():
                    if torch.is_tensor(value) and value.shape == p.shape:
                        optimizer.state[p][key] = LAYOUTS["sliced"](value)
        states.append(optimizer.state[p])
    mine, theirs = states
    for key, value in theirs.items():
        if value is not None:
            torch.testing.assert_close(mine[key].double(), value.double(), rtol=1e-6, atol=1e-9)


@CLASSES
@EXECUTIONS
def test_empty_tensors_and_numbers_are_parameters(name, execution, drawn, assert_same):
    shapes = [(0,), (3, 2), (), (2, 0), (1, 1)]
    if name == "Adafactor":  # torch's divides by the number of elements
        shapes = [shape for shape in shapes if 0 not in shape]
    gradients = [[drawn(*shape, seed=10 * t + k) for k, shape in enumerate(shapes)] for t in range(5)]
    starts = [[drawn(*shape, seed=k) for k, shape in enumerate(shapes)] for _ in range(2)]
    mine = run(getattr(optim, name), starts[0], gradients, execution=execution)
    theirs = run(getattr(torch.optim, name), starts[1], gradients)
    for p, q in zip(mine, theirs, strict=True):
        if p.numel():
            assert_same([p], [q])
        assert p.shape == q.shape


@pytest.mark.of(lambda info: info.name not in ("Muon", "SparseAdam"))  # they want matrices, and sparse gradients
def test_only_empty_tensors_are_no_error(info):
    p = torch.nn.Parameter(torch.ones(0))
    p.grad = torch.ones(0)
    info.optim_cls([p]).step()


def test_parameters_without_a_gradient_wait(info, config, parameters, drawn, assert_same):
    ends = []
    for cls in (info.optim_cls, getattr(torch.optim, info.name)):
        params = parameters(info.name)
        kwargs = {k: v.item() if torch.is_tensor(v) else v for k, v in config.kwargs.items()}
        optimizer = cls(params, **kwargs)
        for t in range(8):
            for k, p in enumerate(params):
                g = drawn(*p.shape, seed=10 * t + k)
                g = g.to_sparse(1) if info.only_supports_sparse_grads else g
                p.grad = None if (t + k) % 3 == 0 else g
            optimizer.step()
        ends.append(params)
    assert_same(*ends, 1e-7 if info.name == "ASGD" else 1e-10)


@EXECUTIONS
def test_parameters_of_several_dtypes_step_together(execution, drawn):
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.float16]
    together = [drawn(4, seed=k).to(dtype) for k, dtype in enumerate(dtypes)]
    gradients = [[drawn(4, seed=10 * t + k).to(p.dtype) for k, p in enumerate(together)] for t in range(5)]
    mine = run(optim.AdamW, [p.clone() for p in together], gradients, execution=execution)
    for k, p in enumerate(together):
        alone = run(optim.AdamW, [p.clone()], [[g[k]] for g in gradients], execution=execution)
        assert torch.equal(mine[k], alone[0])
