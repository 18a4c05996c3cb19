"""Runs one program in a sandbox and waits for its end."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rayrl.sandbox.isolation import command, isolation, new_uid
from rayrl.sandbox.program import Ended, Limits, Program, Reason, ending

_START_S = 1.0
"""Granted beside the program's own time: interpreter and view have to be set up first."""
_END_S = 10.0
_CHUNK = 1 << 16


def run(program: Program, limits: Limits | None = None, *, isolation_level: str = "auto") -> Ended:
    """Never raises for what the program does. Raises `EnvironmentMissing` when the wanted level of isolation does not work here.

    Returns when nothing of the program is left. May be called from several threads.
    """
    limits, how = limits or Limits(), isolation(isolation_level)
    with contextlib.ExitStack() as stack:
        stdin = stack.enter_context(_file(program.stdin))
        uid, folder, files = new_uid(), "/", []
        if how.level == "bubblewrap":
            files = [(name, stack.enter_context(_file(content))) for name, content in program.files.items()]
        else:
            folder = stack.enter_context(_folder(program.files, uid if how.drop else None))
        watched, ours = os.pipe()
        stack.callback(os.close, watched)
        with os.fdopen(ours, "wb") as leash:  # a warden sweeps when the leash is dropped, also by our death
            made = command(
                how,
                program.argv,
                limits,
                uid=uid,
                folder=folder,
                warden_fd=watched,
                files=[(name, file.fileno()) for name, file in files],
                read_only=program.read_only,
            )
            process = subprocess.Popen(
                made.argv,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={},
                cwd=folder,
                pass_fds=[watched, *(file.fileno() for _, file in files)] if made.warden else [file.fileno() for _, file in files],
                start_new_session=True,
                **made.identity,
            )
            stack.callback(_close, process)
            try:
                return _watch(process, limits, time.monotonic())
            finally:
                leash.close()
                if not made.warden:
                    process.kill()  # bubblewrap's first process dies with it, and the namespace with that


def _close(process: subprocess.Popen) -> None:
    """Waits for the end, so that nothing of the program is left."""
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_END_S)
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def _watch(process: subprocess.Popen, limits: Limits, began: float) -> Ended:
    """Collects output until both pipes end, time runs out, or there is too much of it."""
    caught: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    deadline, most, reason = began + limits.time_s + _START_S, limits.output_kib * 1024, None
    with selectors.DefaultSelector() as selector:
        for pipe in caught:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and reason is None:
            left = deadline - time.monotonic()
            if left <= 0:
                reason = Reason.TIME
            for key, _ in selector.select(max(0.0, left)):
                data = os.read(key.fd, _CHUNK)
                caught[key.fileobj] += data
                if not data:
                    selector.unregister(key.fileobj)
                elif len(caught[key.fileobj]) > most:
                    reason = Reason.OUTPUT
    code = 0
    if reason is None:  # both pipes were closed: it ended, or it hides
        try:
            reason, code = ending(process.wait(max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            reason = Reason.TIME
    seconds = time.monotonic() - began
    return Ended(reason, code, bytes(caught[process.stdout][:most]), bytes(caught[process.stderr][:most]), seconds, limits)


def _file(content: str | bytes) -> BinaryIO:
    """An open file with ``content``, without a name, to be read from its beginning."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    file.write(content.encode() if isinstance(content, str) else content)
    file.seek(0)
    return file


@contextlib.contextmanager
def _folder(files: Mapping[str, str | bytes], uid: int | None) -> Iterator[str]:
    """A working directory with ``files``, owned by ``uid``; removed afterwards, whatever the program made of it."""
    folder = tempfile.mkdtemp(prefix="rayrl-sandbox-")
    try:
        for name, content in files.items():
            place = Path(folder, name)
            place.write_bytes(content.encode() if isinstance(content, str) else content)
            if uid is not None:
                os.chown(place, uid, uid)
        if uid is not None:
            os.chown(folder, uid, uid)
        yield folder
    finally:
        try:
            _unlock(folder)
            shutil.rmtree(folder)
        except (OSError, RecursionError):  # a path too long for one call, or too deep for Python's stack
            subprocess.run(["rm", "-rf", "--", folder], stderr=subprocess.DEVNULL, timeout=_END_S, check=False)


def _unlock(folder: str) -> None:
    """Takes back the permissions that the program took away from its own folders. Follows no link."""
    todo = [folder]
    while todo:
        place = todo.pop()
        os.chmod(place, 0o700)
        with os.scandir(place) as entries:
            todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
