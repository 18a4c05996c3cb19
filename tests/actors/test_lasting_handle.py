"""Other roles go on calling a role that was replaced, through the handle that they were given at the start."""

import os
import signal

import pytest
import roles

from rayrl.errors import RoleFailed
from rayrl.runtime.contract import RoleSpec


def test_a_lasting_handle_reaches_the_replacement(ray_runtime):
    spec = RoleSpec("counter", roles.Worker, lasting=True)
    first = ray_runtime.start([spec], 60.0)[0]
    lasting = first.lasting()
    assert lasting.pid() == first.pid()
    os.kill(first.pid(), signal.SIGKILL)
    with pytest.raises(RoleFailed):
        for _ in range(50):
            lasting.pid()
    ray_runtime.stop(first)
    second = ray_runtime.start([spec], 60.0)[0]
    assert lasting.pid() == second.pid()
    ray_runtime.stop(second)
