"""Heads, passes with dropout and stated deviations as components of their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripted_scoring import ScriptedBuffer
from test_fitter import CharacterCounts, fitter, labels
from test_reward_worker import groups
from torch import nn

from rayrl.config.schema import RewardComponent, RewardModelConfig
from rayrl.models.dropout import HeadDropout
from rayrl.reward_models import losses
from rayrl.reward_models.examples import Label
from rayrl.reward_models.fitter import Fitter
from rayrl.reward_models.objectives import build
from rayrl.reward_models.worker import RewardModelWorker

TEXTS = ["a", "bb", "abc", "zzz z"]


def test_a_pass_is_one_thinned_network_whatever_runs_with_it():
    """Against the network with the mask multiplied into its weights by hand."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1)).eval()
    plain = [p.detach().clone() for p in network.parameters()]
    dropout, x = HeadDropout(network, 0.4, seed=3), torch.randn(6, 5)
    whole = network(x)
    seen = set()
    for index in range(20):
        with dropout.thinned(index):
            out = network(x)
            assert torch.equal(network(x[2:3]), out[2:3]) or torch.allclose(network(x[2:3]), out[2:3], atol=1e-6)
        kept = torch.rand(7, generator=torch.Generator().manual_seed(3 * 1_000_003 + index)) >= 0.4
        hidden = torch.relu(x @ plain[0].T + plain[1])
        assert torch.allclose(out, hidden @ (plain[2] * kept / 0.6).T + plain[3], atol=1e-6)
        seen.add(round(out.sum().item(), 4))
    assert len(seen) > 5 and torch.equal(network(x), whole), "outside a pass nothing is dropped"


def test_passes_agree_where_there_is_nothing_to_drop_and_differ_elsewhere():
    f = fitter("regression", dropout=0.3, passes=6)
    f.add([Label(t, float(len(t))) for t in TEXTS * 3])
    f.fit()
    passes = f.estimates(TEXTS)
    assert passes.shape == (4, 6) and (passes.std(1) > 0).any()
    assert np.array_equal(passes, f.estimates(TEXTS)), "the same networks again"
    assert np.allclose(fitter("regression").estimates(TEXTS), fitter("regression").heads(TEXTS))
    with pytest.raises(ValueError, match="has none"):
        HeadDropout(nn.ReLU(), 0.1, 0)


def test_the_gaussian_loss_is_the_likelihood_of_torch_and_its_sigma_finds_the_noise():
    rng = np.random.default_rng(0)
    for _ in range(100):
        mean, raw, target, weight = (torch.from_numpy(rng.normal(size=5)) for _ in range(4))
        got = losses.gaussian(mean, raw, target, weight.abs())
        expected = -(torch.distributions.Normal(mean, losses.deviation(raw)).log_prob(target) + 0.5 * np.log(2 * np.pi))
        assert float(got.sum) == pytest.approx(float((expected * weight.abs()).sum()), abs=1e-9)
    raw = torch.zeros(1, requires_grad=True, dtype=torch.float64)
    noise = torch.from_numpy(rng.normal(0, 0.7, 4000))
    optimizer = torch.optim.Adam([raw], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        losses.gaussian(torch.zeros(4000, dtype=torch.float64), raw.expand(4000), noise).mean.backward()
        optimizer.step()
    assert float(losses.deviation(raw.detach())) == pytest.approx(0.7, abs=0.03)


def test_components_name_heads_and_deviations_of_one_model():
    settings = RewardModelConfig(
        objective="gaussian", heads=3, online=False, path="x", normalize=False, min_labels=4, updates_per_arrival=40
    )
    objective = build("gaussian")
    made = Fitter(CharacterCounts(2 * 3), objective, settings)
    made.add([Label(e.text, e.value) for e in labels(0, 60)])
    made.fit()
    components = {f"h{i}": RewardComponent(reward_model="m", head=i) for i in range(3)}
    components |= {f"h{i}_std": RewardComponent(reward_model="m", head=i, deviation=True) for i in range(3)}
    components["mean"] = RewardComponent(reward_model="m")
    buffer = ScriptedBuffer({})
    worker = RewardModelWorker("m", buffer, buffer, made, settings, components, None, deadline_s=5)
    for records in worker.score(groups(2)[1]):
        values = {r.component: r.value for r in records}
        assert values["mean"] == pytest.approx(np.mean([values[f"h{i}"] for i in range(3)]), abs=1e-5)
        assert all(values[f"h{i}_std"] > 0 for i in range(3)) and len({values[f"h{i}"] for i in range(3)}) == 3


def test_normalised_heads_keep_their_disagreement_on_the_scale_of_the_mean():
    settings = RewardModelConfig(objective="regression", heads=4, online=False, path="x", min_labels=4, updates_per_arrival=40)
    made = Fitter(CharacterCounts(4), build("regression"), settings)
    made.add([Label(e.text, 5 * e.value) for e in labels(0, 60)])
    made.fit()
    components = {f"h{i}": RewardComponent(reward_model="m", head=i) for i in range(4)}
    buffer = ScriptedBuffer({})
    worker = RewardModelWorker("m", buffer, buffer, made, settings, components, None, deadline_s=5)
    samples = groups(1)[0]
    made.normalized(made.score([t.prompt_text + t.text for t in samples]).value)
    raw = made.heads([t.prompt_text + t.text for t in samples])
    got = np.array([[r.value for r in records] for records in worker.score(samples)])
    assert np.allclose(got, (raw - made.stats.mean) / made.stats.variance**0.5, atol=1e-4)
