import json

import pytest

from rayrl.config.schema import Config, ModelConfig
from rayrl.config.sizes import longest_sequence, model_size, role_memory


@pytest.fixture
def checkpoint(tmp_path):
    from rayrl.models import tiny

    return tiny.save(tmp_path / "tiny")


def test_parameters_are_those_that_torch_counts(checkpoint):
    from rayrl.models import tiny

    size = model_size(checkpoint)
    model = tiny.build_model()
    assert size.parameters == sum(p.numel() for p in model.parameters())
    assert (size.layers, size.kv_heads, size.head_dim, size.vocab) == (2, 1, 32, 128)


def test_the_count_from_the_shape_alone_is_within_a_percent(checkpoint):
    exact = model_size(checkpoint).parameters
    next(checkpoint.glob("*.safetensors")).unlink()
    assert model_size(checkpoint).parameters == pytest.approx(exact, rel=0.01)


def test_a_cache_entry_is_what_the_model_writes(checkpoint):
    """2 (key and value) × layers × key/value heads × head size × bytes."""
    assert model_size(checkpoint).kv_bytes_per_token(2) == 2 * 2 * 1 * 32 * 2


def test_a_folder_that_is_not_there_or_of_another_kind_has_no_size(tmp_path):
    assert model_size(tmp_path / "none") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "diffusion"}))
    assert model_size(tmp_path) is None


def test_zero_stages_shard_what_they_say(checkpoint):
    size = model_size(checkpoint)
    config = Config(model=ModelConfig(path=str(checkpoint)))
    config.learner.ranks, n = 4, size.parameters
    learner = {}
    for stage in range(4):
        config.learner.zero_stage = stage
        learner[stage] = role_memory(config, size, "cpu")["learner"]
    # ZeRO paper, figure 1: 2 + 2 + 12 bytes per parameter in mixed precision, the shards divided by the ranks
    assert [m["parameters"] for m in learner.values()] == [2 * n, 2 * n, 2 * n, 2 * n // 4]
    assert [m["gradients"] for m in learner.values()] == [2 * n, 2 * n, 2 * n // 4, 2 * n // 4]
    assert [m["optimiser"] for m in learner.values()] == [12 * n, 3 * n, 3 * n, 3 * n]


def test_the_longest_sequence_is_bounded_by_context_and_by_a_single_turn():
    config = Config(model=ModelConfig(path="m", max_length=512))
    config.data.max_prompt_length, config.rollout.sampling.max_tokens = 100, 50
    assert longest_sequence(config) == 150
    config.rollout.max_turns = 4
    assert longest_sequence(config) == 512
