"""Ray's own processes, kept apart from the signals that are meant for the driver.

A scheduler that takes a machine back signals the whole process group of a job. Ray starts its daemons in the driver's group, so
that they would be gone before the driver has saved anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import utils

_HOOK = "set_kill_on_parent_death_linux"
"""Ray calls it in every daemon between fork and exec, on Linux."""


@contextmanager
def own_session() -> Iterator[None]:
    """Daemons that are started inside it form sessions of their own. They end with the driver as before, also after kill -9.

    A Ray without this hook starts them as it always did.
    """
    end_with_parent = getattr(utils, _HOOK, None)
    if end_with_parent is None:
        yield
        return

    def detach() -> None:
        end_with_parent()
        os.setsid()

    setattr(utils, _HOOK, detach)
    try:
        yield
    finally:
        setattr(utils, _HOOK, end_with_parent)
