"""What can go wrong with a judge, in one exception that says what to do about it."""

from __future__ import annotations

from rayrl.errors import RayrlError


class JudgeError(RayrlError):
    """No answer. ``kind`` is counted: connection, timeout, http, rate, garbage, key, model, request."""

    def __init__(self, kind: str, message: str, hint: str = "", *, pause_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.kind = kind
        self.pause_s = pause_s
        """The server asks to be left alone for so long."""

    def __reduce__(self):
        return (_rebuild, (self.kind, self.message, self.hint, self.pause_s))

    @property
    def is_servers_fault(self) -> bool:
        """The question has nothing to do with it: the attempt does not count."""
        return self.kind in ("connection", "rate", "key", "model")

    @property
    def retry(self) -> bool:
        return self.kind != "request"


def _rebuild(kind: str, message: str, hint: str, pause_s: float) -> JudgeError:
    return JudgeError(kind, message, hint, pause_s=pause_s)
