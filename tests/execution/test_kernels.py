import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.adaptive.adam import adam
from thalweg.adaptive.adamw import adamw
from thalweg.algorithms import ALGORITHMS
from thalweg.basic.nesterov import nesterov
from thalweg.basic.sgd import sgd
from thalweg.core.errors import AlgorithmError
from thalweg.core.lifted import lifted
from thalweg.core.rule import (
    Rule,
    clock,
    combinator,
    current,
    full,
    maximum,
    minimum,
    one,
    rule,
    sign,
    sqrt,
    where,
    zeros,
)
from thalweg.execution import native
from thalweg.execution.generate import kernel_source
from thalweg.execution.kernels import KERNEL, compiled, executable
from thalweg.strategies.averaging import averaged, averaged_exponentially
from thalweg.strategies.clipping import clipped, clipped_by_value
from thalweg.strategies.decay import decayed

PRECISION = {torch.float32: 1e-6, torch.float64: 1e-12}  # of the largest number of a vector
DTYPES = list(PRECISION)
HALF = 0.5


@pytest.fixture(autouse=True)
def kernel_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One folder of kernels for all tests of the session."""
    folder = tmp_path_factory.getbasetemp() / "kernels-of-tests"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@rule
def every_word(g, theta, m=zeros, top=full("eps"), anchor=current, t=clock, mu=one, *, lr=0.1, beta=0.9, eps=1e-3):
    """Uses all of the vocabulary at least once."""
    t = t + 1
    mu = mu * beta * minimum(1 - 0.5 * 0.96 ** (t / 250), maximum(beta, HALF))
    warm = where(t > 5, t**-0.5, sqrt(abs(beta - t)) * sign(t))
    top = maximum(top, g * g)
    m = beta * m + (1 - beta) * minimum(g, 2 - top)
    agrees = m * g >= 0
    away = where(agrees, theta - anchor, -m) + (m > g) * 0.25 + where(t > 3, g, m)
    anchor = anchor + (theta - anchor) / (t + 1)
    scaled = m / (sqrt(top) + eps) + abs(g) ** 0.75 + (+top) ** -1 + top**2 + top**0.5
    return -lr * warm * (scaled + 0.1 * sign(away) / mu), m, top, anchor, t, mu


@rule
def reassigned(g, t=clock, *, lr=0.1):
    """Scalars that are given a new value between two vectors that use them."""
    a = t + 1
    x = a * g
    a = 10 * a
    t = t + 1
    y = a * g + t
    return lr * (x + y), t


@rule
def shifting(g, m=zeros, *, lr=0.1):
    """A name that is a number, then a vector, then a number again."""
    x = lr
    x = x * g
    y = x
    x = 2.0
    return y + x * m, y


@rule
def swapped(g, a=zeros, b=zeros, *, lr=0.1):
    """Both memories are read before either is written."""
    return -lr * (a + 2 * b), b + g, a - g


@rule
def colliding(g, e_g=zeros, a_e=zeros, i=clock, *, s_i=0.1, c_0=0.5, real=2.0):
    """Names that the program of the kernel uses too."""
    i = i + 1
    kernel = c_0 * g + real * e_g
    w_0 = maximum(kernel + a_e, s_i * g)
    return w_0 / i, kernel, e_g - a_e, i


@combinator
def trailing(inner, previous=zeros):
    """Takes each step one step late: it keeps Δθ itself."""
    return previous, inner()


@combinator
def shuffled(inner, g, theta, trace=zeros, n=clock, *, lr, strength=0.5):
    """Uses the inner rules' names for its own ends, and hands on other things than it was handed."""
    m = g
    n = n + 1
    g = 2 * g - lr
    t = strength * n
    v = (theta > m) * t
    delta = inner(g=g / n + trace, theta=theta - strength * g)
    delta = delta + lr * (g - v) / t
    return 0.5 * delta + m, delta * strength, n


@combinator
def turned(inner, g, *, angle=0.5):
    """Gives its g another meaning before an inner rule that sees the one handed to it."""
    g = angle * g
    return inner() - g


@combinator
def steady(inner, theta, *, push=0.25):
    """Hands on one number for all."""
    return inner(g=push > 0) + 0 * theta


@combinator
def backwards(inner):
    """Outside the vocabulary: it turns the order of Δθ round."""
    return torch.flip(inner(), (0,))


