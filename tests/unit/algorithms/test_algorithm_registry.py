"""The table of methods: complete, loadable, readable without torch, and helpful about a wrong name."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from rayrl.algorithms import registry
from rayrl.algorithms.registry import PRESETS, load, resolve
from rayrl.config.schema import AlgorithmConfig, CorrectionConfig, KLConfig
from rayrl.errors import ConfigError

TABLES = {
    "ADVANTAGES": registry.ADVANTAGES,
    "LOSSES": registry.LOSSES,
    "REDUCTIONS": registry.REDUCTIONS,
    "FILTERS": registry.FILTERS,
    "AGGREGATORS": registry.AGGREGATORS,
    "SHAPINGS": registry.SHAPINGS,
    "STEPS": registry.STEPS,
    "PAIRS": registry.PAIRS,
    "RESAMPLINGS": registry.RESAMPLINGS,
}
PUBLISHED = ("grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "ppo", "dapo", "gspo", "cispo")


@pytest.mark.parametrize(("table", "name"), [(t, n) for t, entries in TABLES.items() for n in entries])
def test_every_entry_loads_and_says_what_it_is(table, name):
    thing = load(TABLES[table], name, "key")
    assert table == "REDUCTIONS" or (callable(thing) and thing.__doc__)


def test_the_registry_and_what_the_buffer_runs_need_no_torch():
    code = (
        "import sys, rayrl.algorithms.registry as r\n"
        "r.load(r.FILTERS, r.resolve(r.AlgorithmConfig(name='dapo')).filter, 'k'); r.load(r.AGGREGATORS, 'weighted_sum', 'k')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(("table", "name"), [(t, n) for t, entries in TABLES.items() for n in entries if t != "REDUCTIONS"])
def test_the_knobs_of_a_function_are_those_of_its_line_with_the_same_defaults(table, name):
    keywords = {
        p.name: p.default for p in inspect.signature(load(TABLES[table], name, "key")).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    placed = ("component", "separator", "coef") if table == "STEPS" else ()  # the learner reads these, not the function
    assert keywords == {k: knob.default for k, knob in TABLES[table][name].knobs.items() if k not in placed}
    assert all(knob.doc for knob in TABLES[table][name].knobs.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_preset_says_what_it_needs(name):
    resolved = resolve(AlgorithmConfig(name=name))
    assert resolved.needs_critic == PRESETS[name].needs_critic == (name == "ppo")
    assert resolved.needs_baseline == (name == "reinforce_pp_baseline")
    assert resolved.is_outcome == (resolved.advantage in ("grpo", "dr_grpo", "rloo"))
    assert resolved.min_group_size == (1 if name in ("ppo", "reinforce_pp") else 2)
    pickle.loads(pickle.dumps(resolved))


def test_presets_are_the_published_combinations():
    def row(name):
        r = resolve(AlgorithmConfig(name=name))
        return r.advantage, r.loss, r.reduction, r.filter, r.clip_low, r.clip_high

    assert {name: row(name) for name in PUBLISHED} == {
        "grpo": ("grpo", "ppo_clip", "sequence_mean", "none", 0.2, 0.2),
        "dr_grpo": ("dr_grpo", "ppo_clip", "fixed_length", "none", 0.2, 0.2),
        "rloo": ("rloo", "reinforce", "fixed_length", "none", 0.2, 0.2),
        "reinforce_pp": ("reinforce_pp", "ppo_clip", "token_mean", "none", 0.2, 0.2),
        "reinforce_pp_baseline": ("reinforce_pp_baseline", "ppo_clip", "token_mean", "none", 0.2, 0.2),
        "ppo": ("gae", "ppo_clip", "token_mean", "none", 0.2, 0.2),
        "dapo": ("grpo", "ppo_clip", "token_mean", "zero_variance", 0.2, 0.28),
        "gspo": ("grpo", "gspo", "sequence_mean", "none", 3e-4, 4e-4),
        "cispo": ("grpo", "cispo", "token_mean", "zero_variance", 1.0, 4.0),
    }


def test_what_the_user_sets_wins_over_the_preset():
    config = AlgorithmConfig(
        name="grpo", advantage="gae", loss="cispo", loss_reduction="token_mean", filter="zero_variance", clip_low=0.1, clip_high=0.5
    )
    resolved = resolve(config)
    assert dataclasses.astuple(resolved)[2:8] == ("gae", "cispo", "token_mean", "zero_variance", 0.1, 0.5)
    assert resolved.needs_critic
    assert resolve(AlgorithmConfig(clip_low=0.1)).clip_high == 0.1, "an unset upper clip follows the lower one"
    assert resolve(AlgorithmConfig(name="dapo", clip_low=0.1)).clip_high == 0.28


@pytest.mark.parametrize(
    ("config", "key", "nearest"),
    [
        ({"name": "gpro"}, "algorithm.name", "grpo"),
        ({"advantage": "rlo"}, "algorithm.advantage", "rloo"),
        ({"loss": "ppo-clip"}, "algorithm.loss", "ppo_clip"),
        ({"loss_reduction": "tokenmean"}, "algorithm.loss_reduction", "token_mean"),
        ({"filter": "zero_var"}, "algorithm.filter", "zero_variance"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(config, key, nearest):
    with pytest.raises(ConfigError) as error:
        resolve(AlgorithmConfig(**config))
    assert key in error.value.message and next(iter(config.values())) in error.value.message
    assert f"did you mean {nearest!r}" in error.value.hint


def test_a_name_like_no_other_gets_the_whole_list():
    with pytest.raises(ConfigError) as error:
        resolve(AlgorithmConfig(name="xyzzy"))
    assert "did you mean" not in error.value.hint and all(name in error.value.hint for name in PRESETS)


@pytest.mark.parametrize(
    ("args", "key", "hint"),
    [
        ({"bet": 0.2}, "algorithm.args.bet", "did you mean 'beta'"),
        ({"beta": 0}, "algorithm.args.beta", "more than 0"),
        ({"beta": "much"}, "algorithm.args.beta", "give a number"),
        ({"beta": True}, "algorithm.args.beta", "give a number"),
        ({"beta": float("nan")}, "algorithm.args.beta", "give a number"),
        ({"per": "promt"}, "algorithm.args.per", "did you mean 'prompt'"),
    ],
)
def test_a_knob_that_no_part_has_or_that_is_out_of_range_is_refused(args, key, hint):
    with pytest.raises(ConfigError) as error:
        resolve(AlgorithmConfig(name="dpo", pairs="all_pairs", args=args))
    assert key in error.value.message and hint in error.value.hint


def test_pairs_without_a_loss_that_reads_them_are_refused():
    with pytest.raises(ConfigError, match=r"algorithm\.pairs"):
        resolve(AlgorithmConfig(name="grpo", pairs="best_worst"))


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"clip_low": 0.0}, "clip_low"),
        ({"clip_high": -0.1}, "clip_high"),
        ({"clip_high": float("nan")}, "clip_high"),
        ({"gamma": 1.1}, "gamma"),
        ({"lam": -0.5}, "lam"),
        ({"kl": KLConfig(coef=-1.0)}, "kl.coef"),
        ({"correction": CorrectionConfig(cap=0.0)}, "correction.cap"),
        ({"correction": CorrectionConfig(mode="masked", cap=1.0, floor=1.5)}, "correction.floor"),
    ],
)
def test_numbers_out_of_range_are_refused_by_key(config, key):
    with pytest.raises(ConfigError, match=f"algorithm.{key}"):
        resolve(AlgorithmConfig(**config))


def test_auto_correction_follows_the_staleness():
    auto = CorrectionConfig()
    assert registry.correction_mode(auto, 0) == "none"
    assert registry.correction_mode(auto, 1) == registry.correction_mode(auto, 8) == "truncated"
    assert registry.correction_mode(CorrectionConfig(mode="masked"), 0) == "masked"


def test_the_schema_accepts_what_resolve_accepts():
    merged = OmegaConf.merge(OmegaConf.structured(AlgorithmConfig), {"name": "gspo"})
    assert resolve(OmegaConf.to_object(merged)).clip_low == 3e-4
