"""A server that cannot judge is told apart before a run starts."""

import pytest

from rayrl.config.schema import FeedbackConfig
from rayrl.errors import ConfigError
from rayrl.feedback import probe
from tests.standin.process import standin


def test_a_server_that_is_there_and_has_the_model_passes_and_others_are_named(monkeypatch):
    with standin("--key", "secret") as server:
        settings = FeedbackConfig(judge="http", base_url=server.url, api_key_env="JUDGE_KEY")
        monkeypatch.setenv("JUDGE_KEY", "secret")
        probe.require(settings)
        settings.model = "jugde"
        with pytest.raises(ConfigError, match="no model 'jugde'") as caught:
            probe.require(settings)
        assert "did you mean 'judge'" in caught.value.hint
        monkeypatch.setenv("JUDGE_KEY", "guess")
        with pytest.raises(ConfigError, match="refuses the key") as caught:
            probe.require(settings)
        assert "guess" not in str(caught.value)
    with pytest.raises(ConfigError, match="no judge answers at feedback"):
        probe.require(settings)


def test_a_server_without_a_list_of_models_passes():
    with standin() as server:
        probe.require(FeedbackConfig(judge="http", base_url=server.url.removesuffix("/v1") + "/elsewhere"))