@combinator
def lagging(inner, last=zeros):
    """Outside the vocabulary, and it keeps Δθ itself."""
    delta = inner()
    return torch.clone(last), delta


@combinator
def twice(inner, g):
    return inner() + inner(g=-g)


@combinator
def looped(inner):
    return sum(inner() for _ in range(2))


@combinator
def lent(inner):
    return total(inner)


def total(run):
    return run() + run()


@combinator
def idle(inner, g):
    return -g


CATALOGUE = [entry.rule for entry in ALGORITHMS.values() if entry.rule.per == "element"]
MADE_UP = [every_word, reassigned, shifting, swapped, colliding]
INLINED = [
    averaged_exponentially(decayed(clipped_by_value(nesterov)), ema_decay=0.5),
    averaged(adamw),
    trailing(adam),
    shuffled(turned(adam)),
    turned(shuffled(swapped)),
    turned(every_word, angle=0.01),
    turned(trailing(clipped_by_value(colliding)), angle=-0.5),
    steady(decayed(adam)),
]
AROUND = [
    clipped(adam),
    clipped(decayed(adam)),
    averaged(clipped(adam)),
    lagging(backwards(shuffled(adam))),
    trailing(lagging(adam)),
]
WRAPPED = INLINED + AROUND


def trajectory(form: Rule, gradients: list[Tensor], **knobs: float) -> list[Tensor]:
    """All that a rule gives over these gradients: θ and its vector memory after each step, and its last scalars."""
    theta = torch.linspace(-1, 1, len(gradients[0]), dtype=gradients[0].dtype)
    values = form.with_defaults(knobs)
    memory, seen = form.start(theta, **values), []
    for g in gradients:
        delta, memory = form.step({"g": g, "theta": theta}, memory, values)
        theta = theta + delta
        seen += [theta, *(value.clone() for value in memory.values() if isinstance(value, Tensor))]
    return [*seen, *(torch.tensor(float(v)) for v in memory.values() if not isinstance(v, Tensor))]


def gradients(dtype: torch.dtype, steps: int = 20, n: int = 37) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=generator, dtype=torch.float64).to(dtype) for _ in range(steps)]


def named(cases):
    """Cases of a form and a dtype; each is compiled, which takes a third of a second, so not every one is in both."""
    return pytest.mark.parametrize(("form", "dtype"), cases, ids=lambda value: getattr(value, "name", str(value)))


@named([(f, torch.float64) for f in CATALOGUE] + [(f, dtype) for f in (*MADE_UP, *WRAPPED) for dtype in DTYPES])
def test_a_compiled_rule_takes_the_steps_of_the_rule(form: Rule, dtype: torch.dtype) -> None:
    fast = trajectory(compiled(form, torch.zeros(37, dtype=dtype)), gradients(dtype))
    for mine, expected in zip(fast, trajectory(form, gradients(dtype)), strict=True):
        assert mine.dtype == expected.dtype
        assert (mine - expected).abs().max() <= PRECISION[dtype] * expected.abs().max()


@named([(f, torch.float32) for f in CATALOGUE] + [(f, torch.float64) for f in (*MADE_UP, *INLINED)])
def test_advancing_is_the_step_added_to_theta(form: Rule, dtype: torch.dtype) -> None:
    fast = executable(form, torch.zeros(37, dtype=dtype)).rule
    assert fast.advance is not None
    slow_theta = torch.linspace(-1, 1, 37, dtype=dtype)
    fast_theta = slow_theta.clone()
    slow_memory, fast_memory = form.start(slow_theta), form.start(fast_theta)
    for g in gradients(dtype):
        delta, slow_memory = form.step({"g": g, "theta": slow_theta}, slow_memory, form.knobs)
        slow_theta = slow_theta + delta
        fast_memory = fast.advance({"g": g, "theta": fast_theta}, fast_memory, form.knobs)
    near = 1e-11 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(fast_theta, slow_theta, rtol=near, atol=near * float(slow_theta.abs().max()))


def test_what_a_combinator_outside_the_vocabulary_wraps_is_stepped_not_advanced() -> None:
    assert all(executable(form, torch.zeros(37)).rule.advance is None for form in AROUND)


def test_a_theta_with_gaps_is_refused_not_lost() -> None:
    fast = executable(sgd, torch.zeros(3)).rule
    with pytest.raises(AlgorithmError, match="pass it contiguous"):
        fast.advance({"g": torch.ones(3), "theta": torch.zeros(6)[::2]}, {}, {"lr": 1.0})


