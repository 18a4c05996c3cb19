"""One exception for each failure that a user can act on. Every one carries a hint: what to do next.

The command line prints ``message`` and ``hint`` without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations


class RayrlError(Exception):
    """Base of all errors that are meant for a person."""

    exit_code = 1
    first = ""
    """Of an error that ended a run: the role that failed first, and how."""
    crash = ""
    """Where more is told of it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self):  # keeps message and hint across process borders
        return (type(self), (self.message, self.hint))


class ConfigError(RayrlError):
    """A key, a value or a combination of values that cannot run. Names the key, the value and the remedy."""

    exit_code = 2


class DataError(RayrlError):
    """A prompt source that cannot be read. Names file, line and field."""

    exit_code = 3


class ModelError(RayrlError):
    """A model or tokenizer that cannot be loaded or does not fit its counterpart."""

    exit_code = 4


class EnvironmentMissing(RayrlError):
    """A package, a processor feature or a device that this configuration needs is absent."""

    exit_code = 5


class PlacementError(RayrlError):
    """The cluster cannot hold what the configuration asks for. Names the unsatisfiable bundle."""

    exit_code = 6


class DeadlineExceeded(RayrlError):
    """A named wait ran out. Says who waited for whom and for how long."""

    exit_code = 7


class WeightSyncError(RayrlError):
    """An engine does not hold what the learner sent, or cannot prove it."""

    exit_code = 8


class RoleFailed(RayrlError):
    """A role died or raised more often than its restart limit allows."""

    exit_code = 9


class RoleDied(RoleFailed):
    """The process of a role is gone. Whoever can wait for its replacement does."""


class BufferLost(RoleDied):
    """The replay buffer died: another goes on from its journal."""


class PayloadLost(RoleFailed):
    """Trajectories died with the process or the node that held them: they must be generated again."""


class RanksLost(RoleFailed):
    """One rank of the learner died or raised: the group can only go on from a commit."""


class StorageError(RayrlError):
    """The run folder cannot be written: full disk, missing permission, occupied path."""

    exit_code = 10


class CheckpointError(RayrlError):
    """A checkpoint that is missing, incomplete or corrupt."""

    exit_code = 11


class TargetNotReached(RayrlError):
    """The run ended before its target step."""

    exit_code = 12


class NothingToLearn(RayrlError):
    """The group filter leaves no batch: every sample of every prompt earns the same."""

    exit_code = 13


class Diverged(RayrlError):
    """A loss or gradient that is not a finite number: the weights of this step are lost, those of the last commit are not."""

    exit_code = 14


class Interrupted(RayrlError):
    """Ctrl-C: the run finished its step, saved and stopped."""

    exit_code = 130


class Preempted(Interrupted):
    """SIGTERM: somebody wants the machine back. The run saved and stopped; the exit code says that it can be resumed."""

    exit_code = 143
