"""The first thing that runs in a sandbox: ``python -I -S inside.py ORDER PROGRAM…`` (ORDER is JSON, see `isolation.Order`).

`enter` takes on the limits, gives up the user and becomes the program. Where the system gives us no process namespace, a warden
stands above it (`guard`): it adopts every orphan, and ends all of them as soon as the program ends, the caller asks, or the
caller is gone. Knows only the standard library, and nothing of rayrl: it is started as a file.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
import time

_PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 22, 36, 38
_SECCOMP_MODE_FILTER = 2
_SWEEP_LIMIT_S = 5.0
_NOT_STARTED = 127


def main() -> None:
    order, argv = json.loads(sys.argv[1]), sys.argv[2:]
    if order["warden_fd"] is not None:
        sys.exit(guard(order, argv))
    enter(order, argv)


def enter(order: dict, argv: list[str]) -> None:
    """Becomes the program; never returns."""
    if os.getpid() == 1:  # the first process of a namespace ignores signals: the program shall be the second
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(_shell_status(status))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # when memory runs out, this goes first
    except OSError:
        pass  # a system without it
    if order["uid"]:
        os.setgroups([])
        os.setresgid(order["uid"], order["uid"], order["uid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    for name, value in order["rlimits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        if order["filter"]:
            _filter_calls(order["filter"])
        os.execve(argv[0], argv, order["env"])
    except OSError as e:
        os.write(2, f"{argv[0]} cannot be run: {e}\n".encode())
        os._exit(_NOT_STARTED)


def guard(order: dict, argv: list[str]) -> int:
    """Runs the program as a child, and returns its status when neither it nor anything it started is left."""
    control = order.pop("warden_fd")
    order["warden_fd"] = None
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = os.fork()
    if child == 0:
        os.close(control)
        os.setsid()
        if order["wrapper"]:  # the program is entered further in
            inner = [sys.executable, "-I", "-S", __file__, json.dumps(order | {"wrapper": []}), *argv]
            os.execv(order["wrapper"][0], [*order["wrapper"], *inner])
        enter(order, argv)
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([handle, control], [], [])  # the end of the caller is an end of file on `control`
    status = None
    if handle in ready:
        _, status = os.waitpid(child, 0)
    _sweep(order["uid"])
    if status is None:
        return _NOT_STARTED
    return _shell_status(status)


def _sweep(uid: int) -> None:
    """Ends all descendants. First all are stopped, so that none can fork away; with a user of their own one signal reaches all."""
    limit = time.monotonic() + _SWEEP_LIMIT_S
    while time.monotonic() < limit:
        if uid:
            _kill_user(uid)
        else:
            stopped: set[int] = set()
            while fresh := _descendants() - stopped:
                _signal_all(fresh, signal.SIGSTOP)
                stopped |= fresh
            _signal_all(stopped, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return  # nobody is left
        time.sleep(0.002)


def _kill_user(uid: int) -> None:
    child = os.fork()
    if child == 0:
        os.setresuid(uid, uid, uid)
        try:
            os.kill(-1, signal.SIGKILL)  # everybody whom this user may signal, but not the sender
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _descendants() -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] != b"Z":
                children.setdefault(int(fields[1]), []).append(int(entry))
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        new = children.get(todo.pop(), [])
        found.update(new)
        todo += new
    return found


def _signal_all(pids: set[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue  # it ended by itself


def _filter_calls(program: list[list[int]]) -> None:
    """Installs a seccomp filter (`syscalls.filter_program`); a negative ``k`` stands for our own process id."""
    code = b"".join(struct.pack("=HBBI", c, jt, jf, k if k >= 0 else os.getpid()) for c, jt, jf, k in program)
    memory = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(program), ctypes.addressof(memory))  # struct sock_fprog
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "this system takes no seccomp filter")


def _shell_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
