"""The fake engine keeps the engine contract, and its lengths follow the distribution it was given."""

from __future__ import annotations

import numpy as np
import pytest
from engine_contract import *  # noqa: F403
from engine_contract import MAX_LENGTH, MAX_RUNNING, generate, requests

from rayrl.protocols import Engine
from rayrl.rollout.fake import FakeEngine, lognormal_lengths
from rayrl.types import FinishReason


@pytest.fixture
def engine() -> Engine:
    return FakeEngine(seed=0, max_length=MAX_LENGTH, max_running=MAX_RUNNING)


def test_it_is_an_engine(engine):
    assert isinstance(engine, Engine)


def test_lengths_follow_the_given_distribution_and_end_with_eos():
    engine = FakeEngine(seed=1, max_length=512, max_running=256, lengths=lognormal_lengths(20, 0.5))
    done = generate(engine, requests(400, max_tokens=400))
    lengths = np.array([r.token_ids.shape[0] for r in done.values()])
    assert abs(np.log(lengths).mean() - np.log(20)) < 0.1 and abs(np.log(lengths).std() - 0.5) < 0.1
    assert all((r.token_ids[-1] == 1) == (r.finish_reason is FinishReason.STOP) for r in done.values())
