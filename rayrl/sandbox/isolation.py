"""How much of the machine a program can be kept from: three levels, the best that works is taken.

| level | network | files | other processes | needs |
| --- | --- | --- | --- | --- |
| bubblewrap | none | the interpreter, /usr, its own files | invisible | `bwrap`, and namespaces (root, or unprivileged ones) |
| namespaces | none | those of the user; started by root: those of nobody | invisible | `unshare` of util-linux, and namespaces |
| limits | none, where calls are filtered | the same | visible, out of reach where calls are filtered | nothing |

Started by root, every run has a user id of its own that owns nothing on the machine. System calls are filtered at every level
where the kernel takes a filter (`syscalls.py`).
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayrl.errors import EnvironmentMissing
from rayrl.sandbox.program import PYTHON, Limits
from rayrl.sandbox.syscalls import filter_program

LEVELS = ("bubblewrap", "namespaces", "limits")
"""Best first."""
MISSING_BUBBLEWRAP = "install bubblewrap (Debian, Ubuntu: apt install bubblewrap) to cut programs off from network and files"
_WORK = "/tmp"
"""Working directory of a program in bubblewrap's view."""
_INSIDE = str(Path(__file__).with_name("inside.py"))
_INSIDE_VIEW = "/run/inside.py"
_PROBE_S = 10.0
_FIRST_UID, _UIDS_PER_PROCESS = 1_000_000_000, 256
_NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
_runs = itertools.count()


@dataclass(frozen=True)
class Isolation:
    level: str
    python: str
    """Interpreter that programs and `inside.py` run with; everybody may execute it where the user is given up."""
    drop: str
    """Where root is given up: ``inside`` (after the view is built), ``before`` (bubblewrap starts without it), or ``""`` (no root)."""
    filtered: bool
    """System calls are filtered."""

    @property
    def complete(self) -> bool:
        """Nothing of the user's is within reach."""
        return self.level == "bubblewrap"

    def describe(self) -> str:
        """For people: what is and is not kept from a program."""
        whose = "nobody" if self.drop else "the user"
        network = "no network" if self.filtered or self.level != "limits" else "network open"
        files = "no files but its own" if self.complete else f"files that {whose} can read stay readable"
        return f"{self.level}: {network}, {files}, {'system calls filtered' if self.filtered else 'system calls not filtered'}"


