import torch

from thalweg.core.noise import signs, uniform


def test_uniform_numbers_fill_the_unit_interval_evenly():
    u = torch.cat([uniform(torch.zeros(10_000), t, seed=3) for t in range(20)])
    counts = torch.histc(u, bins=16, min=0, max=1)
    expected = len(u) / 16
    assert u.min() >= 0 and u.max() < 1
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # the 99.9 % point of chi squared with 15 degrees


def test_neighbours_and_steps_are_not_correlated():
    first, second = (uniform(torch.zeros(50_000), t) - 0.5 for t in (7, 8))
    for other in (second, first.roll(1)):
        assert abs((first * other).mean()) < 4 / 12 / len(first) ** 0.5


def test_numbers_are_a_function_of_seed_step_and_position_alone():
    theta = torch.zeros(5, dtype=torch.float64)
    state = torch.random.get_rng_state()
    assert torch.equal(uniform(theta, 3, 1), uniform(theta, torch.tensor(3), torch.tensor(1)))
    assert not torch.equal(uniform(theta, 3, 1), uniform(theta, 3, 2))
    assert torch.equal(uniform(theta, 3, 1)[:2], uniform(theta[:2], 3, 1))
    assert uniform(theta, 3, 1).dtype == signs(theta, 3, 1).dtype == torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)
