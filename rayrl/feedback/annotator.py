"""The annotator: owns the label store and the judge. Callers talk to the store; a loop of its own asks, and never the other way round.

One asyncio loop in a thread keeps up to ``concurrency`` questions in flight, one request each, and refills a slot as soon as it is
free: a slow answer holds up nobody else. Everything a judge can do wrong becomes an `Outcome`; nothing of it reaches a caller.
"""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rayrl.annotations import Annotation, LabelSnapshot, Question, QuestionKind
from rayrl.config.schema import FeedbackConfig
from rayrl.errors import StorageError
from rayrl.feedback import templates
from rayrl.feedback.asking import Asker
from rayrl.feedback.judges.engine import Worker, WorkersJudge
from rayrl.feedback.ledger import Entry
from rayrl.feedback.limits import Breaker, Budget, TokenBucket
from rayrl.feedback.meter import Meter
from rayrl.feedback.outcome import Outcome
from rayrl.feedback.replay import Replay
from rayrl.feedback.store import LabelStore
from rayrl.protocols import Judge

_STOP_S = 5.0
_STEP_ASIDE_S = 0.05
"""How long a caller who only tells what was seen lets the loop go first."""


class Annotator:
    """``judge`` is None where ``replay`` answers, or nobody. `run` works until `stop`, from different threads; the other calls are
    those of `protocols.Annotator`."""

    def __init__(
        self, settings: FeedbackConfig, store: LabelStore, judge: Judge | None, replay: Replay | None = None, seed: int = 0
    ) -> None:
        self._settings, self._store, self._judge, self._replay = settings, store, judge, replay
        tokens, usd = store.spent()
        self._budget = Budget(settings.budget, tokens, usd)
        self._asker = Asker(judge, settings, self._budget) if judge else None
        self._breaker = Breaker(settings.retry)
        self._requests, self._tokens = TokenBucket(settings.budget.requests_per_minute), TokenBucket(settings.budget.tokens_per_minute)
        self._random = random.Random(seed)
        self._running: set[asyncio.Task] = set()
        self._not_before = 0.0
        """The server asked for a pause until then."""
        self._budget_spent = False
        self._storage_problem = ""
        self._server_problem = ""
        self.meter = Meter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = threading.Event()
        self._free = threading.Event()
        """Cleared while the loop has answers to file: callers in a tight loop would keep lock and interpreter from it otherwise."""
        self._free.set()
        self._final = threading.Condition()
        if replay is not None and store.template.kind is QuestionKind.PAIR:  # which pairs were chosen then depended on timing
            store.offer(replay.questions(store.template.hash, store.goal, store.model))
            self._filed()

    # ---- the loop -------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Asks until `stop`."""
        asyncio.run(self._work())

    def stop(self) -> None:
        """Makes `run` return; what is in flight is abandoned and asked again by whoever opens the store next."""
        self._stopping.set()
        self._nudge()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                self._wake.clear()
                self._go_first()
                pause = self._send()
                self._commit()
                try:
                    async with asyncio.timeout(min(pause, self._settings.flush_s)):
                        await self._wake.wait()
                except TimeoutError:
                    pass
        finally:
            self._loop = None
            self._free.set()
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running, timeout=_STOP_S)
            if self._judge is not None:
                await self._judge.close()
            self._close()

    def _go_first(self) -> None:
        """Callers step aside until everything that is ready in the loop at this moment is done."""
        if self._free.is_set() and self._loop is not None:
            self._free.clear()
            self._loop.call_soon(self._free.set)

    def _send(self) -> float:
        """Fills the free slots; returns after how many seconds there may be more to do."""
        if self._asker is None:
            return self._settings.flush_s
        free = self._settings.concurrency - len(self._running)
        self._store.fill_pairs(free + self._settings.concurrency - self._store.sizes()["backlog"])
        leased: list[Entry] = []
        pause = self._settings.flush_s
        while len(leased) < free:
            now = time.monotonic()
            pause = self._pause(now)
            if pause > 0:
                break
            entry = self._store.lease(now, self._reserve)
            if entry is None:
                pause = self._settings.flush_s
                break
            self._breaker.sent()
            self._requests.take(len(self._asker.orders(entry.question, self._store.template_of(entry))), now)
            self._tokens.take(entry.reserved_tokens, now)
            leased.append(entry)
        if leased:
            self._commit()  # before it is sent: a question that was paid for is never forgotten
        for entry in leased:
            task = asyncio.get_running_loop().create_task(self._ask(entry, (entry.reserved_tokens, entry.reserved_usd)))
            self._running.add(task)
            task.add_done_callback(self._done)
        return pause

    def _pause(self, now: float) -> float:
        """Seconds until a question may be sent."""
        trying = self._breaker.delay(now)
        if trying is None:
            return self._settings.flush_s
        return max(trying, self._not_before - now, self._requests.delay(now), self._tokens.delay(now))

    def _reserve(self, entry: Entry) -> tuple[int, float] | None:
        assert self._asker is not None
        cap = self._settings.budget.labels
        is_one_too_many = cap is not None and not entry.asked and self._store.ledger.counts.asked >= cap
        most = self._asker.most_tokens(entry.question, self._store.template_of(entry))
        reserved = None if is_one_too_many else self._budget.reserve(*most)
        self._budget_spent = reserved is None
        return reserved

    async def _ask(self, entry: Entry, reserved: tuple[int, float]) -> None:
        assert self._asker is not None
        try:
            outcome = await self._asker.attempt(entry.question, self._store.template_of(entry))
        except asyncio.CancelledError:
            raise
        except Exception as e:  # a fault of ours must not eat the question, nor the loop
            outcome = Outcome((), f"internal: {type(e).__name__}: {e}")
        self._go_first()
        if self._breaker.is_open:
            outcome = replace(outcome, counts=False)  # the whole server is at fault
        now = time.monotonic()
        self._budget.settle(reserved, outcome.tokens, outcome.cost_usd)
        self._tokens.take(outcome.tokens - reserved[0], now)
        self.meter.attempt(outcome)
        self._watch_server(outcome, now)
        if outcome.values or not outcome.retry:
            self._store.settle(entry, outcome)
        else:
            pause = self._backoff(entry.attempts) if outcome.counts else 0.0
            self._store.give_back(entry, outcome, now + pause if pause else 0.0)

    def _watch_server(self, outcome: Outcome, now: float) -> None:
        """Who is to blame decides about the breaker: an answer that cannot be read came from a server that works."""
        if outcome.kind in ("connection", "timeout", "http", "garbage", "key", "model"):
            at_once = outcome.kind in ("key", "model")
            self._breaker.failed(now, open_at_once=at_once)
            if at_once or self._breaker.is_open:
                self._say(outcome.error)
        elif outcome.kind == "rate":
            self._breaker.spared()
        else:
            self._breaker.succeeded()
            self._server_problem = ""
        if outcome.pause_s or outcome.kind in ("rate", "connection"):
            self._not_before = max(self._not_before, now + max(outcome.pause_s, self._settings.retry.backoff_s))

    def _say(self, problem: str) -> None:
        if problem != self._server_problem:
            self._server_problem = problem
            print(f"annotator: {problem}", flush=True)

    def _backoff(self, attempts: int) -> float:
        """Seconds before the next attempt: doubled each time, with jitter between half and all of it."""
        retry = self._settings.retry
        return min(retry.backoff_max_s, retry.backoff_s * 2.0**attempts) * self._random.uniform(0.5, 1.0)

    def _done(self, task: asyncio.Task) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            print(f"annotator: {task.exception()!r}", flush=True)
        self._wake.set()

    def _commit(self) -> None:
        try:
            finals = self._store.flush()
        except StorageError as e:
            if str(e) != self._storage_problem:
                print(f"annotator: {e}", flush=True)
            self._storage_problem = str(e)
            return
        self._storage_problem = ""
        if finals:
            with self._final:
                self._final.notify_all()

    def _close(self) -> None:
        try:
            self._store.close()
        except StorageError as e:  # what is lost is asked again
            print(f"annotator: {e}", flush=True)

    def _nudge(self) -> None:
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # it ended this very moment
                return

    # ---- what callers may ask (see protocols.Annotator) -----------------------------------------------------------------------------

    def sight(
        self, texts: Mapping[int, bytes | str], sightings: Mapping[int, int], first_sightings: Mapping[int, int] | None = None
    ) -> list[int]:
        self._free.wait(_STEP_ASIDE_S)
        wanted = self._store.sight(texts, sightings, first_sightings)
        self._filed()
        return wanted

    def offer_pairs(self, pairs: Sequence[Question]) -> int:
        self._free.wait(_STEP_ASIDE_S)
        new = len(self._store.offer(pairs))
        self._filed()
        return new

    def ask(self, questions: Sequence[Question], template: str | None = None, wait_s: float = 0.0) -> list[Annotation | None]:
        keys = self._store.ask(questions, _template(template) if template else None)
        self._filed()
        limit, found = time.monotonic() + wait_s, dict[str, Annotation]()
        while True:
            with self._final:
                for key in {k for k in keys if k} - found.keys():
                    annotation = self._store.annotation(key)
                    if annotation is not None:
                        found[key] = annotation
                left = limit - time.monotonic()
                if len(found) == len({k for k in keys if k}) or left <= 0 or self._stopping.is_set():
                    return [found.get(key) for key in keys]
                self._final.wait(min(left, 1.0))

    def use_judges(self, workers: Sequence[Worker]) -> None:
        """The judge workers of this cluster changed: one was replaced."""
        if isinstance(self._judge, WorkersJudge):
            self._judge.use(workers)

    def note_uncertainty(self, uncertainty: Mapping[int, float]) -> None:
        self._store.note_uncertainty(uncertainty)

    def waiting(self, limit: int) -> dict[int, str]:
        return self._store.waiting(limit)

    def snapshot(self, newer_than: int = -1) -> LabelSnapshot | None:
        return self._store.snapshot(newer_than)

    def labels_since(self, cursor: int = 0, limit: int = 1000) -> tuple[int, list[Annotation]]:
        return self._store.labels_since(cursor, limit)

    def flush(self) -> int:
        self._store.flush(everything=True)
        return self._store.sizes()["version"]

    def save(self, path: Path) -> None:
        """A copy of the label store for a commit. Raises `StorageError`."""
        self._store.save(path)

    def problem(self) -> str:
        """Why no question can be answered at present, in words; empty when all is well."""
        if self._storage_problem:
            return self._storage_problem
        if self._is_spent():
            asked = self._store.ledger.counts.asked
            return f"the budget is spent: {asked} questions, {self._budget.tokens:.0f} tokens, {self._budget.usd:.4f} USD"
        return self._server_problem if self._breaker.is_open else ""

    def stats(self) -> dict[str, float]:
        sizes, counts, failed = self._store.sizes(), self._store.ledger.counts, Counter(self._store.failed)
        numbers = {
            "feedback/asked_count": counts.asked,
            "feedback/labelled_count": self._store.labelled,
            "feedback/failed_count": failed.total(),
            "feedback/evicted_count": counts.evicted,
            "feedback/forgotten_count": counts.forgotten,
            "feedback/refused_count": counts.refused,
            "feedback/backlog_questions": sizes["backlog"],
            "feedback/known_questions": sizes["known"],
            "feedback/in_flight_questions": len(self._running),
            "feedback/tokens": self._budget.tokens,
            "feedback/cost_usd": self._budget.usd,
            "feedback/version": sizes["version"],
            "feedback/degraded_bool": float(bool(self.problem())),
            "feedback/breaker_open_bool": float(self._breaker.is_open),
            "feedback/breaker_opened_count": self._breaker.times_open,
            "feedback/budget_spent_bool": float(self._is_spent()),
        }
        numbers |= {f"feedback/failed/{kind}": count for kind, count in failed.items()}
        return {name: float(value) for name, value in (numbers | self.meter.numbers()).items()}

    # ---- inside ---------------------------------------------------------------------------------------------------------------------

    def _is_spent(self) -> bool:
        """Nothing is out whose return could make room in the budget."""
        return self._budget_spent and self._budget.reserved_tokens == 0

    def _filed(self) -> None:
        """Something may wait now."""
        if self._replay is not None:
            self._store.settle_waiting(self._replay.outcome)
            self._commit()
        self._nudge()


@functools.cache
def _template(name: str) -> templates.Template:
    return templates.load(name, "template")