@pytest.mark.parametrize("form", [*CATALOGUE, *MADE_UP, *WRAPPED], ids=lambda form: form.name)
def test_nan_and_infinity_go_where_they_go_in_the_rule(form: Rule) -> None:
    bad = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, 1e-300, 1.0] * 5, dtype=torch.float64)
    calm = torch.ones_like(bad)
    fast = compiled(form, bad)
    for g in ([bad, calm, bad.flip(0)], [calm, bad, calm]):
        for mine, expected in zip(trajectory(fast, g), trajectory(form, g), strict=True):
            torch.testing.assert_close(mine, expected, equal_nan=True)


@pytest.mark.parametrize("form", INLINED, ids=lambda form: form.name)
def test_a_combinator_in_the_vocabulary_is_part_of_the_one_kernel(form: Rule) -> None:
    assert kernel_source(form, torch.float32).count("for i in range") == 1
    assert compiled(form, torch.zeros(37)).fn.__qualname__ == compiled(sgd, torch.zeros(37)).fn.__qualname__


@pytest.mark.parametrize("form", AROUND, ids=lambda form: form.name)
def test_a_combinator_outside_the_vocabulary_runs_around_a_kernel(form: Rule) -> None:
    with pytest.raises(AlgorithmError, match=r"has no kernel because of `.*torch\..*`"):
        kernel_source(form, torch.float32)
    assert executable(form, torch.zeros(37)).how == KERNEL


@pytest.mark.parametrize("combine", [twice, looped, lent, idle])
def test_a_combinator_that_may_not_run_its_inner_rule_once_stays_itself(combine) -> None:
    for form in (combine(adam), clipped(combine(adam))):
        chosen = executable(form, torch.zeros(4))
        assert chosen.rule is form
        assert chosen.how == (
            f"eager: {combine.__name__}(adam) has no kernel: it does not run its inner rule exactly once in a step"
        )


def test_the_step_lies_in_one_buffer_unless_a_combinator_may_keep_it() -> None:
    g = torch.ones(4)
    for form, shared in ((averaged(adamw), True), (clipped(decayed(sgd)), True), (trailing(lagging(sgd)), False)):
        fast = compiled(form, g)
        first, memory = fast.step({"g": g, "theta": g}, fast.start(g), form.knobs)
        second, _ = fast.step({"g": g, "theta": g}, memory, form.knobs)
        assert (first.data_ptr() == second.data_ptr()) is shared


@pytest.mark.parametrize("form", [every_word, adamw], ids=lambda form: form.name)
def test_a_compiled_rule_declares_what_the_rule_declares(form: Rule) -> None:
    fast = compiled(form, torch.zeros(3))
    for what in ("name", "sees", "remembers", "knobs", "doc"):
        assert getattr(fast, what) == getattr(form, what)


def test_memory_is_updated_in_place_and_the_clock_stays_whole() -> None:
    fast = compiled(adam, torch.zeros(4))
    memory = fast.start(torch.zeros(4))
    delta, after = fast.step({"g": torch.ones(4)}, memory, {})
    again, _ = fast.step({"g": torch.ones(4)}, after, {})
    assert after["m"] is memory["m"]
    assert after["t"] == 1 and type(after["t"]) is int
    assert again is delta


def test_memory_from_elsewhere_is_taken_as_it_is() -> None:
    fast = compiled(adam, torch.zeros(4))
    g = torch.ones(4)
    _, memory = fast.step({"g": g}, fast.start(g), {})
    expected, _ = adam.step({"g": g}, {"m": torch.full((4,), 0.1), "v": torch.full((4,), 0.001), "t": 1}, adam.knobs)
    loaded = {"m": memory["m"].clone(), "v": memory["v"].clone(), "t": torch.tensor(memory["t"])}
    delta, _ = fast.step({"g": g}, loaded, {})
    torch.testing.assert_close(delta, expected)


def test_a_gradient_with_gaps_is_read_rightly() -> None:
    g = torch.arange(8.0)[::2]
    delta, _ = compiled(sgd, torch.zeros(4)).step({"g": g}, {}, {"lr": 1.0})
    torch.testing.assert_close(delta, -g)


