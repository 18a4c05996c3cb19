"""A checkpoint or a rollout file from a stranger is read as data or refused; nothing in it is executed."""

import pickle

import pyarrow as pa
import pytest
import torch

from rayrl.config.schema import ModelConfig
from rayrl.data.arrow import SCHEMA, decode
from rayrl.errors import CheckpointError, ModelError
from rayrl.learner import snapshot
from rayrl.learner.loading import load_policy
from rayrl.models import tiny


@pytest.fixture
def bomb(tmp_path):
    class Bomb:
        def __reduce__(self):
            import os

            return os.mkdir, (str(tmp_path / "gone off"),)

    yield Bomb()
    assert not (tmp_path / "gone off").exists()


def test_a_model_whose_weights_are_a_pickle_with_code_is_refused(tmp_path, bomb):
    model = tiny.save(tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({"lm_head.weight": bomb}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"\.bin|pickle|weights_only|Weights only|safetensors"):
        load_policy(ModelConfig(path=str(model), dtype="float32"))


def test_a_model_that_brings_its_own_code_is_refused(tmp_path, bomb):
    model = tiny.save(tmp_path / "model")
    (model / "modeling_evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'gone off')!r})\nclass Evil: pass\n")
    config = (model / "config.json").read_text()
    config = config.replace('"model_type"', '"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}, "model_type"')
    (model / "config.json").write_text(config.replace('"qwen2"', '"evil"'))
    with pytest.raises(ModelError):
        load_policy(ModelConfig(path=str(model), dtype="float32"))


def test_a_learner_state_that_is_a_pickle_is_refused(tmp_path, bomb):
    snapshot.write_part(tmp_path, "policy", 0, 1, [snapshot.Piece("w", (2,), 0, {"master": torch.ones(2)})])
    (file,) = tmp_path.glob("policy-*.safetensors")
    file.write_bytes(pickle.dumps(bomb))
    with pytest.raises(CheckpointError):
        snapshot.read_part(tmp_path, "policy", 1)


def test_a_rollout_with_an_object_for_a_column_is_refused(bomb):
    columns = [pa.array([pickle.dumps(bomb)], pa.binary()) for _ in SCHEMA.names]
    with pytest.raises(ValueError, match="not a trajectory batch"):
        decode(pa.RecordBatch.from_arrays(columns, SCHEMA.names))
