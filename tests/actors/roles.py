"""Small roles for the runtime's tests; a module of its own so that actor processes can import it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from rayrl.errors import ConfigError


class Keeper:
    """Holds adopted payloads, as the buffer does."""

    def __init__(self, store):
        self.store, self.refs, self.lost = store, [], []

    def take(self, tickets):
        self.refs += self.store.adopt_all(tickets)

    def total(self):
        return [float(self.store.get(ref, timeout_s=10).sum()) for ref in self.refs]

    def release_worker(self, name):
        self.lost.append(name)

    def losses(self):
        return self.lost


class Worker:
    """A worker with a loop."""

    def __init__(self, store=None, keeper=None, weights=0):
        self.store, self.keeper, self.weights, self.stopping = store, keeper, weights, threading.Event()

    def run(self):
        if not self.stopping.wait(60.0):
            raise TimeoutError("nobody stopped the worker")

    def stop(self):
        self.stopping.set()

    def offer(self, *counts):
        self.keeper.take([self.store.offer(np.ones(count)) for count in counts])

    def load(self, weights):
        self.weights = weights

    def held(self):
        return self.weights

    def pid(self):
        return os.getpid()

    def environment(self):
        return {
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "cores": sorted(os.sched_getaffinity(0)),
            "secret": os.environ.get("SECRET_OF_THE_DRIVER"),
        }

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def complain(self):
        raise ConfigError("batch.group_size is 0", "set it to 1 or more")

    def crash(self):
        import ctypes

        ctypes.string_at(0)

    def spawn(self, nbytes):
        code = f"import time; held = b'x' * {nbytes}; time.sleep(60)"
        self.child = subprocess.Popen([sys.executable, "-c", code])

    def stumble(self):
        print("about to stumble", flush=True)
        raise KeyError("step")

    def doze(self, seconds, update):
        time.sleep(seconds)

    def sleep_weights(self):
        time.sleep(self.weights)

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds


class Named(Worker):
    def __init__(self, name, index, **kwargs):
        super().__init__(**kwargs)
        self.name, self.index = name, index

    def who(self):
        return [self.name, self.index]


class Deaf(Worker):
    """Does not end when it is asked to."""

    def stop(self):
        time.sleep(60)


class SlowToStart(Worker):
    SECONDS = 4.0

    def __init__(self, **kwargs):
        time.sleep(self.SECONDS)
        super().__init__(**kwargs)


def build(cls, **kwargs):
    return cls(**kwargs)


def fail(**kwargs):
    print("looking for the model", flush=True)
    raise RuntimeError("no model here")


def fake_judge(config):
    """A judge worker around an engine without a model."""
    from rayrl.feedback.judges.engine import JudgeWorker
    from rayrl.rollout.fake import FakeEngine

    return JudgeWorker(FakeEngine(max_length=8192), "fake", lambda messages: [2] * 20, lambda ids: " ".join(map(str, ids)))


def slow_to_build():
    time.sleep(60)
