"""A GRU over many steps with episode starts inside: one matrix product per step forward and backward, one for the weight gradient.

Autograd on a loop of cells adds up one weight gradient per step; here they are a single product at the end, and the gates' derivatives
are written out. The equations are those of `torch.nn.GRUCell` (Cho et al. 2014, with the reset gate inside the product).

Legend of shapes: ``T`` steps, ``B`` environments, ``H`` width of the state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as fn


def unroll_gru(gates: Tensor, state: Tensor, goes_on: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States [T, B, H] after each step.

    Args:
        gates: [T, B, 3H], the input's share of reset, update and new gate, biases included.
        state: [B, H] before the first step; no gradient flows into it.
        goes_on: bool[T, B], False where the state before the step is replaced by zero.
        weight, bias: [3H, H] and [3H], the state's share.
    """
    state, weight, bias = (x.to(gates.dtype) for x in (state, weight, bias))
    if torch.is_grad_enabled():
        return _Unroll.apply(gates, state, goes_on.to(gates.dtype).unsqueeze(-1), weight, bias)
    keep, rows = goes_on.to(gates.dtype).unsqueeze(-1), []
    for x, k in zip(gates.unbind(0), keep.unbind(0), strict=True):
        state, *_ = _cell(x, state * k, weight, bias)
        rows.append(state)
    return torch.stack(rows)


def _cell(x: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State after, sigmoid gates [B, 2H], new gate [B, H], the state's share of the new gate [B, H]."""
    width = state.shape[1]
    h = fn.linear(state, weight, bias)
    rz = torch.sigmoid(x[:, : 2 * width] + h[:, : 2 * width])
    candidate = h[:, 2 * width :]
    new = torch.tanh(torch.addcmul(x[:, 2 * width :], rz[:, :width], candidate))
    return torch.lerp(new, state, rz[:, width:]), rz, new, candidate


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, state: Tensor, keep: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        before, states, rzs, news, candidates = [], [], [], [], []
        for x, k in zip(gates.unbind(0), keep.unbind(0), strict=True):
            before.append(state * k)
            state, rz, new, candidate = _cell(x, before[-1], weight, bias)
            for rows, row in ((states, state), (rzs, rz), (news, new), (candidates, candidate)):
                rows.append(row)
        ctx.save_for_backward(torch.stack(before), *(torch.stack(rows) for rows in (rzs, news, candidates)), keep, weight)
        return torch.stack(states)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor]:
        before, rzs, news, candidates, keep, weight = ctx.saved_tensors
        width = before.shape[-1]
        reset, update = rzs[..., :width], rzs[..., width:]
        # What does not depend on later steps, for all steps at once.
        through_new = (1 - update) * (1 - news.square())
        through_update = (before - news) * update * (1 - update)
        through_reset = candidates * reset * (1 - reset)
        to_gates, to_state = before.new_empty((*before.shape[:2], 3 * width)), before.new_empty((*before.shape[:2], 3 * width))
        carried = torch.zeros_like(before[0])
        for t in range(len(before) - 1, -1, -1):
            d = grads[0][t] + carried
            d_new = d * through_new[t]
            to_gates[t, :, 2 * width :] = d_new
            to_gates[t, :, width : 2 * width] = d * through_update[t]
            to_gates[t, :, :width] = d_new * through_reset[t]
            to_state[t, :, : 2 * width] = to_gates[t, :, : 2 * width]
            to_state[t, :, 2 * width :] = d_new * reset[t]
            carried = torch.addmm(d * update[t], to_state[t], weight) * keep[t]
        flat = to_state.flatten(0, 1)
        return to_gates, None, None, flat.T @ before.flatten(0, 1), flat.sum(0)
