"""The service under threads: waits end when they should, and many threads together train every prompt once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rayrl.buffer.service import BufferService
from rayrl.config.schema import BufferConfig
from rayrl.protocols import ReplayBuffer
from rayrl.runtime.local import LocalStore


class Adopting(LocalStore):
    """An object store in this process; how it adopts a payload is given."""

    def __init__(self, adopt):
        self.adopt_all = lambda tickets: [adopt(ticket) for ticket in tickets]


@pytest.fixture
def service(make):
    def build(adopt=lambda payload: payload, num_workers=0, **config):
        config = {"max_staleness": 1, "lease_s": 30.0} | config
        rules = make.rules()
        return BufferService(
            BufferConfig(**config),
            weights=rules.weights,
            aggregate=rules.aggregate,
            store=Adopting(adopt),
            num_workers=num_workers,
        )

    return build


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as executor:
        yield executor


def test_the_service_has_every_method_of_the_contract(service):
    buffer = service()
    missing = [name for name in vars(ReplayBuffer) if not name.startswith("_") and not callable(getattr(buffer, name, None))]
    assert missing == []


def test_a_wait_for_prompts_ends_at_once_when_some_are_admitted(make, service, pool):
    buffer = service()
    waiting = pool.submit(buffer.lease_prompts, "w", 0, 4, 30.0)
    time.sleep(0.05)
    assert not waiting.done()
    started = time.monotonic()
    buffer.admit(make.tasks(0, 1))
    assert [t.prompt.ordinal for t in waiting.result(timeout=5)] == [0, 1]
    assert time.monotonic() - started < 1


def test_every_wait_has_a_limit(service):
    buffer, started = service(), time.monotonic()
    assert buffer.lease_prompts("w", 0, 1, 0.05) == []
    assert buffer.lease_unscored("s", "verifiers", 1, 0.05) == []
    assert buffer.sample(0, 0, 2, 0.05) is None
    assert buffer.gather([], 0, 0, 1, 0.05).progress == buffer.gather([], 0, 0, 1, 0.05).progress == 0
    assert time.monotonic() - started < 2


def test_a_waiting_worker_gets_a_lease_the_moment_it_expires(make, service, pool):
    buffer = service(lease_s=0.2)
    buffer.admit(make.tasks(0))
    buffer.lease_prompts("hung", 0, 1, 0.0)
    started = time.monotonic()
    assert [t.prompt.ordinal for t in buffer.lease_prompts("other", 0, 1, 30.0)] == [0]
    assert 0.1 < time.monotonic() - started < 5


def test_the_open_call_of_a_released_worker_leases_nothing(make, service, pool):
    buffer = service()
    waiting = pool.submit(buffer.lease_prompts, "dead", 0, 4, 30.0)
    time.sleep(0.05)
    buffer.release_worker("dead")
    assert waiting.result(timeout=5) == []
    buffer.admit(make.tasks(0))
    assert buffer.outstanding()["queued"] == 1
    assert len(buffer.lease_prompts("dead", 0, 4, 0.0)) == 1, "a replacement of the same name works"


def test_progress_is_seen_and_its_absence_too(make, service):
    buffer = service()
    progress = lambda: buffer.gather([], 0, 0, 1, 0.0).progress
    buffer.admit(make.tasks(0))
    seen = progress()
    buffer.lease_prompts("w", 0, 1, 0.0)
    assert progress() == seen, "a lease is not progress"
    buffer.put_groups("w", [make.group(0)])
    assert progress() > seen


def test_one_call_admits_and_samples_and_tells_how_things_stand(make, service, pool):
    buffer = service()
    first = buffer.gather(make.tasks(0, 1, 2, 3), 0, 0, 2, 0.0)
    assert first.batch is None and first.outstanding == buffer.outstanding() and first.outstanding["queued"] == 4
    waiting = pool.submit(buffer.gather, [], 0, 0, 2, 30.0)
    ordinals = [task.prompt.ordinal for task in buffer.lease_prompts("w", 0, 2, 0.0)]
    buffer.put_groups("w", [make.group(ordinal) for ordinal in ordinals])
    buffer.lease_unscored("s", "verifiers", 2, 0.0)
    buffer.put_rewards("s", {ordinal: make.records(0.0, 1.0) for ordinal in ordinals})
    found = waiting.result(timeout=5)
    assert found.batch.ordinals == ordinals and found.batch == buffer.sample(0, 0, 2, 0.0)
    assert found.outstanding["leased"] == 2 and found.progress > first.progress
    left = buffer.confirm_trained(0, ordinals)
    assert left == buffer.outstanding() and left["live"] == 2
    with pytest.raises(ValueError):
        buffer.gather(make.tasks(0), 1, 1, 2, 0.0)  # admitted before


def test_payloads_are_adopted_once_each_and_released_when_terminal(make, service):
    adopted = []

    def adopt(ticket):
        adopted.append(ticket)
        return f"owned {ticket}"

    buffer = service(adopt=adopt)
    buffer.admit(make.tasks(0))
    buffer.lease_prompts("w", 0, 1, 0.0)
    assert buffer.put_groups("w", [make.group(0)]) == [True]
    assert buffer.put_groups("w", [make.group(0)]) == [False]
    assert adopted == ["payload-0"] * 2, "a refused ticket is taken from its maker too"
    [info] = buffer.lease_unscored("s", "verifiers", 1, 0.0)
    assert info.payload == "owned payload-0"
    buffer.put_rewards("s", {0: make.records(0.0, 1.0)})
    batch = buffer.sample(0, 0, 1, 1.0)
    buffer.confirm_trained(0, batch.ordinals)
    assert not buffer._core._infos and buffer.stats()["buffer/held_bytes"] == 0


def test_a_worker_hears_what_it_generates_in_vain(make, service):
    buffer = service(lease_s=0.05)
    buffer.admit(make.tasks(0))
    buffer.lease_prompts("slow", 0, 1, 0.0)
    assert len(buffer.lease_prompts("fast", 0, 1, 5.0)) == 1
    buffer.put_groups("slow", [make.group(0)])
    assert buffer.cancelled("fast") == [0]


def test_a_draining_buffer_leases_nothing_but_goes_on_otherwise(make, service):
    buffer = service()
    buffer.admit(make.tasks(0, 1))
    buffer.lease_prompts("w", 0, 1, 0.0)
    buffer.drain()
    assert buffer.lease_prompts("w", 0, 1, 0.0) == []
    assert buffer.put_groups("w", [make.group(0)]) == [True]
    buffer.lease_unscored("s", "verifiers", 1, 0.0)
    buffer.put_rewards("s", {0: make.records(0.0, 1.0)})
    assert buffer.sample(0, 0, 1, 0.0).ordinals == [0]


def test_closing_ends_all_waits(service, pool):
    buffer = service()
    waits = [pool.submit(buffer.lease_prompts, f"w{i}", i, 1, 60.0) for i in range(4)] + [pool.submit(buffer.sample, 0, 0, 1, 60.0)]
    time.sleep(0.05)
    buffer.close()
    assert [w.result(timeout=5) for w in waits] == [[], [], [], [], None]


@pytest.mark.parametrize("staleness", [0, 2])
def test_many_threads_train_every_prompt_once_although_workers_die(make, service, pool, staleness):
    steps, per_step, stop = 12, 4, threading.Event()
    buffer = service(max_staleness=staleness, lease_s=0.3, num_workers=3, max_attempts=50)

    def work(index):
        life = 0
        while not stop.is_set():
            name = f"w{index}.{life}"
            for task in buffer.lease_prompts(name, index, 2, 0.05):
                if (task.prompt.ordinal + life) % 5 == 0:  # dies with its leases; a supervisor notices
                    buffer.release_worker(name)
                    life += 1
                    break
                buffer.put_groups(name, [make.group(task.prompt.ordinal, buffer._core.version)])

    def score(index):
        while not stop.is_set():
            infos = buffer.lease_unscored(f"s{index}", "verifiers", 3, 0.05)
            buffer.put_rewards(f"s{index}", {i.ordinal: make.records(0.0, 1.0) for i in infos})

    threads = [pool.submit(work, i) for i in range(3)] + [pool.submit(score, i) for i in range(2)]
    trained, admitted = [], 0
    try:
        for step in range(steps):
            deadline = time.monotonic() + 20
            while True:
                room = (staleness + 1) * per_step - buffer.outstanding()["live"]
                buffer.admit(make.tasks(*range(admitted, admitted + room)))
                admitted += room
                batch = buffer.sample(step, step, per_step, 0.1)
                if batch is not None:
                    break
                assert time.monotonic() < deadline, buffer.outstanding()
            assert (batch.staleness() <= staleness).all()
            trained += batch.ordinals
            buffer.confirm_trained(step, batch.ordinals)
            buffer.set_version(step + 1)
    finally:
        stop.set()
        buffer.close()
    for thread in threads:
        thread.result(timeout=10)
    assert len(trained) == len(set(trained)) == steps * per_step
    if staleness == 0:
        assert trained == list(range(steps * per_step)), "synchronous batches are the admitted prompts in order"
    assert buffer.stats()["buffer/dropped_groups"] == 0
