"""A save beside training: what is written is the state of the moment it was asked for, whoever trains on meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch
from learner_cases import DictStore, config, random_batch

from rayrl.errors import CheckpointError, StorageError
from rayrl.learner import snapshot
from rayrl.learner.saving import Saver
from rayrl.learner.snapshot import Piece
from rayrl.learner.torch import TorchLearner


def masters(learner) -> list[torch.Tensor]:
    return [m.detach().clone() for m in learner._policy.masters()]


def test_training_on_does_not_change_what_is_being_saved(model_folder, tmp_path, monkeypatch):
    store, gate = DictStore(), threading.Event()
    learner = TorchLearner(config(model_folder, ema_decay=0.5), store)
    learner.step(random_batch(store, seed=0, step=0), None)
    expected = masters(learner)
    copy = Saver._copy
    monkeypatch.setattr(Saver, "_copy", lambda *args: gate.wait(10) and copy(*args))
    learner.begin_save(tmp_path)
    training = threading.Thread(target=learner.step, args=(random_batch(store, seed=1, step=1), None))
    training.start()
    training.join(0.5)
    assert training.is_alive() and not learner.saved()["done"]  # computed, and waits for the copy before it changes anything
    gate.set()
    training.join(30)
    learner._saver.settle()
    assert learner.saved() | {"error": ""} == learner.saved() and learner.saved()["paused_s"] > 0
    assert any(not torch.equal(a, b) for a, b in zip(expected, masters(learner), strict=True))
    other = TorchLearner(config(model_folder, ema_decay=0.5), store)
    other.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(expected, masters(other), strict=True))
    assert other._trainer.updates == 1


def test_a_save_that_fails_is_told_and_training_goes_on(model_folder, tmp_path):
    store = DictStore()
    learner = TorchLearner(config(model_folder), store)
    learner.begin_save(tmp_path / "learner")
    learner._saver.settle()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises((StorageError, OSError)):
        learner.save(tmp_path / "file")
    assert learner.step(random_batch(store), None)["learner/loss"] is not None


def test_pieces_of_any_number_of_ranks_are_put_together(tmp_path):
    whole = torch.arange(10.0).reshape(2, 5)
    cuts = [(0, 3), (3, 9), (9, 10)]
    for rank, (start, end) in enumerate(cuts):
        piece = Piece("w", (2, 5), start, {"master": whole.flatten()[start:end], "exp_avg": -whole.flatten()[start:end]})
        snapshot.write_part(tmp_path, "policy", rank, len(cuts), [piece], {"rng": torch.tensor([rank], dtype=torch.uint8)})
    found = snapshot.read_part(tmp_path, "policy", len(cuts))
    assert torch.equal(found["w"]["master"], whole) and torch.equal(found["w"]["exp_avg"], -whole)
    assert snapshot.read_extra(tmp_path, "policy", 2, 3, "rng").tolist() == [2]
    assert snapshot.read_extra(tmp_path, "policy", 3, 3, "rng") is None


def test_a_parameter_that_is_not_there_in_full_is_refused(tmp_path):
    snapshot.write_part(tmp_path, "policy", 0, 1, [Piece("w", (4,), 0, {"master": torch.ones(3)})])
    with pytest.raises(CheckpointError, match="only 3 of 4"):
        snapshot.read_part(tmp_path, "policy", 1)