def test_new_knobs_and_another_model_compile_nothing(kernel_folder: Path) -> None:
    compiled(sgd, torch.zeros(3))
    files = snapshot(kernel_folder)
    for n, lr in ((3, 0.25), (5, 2), (7, np.float32(0.5)), (1, torch.tensor(0.125)), (0, True)):
        g = torch.ones(n)
        delta, _ = compiled(sgd, g).step({"g": g}, {}, {"lr": lr})
        torch.testing.assert_close(delta, -float(lr) * g)
    assert snapshot(kernel_folder) == files


def test_what_a_kernel_cannot_take_is_said() -> None:
    g = torch.zeros(3)
    fast = compiled(sgd, g)
    with pytest.raises(AlgorithmError, match=r"takes lr as one number, not of shape \(3, 1\)"):
        fast.step({"g": g}, {}, {"lr": torch.ones(3, 1)})
    with pytest.raises(AlgorithmError, match=r"takes g as \(3,\) torch.float32 on cpu, not \(4,\) torch.float32"):
        fast.step({"g": torch.zeros(4)}, {}, {})
    with pytest.raises(AlgorithmError, match=r"not \(3,\) torch.float64"):
        fast.step({"g": g.double()}, {}, {})
    with pytest.raises(AlgorithmError, match="sgd has no knob 'beta': its knobs are lr"):
        fast.step({"g": g}, {}, {"beta": 0.5})
    spread = {"m": torch.zeros(6)[::2], "v": torch.zeros(3), "t": 0}
    with pytest.raises(AlgorithmError, match="writes m in place: pass it contiguous"):
        compiled(adam, g).step({"g": g}, spread, {})


def in_place(g, m=zeros):
    m += g
    return m, m


def branching(g, t=clock):
    if t > 1:
        g = 2 * g
    return g, t


def with_torch(g):
    return torch.exp(g)


def normalised(g):
    return g / g.norm()


def with_python_max(g, *, lr=0.1):
    return g * max(lr, 1)


def conditional(g, *, lr=0.1):
    return g if lr > 0 else -g


def unknown(g):
    return g * torch


def early(g):
    return g
    g = 2 * g
    return g


def between(g):
    return where(0 < g < 1, g, 0)


def searching(g, f):
    return -g


def spilling(g, t=clock):
    return g, t * g


