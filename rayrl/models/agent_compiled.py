"""The acting step of an agent's network as one library of machine code.

Between two steps of a simulator each operation of torch is dear: its code and its data have left the caches of the processor. torch's
AOTInductor fuses about fifty of them and calls the rest without Python. The library is made for one network, one number of
environments and one kind of processor: by the first process of a machine that wants it, while the others wait; then it is kept in
the user's cache folder. Weights are not part of it: it computes with the tensors of the network that it was given.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor, nn

from rayrl.errors import DeadlineExceeded, EnvironmentMissing
from rayrl.models.agent import AgentNet, Observations
from rayrl.models.agent_canary import canary_observations

_REMEDY = "set agent.compile=false"
_KEPT = 8
"""Libraries that stay in the cache folder: of the networks, processors and versions used last."""
_POLL_S = 0.2


class CompiledAct:
    """`AgentNet.act` for K environments on the CPU; one thread owns it. The network's tensors may change in place, and must not be
    replaced."""

    def __init__(self, net: AgentNet, envs: int, *, within_s: float) -> None:
        """Compiles unless this machine has it, and compares it with the network itself.

        ``envs`` is K; ``within_s`` limits the wait for another process that compiles the same. Raises `EnvironmentMissing` where it
        cannot be compiled or computes something else, `DeadlineExceeded`.
        """
        from torch._inductor.package import load_package  # seconds and 140 MB, for those who use it; not while others wait for the lock

        self.envs, self._net = envs, net
        self._names = tuple(net.spec.observations)
        with _library(net, envs, within_s) as file:
            try:
                self._model = load_package(str(file), run_single_threaded=True)
            except RuntimeError as e:
                file.unlink()
                raise EnvironmentMissing(
                    f"agent.compile: {file} cannot be loaded: {e}", f"start again: it is made anew; or {_REMEDY}"
                ) from e
            _remove_unpacked()
        own = dict(net.named_parameters(prefix="net")) | dict(net.named_buffers(prefix="net"))
        weights = {name: own[name] for name in self._model.get_constant_fqns()}
        self._model.load_constants(weights, check_full_update=True, user_managed=True)
        self._run = self._model.loader.run
        self._prove()

    def __call__(self, observations: Observations, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `AgentNet.act`; ``state`` is float32. Raises `RuntimeError` for a category out of range."""
        logprobs, after = self._run([*(observations[name] for name in self._names), state])
        return logprobs, after

    @torch.no_grad()
    def _prove(self) -> None:
        seen, state = _example(self._net, self.envs)
        for found, wanted in zip(self(seen, state), self._net.act(seen, state), strict=True):
            gap, close = (found.float() - wanted.float()).abs().max().item(), 0.05 if wanted.dtype == torch.bfloat16 else 1e-3
            if not gap < close:
                raise EnvironmentMissing(f"agent.compile: the compiled network differs by {gap:.2g} from the network itself", _REMEDY)


class _Act(nn.Module):
    """What is compiled: observations in the order of the spec, then the state."""

    def __init__(self, net: AgentNet) -> None:
        super().__init__()
        self.net, self._names = net, tuple(net.spec.observations)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.act(dict(zip(self._names, inputs[:-1], strict=True)), inputs[-1])


@contextmanager
def _library(net: AgentNet, envs: int, within_s: float) -> Iterator[Path]:
    """The library's file, which nobody removes meanwhile; made here where this machine has none."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayrl" / "compiled"
    file = folder / f"{_key(net, envs)}.pt2"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / "lock", within_s):
            if file.exists():
                os.utime(file)
            else:
                _compile(net, envs, file)
                _forget(folder)
            yield file
    except OSError as e:
        raise EnvironmentMissing(f"agent.compile: {folder} cannot be used: {e}", f"set XDG_CACHE_HOME, or {_REMEDY}") from e


@torch.no_grad()
def _compile(net: AgentNet, envs: int, file: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    seen, state = _example(net, envs)
    made = file.with_suffix(f".{os.getpid()}.pt2")
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch about itself
            program = torch.export.export(_Act(net).eval(), (*(seen[name] for name in net.spec.observations), state))
            aoti_compile_and_package(program, package_path=str(made), inductor_configs={"compile_threads": 1})
        made.replace(file)
    except OSError:
        raise
    except Exception as e:  # any of torch's many, and the compiler's own words
        reason = (str(e).strip() or type(e).__name__)[-1000:]
        raise EnvironmentMissing(f"agent.compile: the network could not be compiled: {reason}", f"install g++, or {_REMEDY}") from e
    finally:
        made.unlink(missing_ok=True)


def _key(net: AgentNet, envs: int) -> str:
    """Whatever the machine code depends on."""
    layout = [(name, tuple(p.shape), p.dtype) for name, p in net.named_parameters()]
    code = [inspect.getsource(sys.modules[name]) for name in (AgentNet.__module__, __name__)]
    facts = (torch.__version__, torch.get_num_threads(), _processor(), envs, net.spec, layout, code)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _processor() -> list[str]:
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        return [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return [torch.backends.cpu.get_cpu_capability()]


def _example(net: AgentNet, envs: int) -> tuple[Observations, Tensor]:
    """Observations of ``envs`` environments and a state, always the same."""
    arrays = canary_observations(net.spec, np.arange(1, dtype=np.int32), envs)
    state = torch.rand(envs, net.hidden, generator=torch.Generator().manual_seed(0))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, state


def _remove_unpacked() -> None:
    """torch unpacks what it loads into a temporary folder, which a process that is killed would leave behind; mapped once, no file is
    needed any more."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = Path(line.partition("/")[1] + line.partition("/")[2])
        for folder in path.parents:
            if folder.name.startswith("aotinductor_"):
                shutil.rmtree(folder, ignore_errors=True)


def _forget(folder: Path) -> None:
    for old in sorted(folder.glob("*.pt2"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
        old.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path, within_s: float) -> Iterator[None]:
    """One process of this machine at a time; whoever dies in it leaves it."""
    limit = time.monotonic() + within_s
    with lock.open("w") as held:
        while not _taken(held):
            if time.monotonic() > limit:
                message = f"agent.compile: another process has held {lock} for more than {within_s:g} s"
                raise DeadlineExceeded(message, f"raise deadlines.start_s, or {_REMEDY}")
            time.sleep(_POLL_S)
        yield


def _taken(held: IO[str]) -> bool:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
