"""Version spans where vLLM does not stamp its tokens: against a replay that stamps every token as it is made."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from rayrl.rollout.vllm_stamps import TokenStamps


@pytest.mark.parametrize("seed", range(50))
def test_every_token_is_stamped_with_the_version_that_made_it(seed):
    rng = random.Random(seed)
    made: dict[str, list[int]] = {}
    states = lambda: {
        f"vllm-{name}": SimpleNamespace(external_req_id=name, detokenizer=SimpleNamespace(num_output_tokens=lambda n=name: len(made[n])))
        for name in made
        if made[name]  # a request without tokens may not have reached vLLM yet
    }
    processor = SimpleNamespace(request_states={})
    stamps, version = TokenStamps(processor), 0
    for event in range(200):
        kind = rng.choice(("begin", "token", "token", "cut", "end"))
        if kind == "begin":
            made[f"r{event}"] = []
            stamps.begin(f"r{event}")
        elif kind == "cut":
            processor.request_states, version = states(), version + rng.randint(1, 2)
            stamps.cut(version)
        elif made:
            name = rng.choice(sorted(made))
            if kind == "token":
                made[name] += [version] * rng.randint(1, 3)
            else:
                tokens = made.pop(name)
                spans = stamps.end(name, len(tokens))
                assert [s.version for s in spans for _ in range(s.start, s.end)] == tokens
                assert [s.start for s in spans[1:]] == [s.end for s in spans[:-1]]
