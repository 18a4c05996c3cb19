"""The compiled acting step: it is the network, it follows the network's weights, and where it cannot be had one is told."""

import fcntl
import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch._inductor import config

from rayrl.config.schema import AgentNetworkConfig
from rayrl.errors import DeadlineExceeded, EnvironmentMissing
from rayrl.models import agent_compiled
from rayrl.models.agent import AgentNet, Sizes
from rayrl.models.agent_compiled import CompiledAct
from rayrl.rollout.agent_policy import LocalPolicy
from tests.unit.models.test_agent_net import NETHACK, ROOMS, observe

ENVS = 5


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cached(cache, monkeypatch) -> None:
    """One cache folder for all tests of this file, and one thread, as in an env worker."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(spec=ROOMS, seed: int = 0) -> AgentNet:
    torch.manual_seed(seed)
    return AgentNet(spec, Sizes.of(AgentNetworkConfig(size="small", hidden=32))).requires_grad_(False)


def differ(one, other) -> float:
    return max((a - b).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("spec", [ROOMS, NETHACK], ids=["rooms", "nethack"])
def test_it_computes_the_network_also_after_its_weights_have_changed_in_place(spec):
    own = net(spec)
    compiled = CompiledAct(own, ENVS, within_s=1)
    seen, state = observe(spec, ENVS), torch.randn(ENVS, 32)
    assert differ(compiled(seen, state), own.act(seen, state)) < 1e-5
    before = compiled(seen, state)
    for mine, new in zip(own.parameters(), net(spec, seed=1).parameters(), strict=True):
        mine.copy_(new * 2)
    assert differ(compiled(seen, state), own.act(seen, state)) < 1e-5 < 1e-2 < differ(compiled(seen, state), before)


def test_a_policy_acts_by_it_with_its_number_of_environments_and_by_the_network_with_any_other(monkeypatch):
    policy = LocalPolicy(net(), compiled=lambda acting: CompiledAct(acting, ENVS, within_s=1))
    plain = LocalPolicy(deepcopy(policy.net))
    seen, state = observe(ROOMS, ENVS), torch.randn(ENVS, 32)
    found, after = policy.forward(seen, state)
    wanted, exact = plain.forward(seen, state)
    assert abs(found - wanted).max() < 1e-5 and (after - exact).abs().max() < 1e-5
    monkeypatch.setattr(policy._acting, "act", lambda *_: pytest.fail("the network itself was asked"))
    policy.forward(seen, state)
    with pytest.raises(pytest.fail.Exception, match="itself was asked"):
        policy.forward({name: array[:1] for name, array in seen.items()}, state[:1])


def test_a_policy_in_bfloat16_is_compiled_in_bfloat16():
    policy = LocalPolicy(net(), dtype=torch.bfloat16, compiled=lambda acting: CompiledAct(acting, ENVS, within_s=1))
    seen, state = observe(ROOMS, ENVS), torch.randn(ENVS, 32)
    found, after = policy.forward(seen, state)
    wanted, rounded = policy._acting.act(seen, state)
    assert after.dtype == torch.float32 and found.dtype == "float32"
    assert abs(found - wanted.numpy()).max() < 0.02 and (after - rounded.float()).abs().max() < 0.02
    assert (after - LocalPolicy(policy.net).forward(seen, state)[1]).abs().max() > 1e-4


def test_a_category_out_of_range_is_an_error_as_in_the_network():
    compiled = CompiledAct(net(), ENVS, within_s=1)
    seen = observe(ROOMS, ENVS)
    seen["room"][0] = 9
    with pytest.raises(RuntimeError):
        compiled(seen, torch.zeros(ENVS, 32))


def test_it_is_compiled_once_and_again_for_another_network_or_number(monkeypatch):
    CompiledAct(net(), ENVS, within_s=1)
    monkeypatch.setattr(agent_compiled, "_compile", lambda own, envs, file: pytest.fail(f"compiled for {envs} environments"))
    CompiledAct(net(seed=1), ENVS, within_s=1)
    with pytest.raises(pytest.fail.Exception, match="for 6 environments"):
        CompiledAct(net(), 6, within_s=1)
    wider = AgentNet(ROOMS, Sizes.of(AgentNetworkConfig(size="small", hidden=33)))
    with pytest.raises(pytest.fail.Exception, match="for 5 environments"):
        CompiledAct(wider, ENVS, within_s=1)


def test_nothing_is_left_in_the_temporary_folder(cache):
    def unpacked() -> set[Path]:
        return set(Path("/tmp").glob("aotinductor_*"))

    before = unpacked()
    kept = CompiledAct(net(), ENVS, within_s=1)
    assert unpacked() <= before
    kept(observe(ROOMS, ENVS), torch.zeros(ENVS, 32))


def test_only_the_libraries_used_last_are_kept(tmp_path):
    for k in range(12):
        (tmp_path / f"{k}.pt2").touch()
        os.utime(tmp_path / f"{k}.pt2", (k, k))
    agent_compiled._forget(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"{k}.pt2" for k in range(4, 12)}


def test_one_that_computes_something_else_is_refused(monkeypatch):
    own = net()
    honest = own.act
    monkeypatch.setattr(own, "act", lambda seen, state: (honest(seen, state)[0] + 0.01, honest(seen, state)[1]))
    with pytest.raises(EnvironmentMissing, match=r"differs by 0\.01") as e:
        CompiledAct(own, ENVS, within_s=1)
    assert "agent.compile=false" in e.value.hint


def test_without_a_compiler_one_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    without = config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True})
    with without, pytest.raises(EnvironmentMissing, match=r"could not be compiled: .*compiler") as e:
        CompiledAct(net(), ENVS, within_s=1)
    assert "install g++, or set agent.compile=false" in e.value.hint
    assert not list(tmp_path.rglob("*.pt2"))


def test_a_spoilt_library_is_removed_and_one_is_told(cache):
    CompiledAct(net(), ENVS, within_s=1)
    for file in cache.rglob("*.pt2"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EnvironmentMissing, match="cannot be loaded") as e:
        CompiledAct(net(), ENVS, within_s=1)
    assert "start again" in e.value.hint
    CompiledAct(net(), ENVS, within_s=1)


def test_a_cache_folder_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "rayrl").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentMissing, match="cannot be used") as e:
        CompiledAct(net(), ENVS, within_s=1)
    assert "XDG_CACHE_HOME" in e.value.hint


def test_the_wait_for_another_process_has_a_limit(cache):
    CompiledAct(net(), ENVS, within_s=1)
    with (cache / "rayrl" / "compiled" / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="another process has held"):
            CompiledAct(net(), ENVS, within_s=0.3)
