"""The written-out GRU against torch's own cell, step by step, with episode starts inside."""

import pytest
import torch
from torch import nn

from rayrl.models.gru import unroll_gru

SEEDS = range(20)


def setup(seed: int, dtype=torch.float64):
    torch.manual_seed(seed)
    steps, envs, width = 7, 3, 5
    cell = nn.GRUCell(4, width, dtype=dtype)
    inputs = torch.randn(steps, envs, 4, dtype=dtype, requires_grad=True)
    return cell, inputs, torch.randn(envs, width, dtype=dtype), torch.rand(steps, envs) < 0.7


def reference(cell, inputs, state, goes_on):
    rows = []
    for x, keep in zip(inputs, goes_on, strict=True):
        state = cell(x, torch.where(keep.unsqueeze(-1), state, 0.0))
        rows.append(state)
    return torch.stack(rows)


def unrolled(cell, inputs, state, goes_on):
    return unroll_gru(inputs @ cell.weight_ih.T + cell.bias_ih, state, goes_on, cell.weight_hh, cell.bias_hh)


def test_states_and_gradients_are_those_of_torch():
    for seed in SEEDS:
        cell, inputs, state, goes_on = setup(seed)
        weights = torch.randn(7, 3, 5, dtype=torch.float64)
        found = []
        for run in (reference, unrolled):
            out = run(cell, inputs, state, goes_on)
            found.append((out, *torch.autograd.grad((out * weights).sum(), [inputs, *cell.parameters()])))
        for expected, actual in zip(*found, strict=True):
            torch.testing.assert_close(actual, expected)


def test_without_gradient_the_states_are_the_same():
    cell, inputs, state, goes_on = setup(0, torch.float32)
    with torch.no_grad():
        free = unrolled(cell, inputs, state, goes_on)
    torch.testing.assert_close(free, unrolled(cell, inputs, state, goes_on), rtol=0, atol=0)


@pytest.mark.parametrize("keep", [True, False])
def test_a_start_forgets_the_state_before_it(keep):
    cell, inputs, state, _ = setup(1)
    goes_on = torch.full((7, 3), keep)
    goes_on[1:] = True
    same = torch.equal(unrolled(cell, inputs, state, goes_on), unrolled(cell, inputs, state * 2, goes_on))
    assert same is not keep
