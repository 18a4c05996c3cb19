import pytest

from rayrl.config.schema import FeedbackConfig
from rayrl.feedback import templates
from rayrl.feedback.store import LabelStore


@pytest.fixture
def settings():
    """Settings with small waits; keyword arguments by dotted name (``retry__max_attempts=2``)."""

    def build(**changes):
        config = FeedbackConfig(judge="http", template="nethack_class")
        config.retry.backoff_s, config.retry.breaker_s = 0.01, 0.2
        for name, value in changes.items():
            *above, last = name.split("__")
            target = config
            for part in above:
                target = getattr(target, part)
            setattr(target, last, value)
        return config

    return build


@pytest.fixture
def store(tmp_path):
    def build(settings, name="feedback.sqlite"):
        return LabelStore(tmp_path / name, settings, templates.load(settings.template), "scripted")

    return build