@dataclass(frozen=True)
class Command:
    """What `subprocess` is to start."""

    argv: list[str]
    user: int | None
    warden: bool
    """``argv`` runs a warden, which watches the file descriptor that was promised."""

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that give up root."""
        return {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}


@functools.cache
def isolation(wanted: str = "auto") -> Isolation:
    """The best level that works on this machine, or the ``wanted`` one. Raises `EnvironmentMissing` when that does not work."""
    for level in LEVELS if wanted == "auto" else (wanted,):
        for candidate in _candidates(level):
            if _works(candidate):
                return candidate
    raise EnvironmentMissing(f"the sandbox {wanted!r} does not work on this machine", MISSING_BUBBLEWRAP)


def new_uid() -> int:
    """A user id that no other run on this machine has at present."""
    return _FIRST_UID + os.getpid() * _UIDS_PER_PROCESS + next(_runs) % _UIDS_PER_PROCESS


def command(
    how: Isolation,
    argv: Sequence[str],
    limits: Limits,
    *,
    uid: int,
    folder: str,
    warden_fd: int | None,
    files: Sequence[tuple[str, int]] = (),
    read_only: Sequence[str] = (),
) -> Command:
    """The command that runs ``argv`` under ``limits``.

    ``folder`` is the working directory on the host (not used by bubblewrap), ``files`` are names and open descriptors of what
    bubblewrap puts into the working directory of its view.
    """
    argv = [how.python, "-I", "-S", *argv[1:]] if argv[0] == PYTHON else list(argv)
    order: dict[str, Any] = {
        "warden_fd": None if how.level == "bubblewrap" else warden_fd,
        "wrapper": [],
        "uid": uid if how.drop == "inside" else 0,
        "rlimits": _rlimits(how, limits),
        "filter": filter_program(signals=how.level != "limits" or bool(how.drop)) if how.filtered else None,
        "env": {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": _WORK if how.level == "bubblewrap" else folder}
        | {"TMPDIR": _WORK if how.level == "bubblewrap" else folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    }
    if how.level == "bubblewrap":
        view = _view(how, limits, files, read_only)
        entry = [how.python, "-I", "-S", _INSIDE_VIEW, json.dumps(order), *argv]
        return Command([*view, "--", *entry], uid if how.drop == "before" else None, warden=False)
    if how.level == "namespaces":
        order["wrapper"] = [*_unshare(how), "--"]
    return Command([how.python, "-I", "-S", _INSIDE, json.dumps(order), *argv], None, warden=True)


def _candidates(level: str) -> list[Isolation]:
    """Variants of a level, best first."""
    root, python = os.geteuid() == 0, getattr(sys, "_base_executable", None) or sys.executable
    tool = {"bubblewrap": "bwrap", "namespaces": "unshare"}.get(level)
    if sys.platform != "linux" or (tool and not shutil.which(tool)):
        return []
    drops = ("inside", "before") if root and level == "bubblewrap" else ("inside",) if root else ("",)
    if root and level != "bubblewrap":  # nobody must be able to run it where it lies
        python = next((p for p in (python, "/usr/local/bin/python3", "/usr/bin/python3") if _public(p)), "")
    return [Isolation(level, python, drop, filtered) for filtered in (True, False) for drop in drops if python]


def _works(how: Isolation) -> bool:
    """Runs the very command that programs get, with a program that does nothing."""
    with open(os.devnull, "rb") as quiet:
        made = command(how, [PYTHON, "-c", ""], Limits(), uid=new_uid(), folder="/", warden_fd=0)
        watch, end = os.pipe()  # stays open as long as the probe runs
        try:
            done = subprocess.run(
                made.argv,
                stdin=watch if made.warden else quiet,
                capture_output=True,
                timeout=_PROBE_S,
                env={},
                cwd="/",
                start_new_session=True,
                **made.identity,
            )
        except (OSError, subprocess.SubprocessError):
            return False
        finally:
            os.close(watch)
            os.close(end)
    return done.returncode == 0


def _view(how: Isolation, limits: Limits, files: Sequence[tuple[str, int]], read_only: Sequence[str]) -> list[str]:
    """bubblewrap and the file system that it shows: the interpreter, system libraries and the program's own files."""
    scratch = str(limits.file_mib * 2**20)
    argv = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session", *_NAMESPACES]
    argv += ["--unshare-user"] if how.drop != "inside" else ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--size", scratch, "--perms", "1777", "--tmpfs", "/dev/shm", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64"):
        place = Path("/", name)
        if place.is_symlink():
            argv += ["--symlink", os.readlink(place), str(place)]
        elif place.is_dir():
            argv += ["--ro-bind", str(place), str(place)]
    argv += _folder(Path("/etc"))
    for path in ("/etc/ld.so.cache", "/etc/localtime"):
        argv += ["--ro-bind-try", path, path]
    if not sys.base_prefix.startswith("/usr"):
        argv += _shown(sys.base_prefix, sys.base_prefix)
    argv += [*_shown(_INSIDE, _INSIDE_VIEW), "--size", scratch, "--perms", "1777", "--tmpfs", _WORK]
    for path in read_only:
        argv += _shown(path, path)
    for name, descriptor in files:
        argv += ["--perms", "0666", "--file", str(descriptor), f"{_WORK}/{name}"]
    return [*argv, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", _WORK]


def _shown(path: str, place: str) -> list[str]:
    """``path`` of the host at ``place`` in the view. bubblewrap would make the folders above it for root alone."""
    above = [part for parent in reversed(Path(place).parents) if str(parent) not in ("/", _WORK) for part in _folder(parent)]
    return [*above, "--ro-bind", path, place]


def _folder(place: Path) -> list[str]:
    return ["--perms", "0755", "--dir", str(place)]


def _unshare(how: Isolation) -> list[str]:
    unshare = shutil.which("unshare") or "unshare"
    user = [] if how.drop else ["--user", "--map-current-user"]
    return [unshare, *user, "--fork", "--pid", "--mount-proc", "--net", "--ipc", "--uts", "--kill-child=KILL"]


def _rlimits(how: Isolation, limits: Limits) -> dict[str, int]:
    # A user of its own, or (from Linux 5.14 on) a user namespace, counts only the program's processes; else the user's own count too.
    alone = bool(how.drop) or (how.level != "limits" and _kernel() >= (5, 14))
    return {
        "CPU": int(limits.time_s) + 2,
        "AS": limits.memory_mib * 2**20,
        "FSIZE": limits.file_mib * 2**20,
        "NOFILE": limits.open_files,
        "NPROC": limits.processes + (0 if alone else _own_tasks()),
        "CORE": 0,
        "MSGQUEUE": 0,
        "MEMLOCK": 0,
    }


def _own_tasks() -> int:
    """Threads of this user at present."""
    count, me = 0, os.getuid()
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}").st_uid == me:
                    count += len(os.listdir(f"/proc/{entry}/task"))
            except OSError:
                continue  # ended meanwhile
    return count


def _kernel() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int("".join(itertools.takewhile(str.isdigit, minor)) or 0)


def _public(path: str) -> bool:
    """Whether every user may execute ``path`` and read what lies beside it."""
    place = Path(path)
    if not place.exists():
        return False
    place = place.resolve()
    return all(p.stat().st_mode & stat.S_IXOTH for p in (place, *place.parents)) and bool(place.stat().st_mode & stat.S_IROTH)
