"""An engine wakes up only into memory that is there."""

import pytest

from rayrl.errors import PlacementError
from rayrl.rollout.memory_lease import MemoryLease

GIB = 2**30


def test_an_engine_that_would_not_fit_is_not_woken_and_the_error_says_who_lacks_what():
    lease = MemoryLease()
    assert lease.gave(10 * GIB, 70 * GIB) == 60 * GIB
    with pytest.raises(PlacementError, match=r"gave 60.0 GiB .* away, 45.0 GiB are free, others keep 15.0 GiB"):
        lease.check(45 * GIB)


def test_one_that_fits_is_woken_and_so_is_one_that_never_slept():
    lease = MemoryLease()
    lease.check(0)
    lease.gave(10 * GIB, 70 * GIB)
    lease.check(60 * GIB)
    lease.check(60 * GIB - GIB)  # a context more or less is no reason
