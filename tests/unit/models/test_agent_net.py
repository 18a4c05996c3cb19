"""The agent network: one step and a whole fragment are the same computation, and every kind of observation is read."""

import pytest
import torch

from rayrl.agent_types import ArrayKind, ArraySpec, EnvSpec
from rayrl.config.schema import AgentNetworkConfig
from rayrl.models.agent import AgentNet, Sizes

NETHACK = EnvSpec(
    {
        "chars": ArraySpec((12, 12), "uint8", ArrayKind.CATEGORIES, 256),
        "colors": ArraySpec((12, 12), "uint8", ArrayKind.CATEGORIES, 16),
        "stats": ArraySpec((27,), "int32", ArrayKind.NUMBERS, scale=(0.1,) * 26 + (0.0,)),
        "message": ArraySpec((256,), "uint8", ArrayKind.TEXT, 256),
    },
    num_actions=28,
)
ROOMS = EnvSpec({"room": ArraySpec((), "uint8", ArrayKind.CATEGORIES, 9), "slots": ArraySpec((3,), "uint8", ArrayKind.CATEGORIES, 4)}, 3)


def observe(spec: EnvSpec, *lead: int, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        name: torch.randint(0, a.categories or 50, (*lead, *a.shape)).to(getattr(torch, a.dtype)) for name, a in spec.observations.items()
    }


def build(spec: EnvSpec = NETHACK, size: str = "small", **kwargs) -> AgentNet:
    torch.manual_seed(0)
    return AgentNet(spec, Sizes.of(AgentNetworkConfig(size=size)), **kwargs)


@pytest.mark.parametrize(("size", "millions"), [("oni", 2.8), ("small", 0.24)])
def test_the_presets_have_the_size_that_they_claim(size, millions):
    assert sum(p.numel() for p in build(size=size).parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("spec", [NETHACK, ROOMS], ids=["nethack", "rooms"])
def test_a_fragment_is_its_steps_one_after_another(spec):
    net, steps, envs = build(spec, values=2), 6, 4
    seen, starts = observe(spec, steps, envs), torch.rand(steps, envs) < 0.3
    state = torch.randn(envs, net.hidden)
    logprobs, values, states = net(seen, state, starts)
    with torch.no_grad():
        for t in range(steps):
            state = torch.where(starts[t].unsqueeze(-1), 0.0, state)
            step_logprobs, step_values, state = net.step({name: a[t] for name, a in seen.items()}, state)
            for whole, one in ((logprobs[t], step_logprobs), (values[t], step_values), (states[t], state)):
                torch.testing.assert_close(whole, one, rtol=1e-4, atol=1e-5)
    assert values.shape == (steps, envs, 2) and logprobs.exp().sum(-1).allclose(torch.ones(steps, envs))


def test_acting_is_a_step_without_its_values():
    net, seen = build(), observe(NETHACK, 5)
    state = torch.randn(5, net.hidden)
    logprobs, _, after = net.step(seen, state)
    assert all(torch.equal(a, b) for a, b in zip(net.act(seen, state), (logprobs, after), strict=True))


@pytest.mark.parametrize("spec", [NETHACK, ROOMS], ids=["nethack", "rooms"])
def test_every_array_reaches_the_policy_and_every_parameter_learns(spec):
    net, seen = build(spec), observe(spec, 3, 2)
    start, state = torch.zeros(3, 2, dtype=torch.bool), net.initial_state(2)
    logprobs, values, _ = net(seen, state, start)
    (logprobs[..., 0].sum() + values.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    for name, array in seen.items():
        changed = {**seen, name: (array.long() + 1) % (spec.observations[name].categories or 50)}
        assert not torch.equal(net(changed, state, start)[0], logprobs)


def test_one_look_up_for_all_maps_is_the_sum_of_their_embeddings_with_its_gradients():
    encoder = build().encoders["map_12x12"]
    seen = observe(NETHACK, 6)
    maps = [seen[name].int() for name in encoder.names]
    upstream = torch.randn(6, 12, 12, 8)
    results = []
    for embed in (encoder._embed, encoder._embed_jointly):
        encoder.zero_grad()
        embedded = embed(maps)
        embedded.backward(upstream)
        results.append([embedded.detach(), *(e.weight.grad.clone() for e in encoder.embeddings.values())])
    assert len(results[0]) == 3 and results[0][1].abs().sum() > 0
    for apart, joint in zip(*results, strict=True):
        torch.testing.assert_close(apart, joint)


def test_maps_with_too_many_combinations_are_looked_up_one_by_one():
    many = EnvSpec({name: ArraySpec((4, 4), "int32", ArrayKind.CATEGORIES, 6000) for name in ("above", "below")}, 3)
    net, seen = build(many), observe(many, 2, 2)
    net(seen, net.initial_state(2), torch.zeros(2, 2, dtype=torch.bool))[1].sum().backward()
    assert all(e.weight.grad.abs().sum() > 0 for e in net.encoders["map_4x4"].embeddings.values())
    assert not net.encoders["map_4x4"]._joint


def test_a_number_with_scale_zero_is_hidden():
    net, seen = build(), observe(NETHACK, 1, 1)
    hidden = {**seen, "stats": seen["stats"].clone()}
    hidden["stats"][..., 26] += 7
    start, state = torch.zeros(1, 1, dtype=torch.bool), net.initial_state(1)
    assert torch.equal(net(seen, state, start)[0], net(hidden, state, start)[0])
