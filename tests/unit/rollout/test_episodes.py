"""Token in, token out: sequences only grow, and exactly the sampled tokens are marked as actions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayrl.rollout.episodes import Episode
from rayrl.types import FinishReason, GenerationResult, Prompt, PromptTask, SamplingParams, VersionSpan


def task(
    prompt_length: int = 4, *, n: int = 1, max_tokens: int = 6, seed: int | None = None, own: tuple[int, ...] | None = None
) -> PromptTask:
    ids = np.arange(100, 100 + prompt_length, dtype=np.int32)
    prompt = Prompt(ordinal=7, token_ids=ids, task="t", text="hello", ground_truth="42", metadata={"row": 3})
    return PromptTask(prompt, n, SamplingParams(max_tokens=max_tokens, seed=seed), max_tokens=own)


def result(id: str, tokens: list[int], spans=None, reason=FinishReason.STOP) -> GenerationResult:
    spans = tuple(VersionSpan(*s) for s in spans) if spans else (VersionSpan(0, 0, len(tokens)),)
    return GenerationResult(id, np.array(tokens, np.int32), -np.array(tokens, np.float32) / 10, reason, spans)


def decode(ids: np.ndarray) -> str:
    return " ".join(map(str, ids.tolist()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_mask_marks_exactly_the_sampled_tokens_and_ids_only_grow(data):
    max_length, max_turns = data.draw(st.integers(8, 60)), data.draw(st.integers(1, 5))
    episode = Episode(task(data.draw(st.integers(1, 7))), 0, max_turns=max_turns, max_length=max_length)
    prefix, sampled, expected_spans, version = episode.request().token_ids, [], [], 0
    while True:
        request = episode.request()
        assert np.array_equal(request.token_ids[: prefix.shape[0]], prefix)
        room = max_length - request.token_ids.shape[0]
        assert 1 <= request.sampling.max_tokens <= min(room, 6)
        start = request.token_ids.shape[0]
        count = data.draw(st.integers(1, request.sampling.max_tokens))
        cut = data.draw(st.integers(0, count))
        spans = [(v, a, b) for v, a, b in ((version, 0, cut), (version + 1, cut, count)) if b > a]
        version += 1
        tokens = data.draw(st.lists(st.integers(3, 99), min_size=count, max_size=count))
        prefix = np.concatenate([request.token_ids, np.array(tokens, np.int32)])
        sampled += [(start + i, t) for i, t in enumerate(tokens)]
        expected_spans += [(v, a + start, b + start) for v, a, b in spans]
        if not episode.add_turn(result(request.id, tokens, spans)):
            break
        episode.add_observation(data.draw(st.none() | st.lists(st.integers(200, 300), max_size=9)), data.draw(st.booleans()))
        if episode.finished:
            break
    t = episode.trajectory(decode)
    assert np.array_equal(t.token_ids[: prefix.shape[0]], prefix) and t.num_tokens <= max_length
    assert [(int(i), int(t.token_ids[i])) for i in np.flatnonzero(t.action_mask)] == sampled
    assert [tuple(s) for s in t.version_spans] == expected_spans
    assert (t.token_ids[t.action_mask] < 100).all() and (t.token_ids[~t.action_mask] >= 100).all()
    np.testing.assert_array_equal(t.behavior_logprobs, np.where(t.action_mask, -t.token_ids.astype(np.float32) / np.float32(10), 0))
    assert [i for a, b in t.turns for i in range(a, b)] == np.flatnonzero(t.action_mask).tolist()


def test_single_turn_ends_with_the_engines_reason_and_carries_the_prompt_along():
    episode = Episode(task(), 0, max_length=50)
    assert episode.add_turn(result("x", [5, 6], reason=FinishReason.LENGTH)) is False
    t = episode.trajectory(decode)
    assert (t.id, t.ordinal, t.sample, t.text, t.prompt_text, t.ground_truth, t.task) == ("7/0", 7, 0, "5 6", "hello", "42", "t")
    assert t.finish_reason is FinishReason.LENGTH and t.turns == ((4, 6),) and t.metadata == {"row": 3}


def test_environment_ends_the_episode_and_its_last_words_are_not_appended():
    episode = Episode(task(), 0, max_turns=9, max_length=50)
    assert episode.add_turn(result("x", [5, 6])) is True
    episode.add_observation([200, 201], done=True)
    t = episode.trajectory(decode)
    assert t.finish_reason is FinishReason.ENV and t.num_tokens == 6


def test_an_observation_that_fills_the_context_ends_the_episode_without_it():
    episode = Episode(task(4), 0, max_turns=9, max_length=10)
    assert episode.add_turn(result("x", [5, 6])) is True
    episode.add_observation([200] * 4, done=False)
    t = episode.trajectory(decode)
    assert t.finish_reason is FinishReason.LENGTH and t.num_tokens == 6


def test_an_aborted_turn_ends_the_episode_as_aborted():
    episode = Episode(task(), 0, max_turns=9, max_length=50)
    assert episode.add_turn(result("x", [5], reason=FinishReason.ABORT)) is False
    assert episode.trajectory(decode).finish_reason is FinishReason.ABORT


def test_each_sample_has_its_own_limit_and_a_seed_of_its_own():
    leased = task(n=3, max_tokens=9, seed=11, own=(2, 30, 5))
    requests = [Episode(leased, i, max_length=24).request() for i in range(3)]
    assert [r.sampling.max_tokens for r in requests] == [2, 20, 5]
    assert len({r.sampling.seed for r in requests}) == 3
    assert [r.sampling.seed for r in requests] == [Episode(leased, i, max_length=24).request().sampling.seed for i in range(3)]


def test_a_prompt_without_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match="leave no room"):
        Episode(task(10), 0, max_length=10).request()
