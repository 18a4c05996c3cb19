"""The table of papers says nothing that is not so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rayrl
from rayrl import cli
from rayrl.catalogue import NOT_YET, PAPERS, PARTLY, WORKS
from rayrl.config.layers import find_recipe, recipe_names

CHECKOUT = Path(rayrl.__file__).resolve().parent.parent


def test_every_paper_is_listed_once_in_order():
    assert [p.number for p in PAPERS] == list(range(1, 59))


@pytest.mark.parametrize("p", PAPERS, ids=lambda p: f"{p.number:02d}")
def test_what_works_has_a_recipe_and_a_test_and_what_does_not_says_why(p):
    assert p.status in (WORKS, PARTLY, NOT_YET)
    assert p.why or p.status == WORKS, "partly and not yet say why"
    if p.status != NOT_YET:
        assert p.recipes and p.test
    for recipe in p.recipes:
        find_recipe(recipe)  # that each loads and plans is tested for all recipes of the checkout
    assert not p.test or "def test_" in (CHECKOUT / p.test).read_text(encoding="utf-8")


def test_every_numbered_recipe_belongs_to_its_paper():
    listed = {recipe: p.number for p in PAPERS for recipe in p.recipes}
    for recipe in recipe_names():
        stem = recipe.rsplit("/", 1)[-1]
        if recipe.startswith("methods/") and stem[:2].isdigit():
            assert listed.get(recipe) == int(stem[:2]), recipe


def test_the_command_shows_all_and_one_and_refuses_none(capsys):
    assert cli.main(["methods", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["papers"]) == 58
    assert cli.main(["methods", "--paper", "12"]) == 0
    assert "RiskPO" in capsys.readouterr().out
    assert cli.main(["methods", "--paper", "59"]) == 2
    assert "1 to 58" in capsys.readouterr().err
    assert cli.main(["methods", "--knobs"]) == 0
    assert "anisotropy" in capsys.readouterr().out
