"""No two roles share a device that one of them owns, and nobody but Ray says who sees which."""

from __future__ import annotations

from pathlib import Path

import pytest

import rayrl
from rayrl.errors import PlacementError
from rayrl.runtime.devices import Devices, ids


def node(address: str, *gpus: str) -> dict:
    return {"address": address, "accelerators": {"GPU": list(gpus)}}


def test_a_device_that_was_given_twice_is_refused_with_both_roles():
    devices = Devices()
    devices.claim("rollout-0", node("a", "2", "3"))
    devices.claim("rollout-1", node("b", "2", "3"))
    devices.claim("buffer", node("a"))
    with pytest.raises(PlacementError, match="learner-0 and rollout-0 were both given GPU 3 of a"):
        devices.claim("learner-0", node("a", "3"))


def test_a_replacement_may_have_other_devices_and_leaves_its_own_to_others():
    devices = Devices()
    devices.claim("rollout-0", node("a", "0"))
    devices.claim("rollout-0", node("a", "1"))
    devices.claim("learner-0", node("a", "0"))
    assert ids({"TPU": ["1"], "GPU": ["0", "7"]}) == ["GPU 0", "GPU 7", "TPU 1"]


def test_no_role_reads_or_sets_which_devices_are_visible():
    """`machine.py` counts what the driver may use before there is a Ray to ask."""
    package = Path(rayrl.__file__).parent
    readers = {str(path.relative_to(package)) for path in package.rglob("*.py") if "VISIBLE_DEVICES" in path.read_text()}
    assert readers <= {"machine.py", "runtime/devices.py"}
