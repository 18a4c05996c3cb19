"""The trials and their claims can be run, and what is said to have been measured belongs to them."""

from __future__ import annotations

import json

import pytest

from rayrl.config.loading import load
from tests.acceptance.__main__ import MEASURED, as_written, main
from tests.acceptance.table import CHECKS, COMPARED, SEEDS, TRIALS

PAPERS = sorted({c.paper for c in CHECKS})


@pytest.mark.parametrize("name", TRIALS)
def test_every_trial_loads_and_is_used(name):
    trial = TRIALS[name]
    load(trial.recipe, list(trial.overrides), profile="in_process")
    assert name in COMPARED or any(name in (c.arm, c.control) for c in CHECKS)


def test_every_outcome_belongs_to_a_claim_and_has_a_number_for_every_seed():
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    claims = {(c.paper, c.claim): c for c in CHECKS}
    for line in measured["checks"]:
        check = claims[line["paper"], line["claim"]]
        assert (line["arm"], line["control"], line["quantity"]) == (check.arm, check.control, check.quantity)
        assert len(line["arm_values"]) == len(line["control_values"]) <= len(SEEDS)
    for name, numbers in measured["trials"].items():
        assert (numbers["recipe"], numbers["overrides"]) == as_written(TRIALS[name])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_check_comes_out_as_recorded(paper, tmp_path):
    """`python -m pytest -m slow tests/acceptance` after `rayrl warmstart`: one seed; what held on all seeds must hold again."""
    main(["--papers", str(paper), "--seeds", "1", "--out", str(tmp_path / "runs"), "--write", str(tmp_path / "measured.json")])
    again = {line["claim"]: line for line in json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))["checks"]}
    for line in json.loads(MEASURED.read_text(encoding="utf-8"))["checks"]:
        if line["paper"] == paper and line["seeds_held"] == len(SEEDS):
            assert again[line["claim"]]["holds"], line["claim"]
