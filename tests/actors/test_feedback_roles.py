"""The annotator as a supervised actor: killed, it comes back from its file, and other roles go on calling it."""

import os
import signal
import time

import pytest

from rayrl.config.schema import Config, DeadlinesConfig, ModelConfig
from rayrl.errors import ConfigError, RoleFailed
from rayrl.feedback.keys import item_key
from rayrl.feedback_roles import start_feedback
from tests.standin.process import standin


def settled(condition, seconds=30.0):
    limit = time.monotonic() + seconds
    while not condition() and time.monotonic() < limit:
        time.sleep(0.05)
    return condition()


def end(feedback, runtime):
    feedback.stop(20.0)
    for handle in feedback.handles:
        runtime.stop(handle)


def test_a_killed_annotator_comes_back_with_its_labels_and_asks_nothing_again(ray_runtime, tmp_path):
    config = Config(model=ModelConfig(path="none"), deadlines=DeadlinesConfig(start_s=60, call_s=30))
    config.feedback.judge, config.feedback.template, config.feedback.goal = "http", "nethack_class", "combat"
    seen = {item_key(t): t for t in (f"You kill monster {i}." if i % 2 else f"You see here item {i}." for i in range(40))}
    with standin() as server:
        config.feedback.base_url = server.url
        feedback = start_feedback(config, ray_runtime, {}, tmp_path / "feedback.sqlite")
        feedback.run()
        annotator = feedback.annotator
        first = dict(list(seen.items())[:30])
        assert annotator.sight(first, dict.fromkeys(first, 1)) == []
        assert settled(lambda: feedback.stats()["feedback/labelled_count"] == 30)
        os.kill(ray_runtime.node(feedback.handles[0])["pid"], signal.SIGKILL)
        with pytest.raises(RoleFailed):
            for _ in range(100):
                annotator.snapshot()
                time.sleep(0.02)
        assert settled(lambda: feedback.check() or feedback.restarts == 1)
        assert annotator.sight(seen, dict.fromkeys(seen, 1)) == []
        assert settled(lambda: feedback.stats()["feedback/labelled_count"] == 40)
        snapshot = annotator.snapshot()
        assert dict(zip(snapshot.keys.tolist(), snapshot.labels.tolist(), strict=True)) == {k: float("kill" in t) for k, t in seen.items()}
        assert server.stats()["distinct"] == 40 and server.stats()["again"] == 0
        assert feedback.problem() == "" and feedback.stats()["feedback/restarts_count"] == 1.0
        end(feedback, ray_runtime)


def test_an_engine_of_the_cluster_judges(ray_runtime, tmp_path, monkeypatch):
    """Nonsense from an engine without a model: asked, answered, refused by the parser, counted; no label comes of it."""
    import roles

    import rayrl.feedback_roles as module
    from rayrl.config.placement import RoleResources

    monkeypatch.setattr(module, "build_judge", roles.fake_judge)
    config = Config(model=ModelConfig(path="none"), deadlines=DeadlinesConfig(start_s=60, call_s=30))
    config.feedback.judge, config.feedback.template, config.feedback.retry.max_attempts = "vllm", "nethack_class", 2
    feedback = start_feedback(config, ray_runtime, {"judge": RoleResources("judge", 2, 0.0, 0.0, 1)}, tmp_path / "feedback.sqlite")
    feedback.run()
    seen = {item_key(t): t for t in (f"message {i}" for i in range(10))}
    feedback.annotator.sight(seen, dict.fromkeys(seen, 1))
    assert settled(lambda: feedback.stats()["feedback/failed_count"] == 10)
    os.kill(ray_runtime.node(feedback.handles[1])["pid"], signal.SIGKILL)  # one of the judges
    time.sleep(0.5)
    more = {item_key(t): t for t in (f"later message {i}" for i in range(10))}
    feedback.annotator.sight(more, dict.fromkeys(more, 1))
    assert settled(lambda: feedback.check() or feedback.stats()["feedback/failed_count"] == 20)
    assert feedback.stats()["feedback/labelled_count"] == 0 and feedback.annotator.snapshot(0) is None
    end(feedback, ray_runtime)


def test_what_cannot_be_asked_is_refused_before_anything_starts(ray_runtime, tmp_path):
    config = Config()
    config.feedback.judge, config.feedback.template, config.feedback.goal = "http", "nethack_class", "gould"
    with pytest.raises(ConfigError, match="did you mean 'gold'"):
        start_feedback(config, ray_runtime, {}, tmp_path / "feedback.sqlite")
    config.feedback.goal, config.feedback.api_key_env = "gold", "RAYRL_NO_SUCH_KEY"
    with pytest.raises(ConfigError, match="RAYRL_NO_SUCH_KEY, which is not set"):
        start_feedback(config, ray_runtime, {}, tmp_path / "feedback.sqlite")
    config.feedback.judge = "none"
    assert start_feedback(config, ray_runtime, {}, tmp_path / "feedback.sqlite") is None