def forgetful(g, t=clock):
    return g


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (in_place, r"in_place has no kernel because of `m \+= g`: a kernel allows only plain assignments"),
        (branching, r"because of `if t > 1:`"),
        (with_torch, r"because of `torch.exp\(g\)`: a kernel allows \+ - \* / \*\*, comparisons, sqrt, "),
        (normalised, r"because of `g.norm\(\)`"),
        (with_python_max, r"because of `max\(lr, 1\)`"),
        (conditional, r"because of `g if lr > 0 else -g`"),
        (unknown, r"because of `torch`: a kernel allows what it sees, remembers, or was assigned, and numbers"),
        (early, r"because of `return g`"),
        (between, r"because of `0 < g < 1`"),
        (searching, r"sees f, the objective"),
        (spilling, r"returns a vector for 't', which starts as one number"),
        (forgetful, r"returns 1 values: expected delta, t"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_rule_outside_the_vocabulary_is_refused_by_the_construct(fn, message: str) -> None:
    like = torch.zeros(3)
    with pytest.raises(AlgorithmError, match=message):
        compiled(rule(fn), like)
    chosen = executable(rule(fn), like)
    assert chosen.rule.fn is fn
    assert re.match(f"eager: .*{message}", chosen.how)


def test_a_rule_without_a_source_file_stays_itself() -> None:
    namespace: dict = {}
    exec("def typed(g): return -g", namespace)
    assert executable(rule(namespace["typed"]), torch.zeros(2)).how.startswith(
        "eager: typed has no kernel: its source is"
    )


@pytest.mark.parametrize("form", CATALOGUE, ids=lambda form: form.name)
def test_every_elementwise_rule_of_the_catalogue_is_one_kernel(form: Rule) -> None:
    assert form.per == "element" and "f" not in form.sees
    for dtype in DTYPES:
        assert executable(form, torch.zeros(4, dtype=dtype)).how == KERNEL


def test_a_rule_for_tensors_or_the_vector_has_no_kernel_unless_it_is_around_an_elementwise_one() -> None:
    others = [entry.rule for entry in ALGORITHMS.values() if entry.rule.per != "element"]
    chosen = {form.name: executable(lifted(form, [(2, 2)]), torch.zeros(4)).how for form in others}
    assert [name for name, how in chosen.items() if not how.startswith(f"eager: {name} ")] == ["sam"]
    assert chosen["sam"] == KERNEL


def test_a_kernel_is_chosen_for_vectors_on_the_cpu_only() -> None:
    assert executable(adam, torch.zeros(4)).how == KERNEL
    assert executable(clipped(adam), torch.zeros(4, dtype=torch.float64)).how == KERNEL
    for like in (torch.zeros(2, 4), torch.zeros(8)[::2], torch.zeros(4, device="meta"), torch.zeros(4).bfloat16()):
        chosen = executable(adam, like)
        assert chosen.rule is adam
        assert "a kernel needs a contiguous float32 or float64 vector on the CPU" in chosen.how


def test_without_numba_the_rule_itself_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    chosen = executable(adam, torch.zeros(4))
    assert chosen.rule is adam
    assert chosen.how == "eager: a kernel needs Numba, which is not installed: python -m pip install numba"


def test_a_folder_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @rule
    def nowhere_else(g, *, lr=0.1):
        return -3 * lr * g

    (tmp_path / "a-file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a-file"))
    with caplog.at_level(logging.WARNING):
        delta, _ = compiled(nowhere_else, torch.zeros(2)).step({"g": torch.ones(2)}, {}, {"lr": 1.0})
    torch.testing.assert_close(delta, torch.full((2,), -3.0))
    (record,) = [record for record in caplog.records if "cannot write to" in record.message]
    assert record.message.startswith("kernels are compiled anew in each process: ")
    assert record.name == "thalweg.execution.native"


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-9] + bytes([content[-9] ^ 16]) + content[-8:],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"[1, 2]\n" + content,
    ],
    ids=["a bit turned", "cut off", "empty", "another head"],
)
def test_a_damaged_kernel_is_compiled_anew_which_is_said(
    harm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def once_more() -> tuple[Tensor, str]:
        """The step of a process that has no kernel yet, and what was said."""
        native._function.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            return compiled(sgd, torch.zeros(2)).step({"g": torch.ones(2)}, {}, {"lr": 3.0})[0].clone(), caplog.text

    once_more()
    (file,) = native.folder().glob("*.kernel")
    file.write_bytes(harm(file.read_bytes()))
    delta, said = once_more()
    torch.testing.assert_close(delta, torch.full((2,), -3.0))
    assert f"{file} is damaged: its kernel is compiled anew" in said
    assert once_more()[1] == ""


WRITER = """
import sys
from pathlib import Path
from thalweg.execution import native

for _ in range(200):
    native._write(Path(sys.argv[1]), native.Code(sys.argv[2], bytes([int(sys.argv[3])]) * 100_000))
"""


def test_processes_that_write_one_kernel_at_once_never_leave_half_of_it(tmp_path: Path) -> None:
    file = tmp_path / "kernels" / "one.kernel"
    codes = [native.Code(f"kernel{k}", bytes([k]) * 100_000) for k in range(2)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(file), code.symbol, str(k)]) for k, code in enumerate(codes)
    ]
    seen = []
    while any(writer.poll() is None for writer in writers):
        seen += [native._read(file)] if file.exists() else []
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen and all(code in codes for code in seen)
    assert list(file.parent.iterdir()) == [file]


PROGRAM = """
import sys, torch
from thalweg.core.rule import rule
from thalweg.execution.kernels import compiled

@rule
def down(g, *, lr=1.0):
    return -lr * g

@rule
def up(g, *, lr=1.0):
    return lr * g

for name in sys.argv[1:]:
    delta, _ = compiled(globals()[name], torch.zeros(1)).step({"g": torch.ones(1)}, {}, {})
    print(name, delta.item())
print("with" if "numba" in sys.modules else "without", "Numba")
"""


def test_other_processes_load_kernels_and_each_its_own_without_importing_numba(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert run_program(tmp_path, "down") == "down -1.0\nwith Numba\n"
    assert run_program(tmp_path, "up") == "up 1.0\nwith Numba\n"
    files = snapshot(tmp_path / "cache")
    assert [Path(file).suffix for file in files] == [".kernel", ".kernel"]
    assert run_program(tmp_path, "down", "up") == "down -1.0\nup 1.0\nwithout Numba\n"
    assert snapshot(tmp_path / "cache") == files  # had it compiled, it would have written


def run_program(folder: Path, *names: str) -> str:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, str(folder / "program.py"), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def snapshot(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
