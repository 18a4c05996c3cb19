"""A judge inside the cluster on the real vLLM, with a model that knows no English: everything of the way but an opinion.

pytest tests/e2e/test_vllm_judge.py -m slow      # about half a minute
"""

from __future__ import annotations

import time

import pytest

from rayrl.config.placement import RoleResources
from rayrl.config.schema import Config, DeadlinesConfig, ModelConfig, PlacementConfig
from rayrl.feedback.database import Database
from rayrl.feedback.keys import item_key
from rayrl.feedback_roles import start_feedback
from rayrl.models import tiny
from rayrl.rollout.select import vllm_obstacle
from rayrl.runtime.ray_runtime import RayRuntime

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(vllm_obstacle()), reason=f"vllm cannot run here: {vllm_obstacle()}"),
]
TEMPLATE = """
kind: score
scale: [0, 9]
user: "{context}{text}="
"""


def test_what_a_real_engine_answers_is_read_strictly_counted_and_kept(tmp_path):
    template = tmp_path / "sum.yaml"
    template.write_text(TEMPLATE)
    (tmp_path / "logs").mkdir()
    limits = DeadlinesConfig(start_s=600, call_s=60)
    config = Config(model=ModelConfig(path="none"), deadlines=limits)
    feedback = config.feedback
    feedback.judge, feedback.model, feedback.template = "vllm", str(tiny.save(tmp_path / "nano")), str(template)
    feedback.sampling.max_tokens, feedback.sampling.temperature, feedback.retry.max_attempts = 12, 1.0, 2
    feedback.engine.engine, feedback.engine.dtype, feedback.engine.max_length, feedback.engine.kv_cache_gib = "vllm", "float32", 128, 0.1
    runtime = RayRuntime(PlacementConfig(object_store_mib=128), limits, tmp_path / "logs", bundles=[{"CPU": 1}], local_cpus=2)
    try:
        role = start_feedback(config, runtime, {"judge": RoleResources("judge", 1, 1.0, 0.0, 1)}, tmp_path / "feedback.sqlite")
        role.run()
        seen = {item_key(text): text for text in (f"{i}+{i + 3}" for i in range(20))} | {item_key("9" * 300): "9" * 300}
        role.annotator.sight(seen, dict.fromkeys(seen, 1))
        limit = time.monotonic() + 120
        while (stats := role.stats())["feedback/failed_count"] < len(seen) and time.monotonic() < limit:
            time.sleep(0.2)
        role.stop(30.0)
    finally:
        runtime.shutdown()
    database = Database(tmp_path / "feedback.sqlite", read_only=True)
    found = {a.question.texts[0]: a for a in database.all_annotations()}
    database.close()
    assert len(found) == len(seen) == stats["feedback/failed_count"] and stats["feedback/labelled_count"] == 0
    too_long = found.pop("9" * 300)
    assert too_long.error.startswith("request") and too_long.attempts == 1, "it can never fit: not tried again"
    for annotation in found.values():
        assert not annotation.values and annotation.error.partition(":")[0] in ("malformed", "overlong"), annotation
        assert annotation.attempts == 2 and len(annotation.raw_answers) == 1 and annotation.model == feedback.model
        assert 2 * 4 < annotation.tokens <= 2 * (30 + 12), "prompt and answer of both attempts"
    assert len({a.raw_answers for a in found.values()}) > 10, "a model spoke, not a constant"
