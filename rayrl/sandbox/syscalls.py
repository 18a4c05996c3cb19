"""Which system calls a sandboxed program may not make, as a seccomp filter in classic BPF.

It closes what limits and namespaces leave open: sockets, memory that no limit counts (System V), new namespaces, mounts, tracing
of other processes, and kernel interfaces with a history of holes. A forbidden call fails with EPERM; `clone3` fails with ENOSYS,
so that the C library falls back to `clone`, whose flags can be read. Numbers are those of the kernel's syscall tables.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

Instruction = tuple[int, int, int, int]
"""``struct sock_filter``: code, jump if true, jump if false, k."""
OWN_PID = -1
"""As ``k``: the process id of the program, which `inside.py` fills in."""

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_FORBIDDEN = {
    "x86_64": {
        "socket": 41, "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "pivot_root": 155, "chroot": 161, "mount": 165,
        "umount2": 166, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "socket": 198, "shmget": 194, "semget": 190, "msgget": 186, "ptrace": 117, "pivot_root": 41, "chroot": 51, "mount": 40,
        "umount2": 39, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "bpf": 280,
        "userfaultfd": 282,
    },
}  # fmt: skip
_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "mount_setattr": 442,
}  # fmt: skip
_CLONE, _CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
_SIGNAL_OWN = {"x86_64": (62, 234), "aarch64": (129, 131)}
"""kill and tgkill: allowed with the program itself as target."""
_SIGNAL_OTHERS = {"x86_64": (200, 129, 297, 424), "aarch64": (130, 138, 240, 424)}
"""tkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal."""
_NEW_NAMESPACES = 0x7E020000
"""The CLONE_NEW* flags of clone, except CLONE_NEWTIME, which shares its bit with the exit signal."""
_FOREIGN_ABI = 0x40000000
"""Bit of the x32 calls on x86-64."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in ``struct seccomp_data``, little-endian."""
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def filter_program(*, signals: bool, machine: str = "") -> list[Instruction] | None:
    """The filter for ``machine`` (default: this one); None where its numbers are not known. ``signals``: may signal others."""
    machine = machine or platform.machine()
    if machine not in _ARCH:
        return None
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _FOREIGN_ABI),
        (_RETURN, 0, 0, _EPERM),
        *_refuse([*_FORBIDDEN[machine].values(), *_EVERYWHERE.values()], _EPERM),
        *_refuse([_CLONE3], _ENOSYS),
        (_EQUAL, 0, 4, _CLONE[machine]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    if not signals:
        program += _refuse(_SIGNAL_OTHERS[machine], _EPERM)
        for number in _SIGNAL_OWN[machine]:
            program += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, _FIRST_ARGUMENT),
                (_EQUAL, 1, 0, OWN_PID),
                (_RETURN, 0, 0, _EPERM),
                (_RETURN, 0, 0, _ALLOW),
            ]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _refuse(numbers: Iterable[int], verdict: int) -> list[Instruction]:
    return [step for number in numbers for step in ((_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict))]
