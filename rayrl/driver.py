"""The driver: a readable schedule. It moves no trajectory and no weight; it says who does what next, and waits with a limit.

Pacing is the only difference between synchronous, one-step-off and asynchronous training: at most
``(max_staleness + 1) x groups_per_step`` prompt groups are admitted and not yet trained, so no group can grow older than the
bound. With bound 0 a batch is admitted when the weights before it are on every engine; otherwise the engines write the next
batches while the learner works on this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayrl.config.loading import Loaded, reload
from rayrl.errors import BufferLost, Interrupted, Preempted, RanksLost, TargetNotReached
from rayrl.recovery import recover
from rayrl.run import Run


def loop(run: Run) -> None:
    """Trains until the target step, or until somebody asks the run to stop."""
    run.publish(run.export())  # engines prove that they hold the learner's weights before anything is generated
    run.evaluate_if_due()
    working = run.learn(run.collect()) if run.wants_more else None
    while working:
        ahead = run.collect_beside(working)  # asynchronous: the next batch is gathered while the learner works …
        run.finish(working)
        following = run.learn(ahead)  # … and handed over before anything else, so that it never waits
        run.publish(working.weights)
        run.confirm(working)
        run.evaluate_if_due()
        run.commit_if_due()
        working = following or (run.learn(run.collect()) if run.wants_more else None)


def train(loaded: Loaded) -> Path:
    """Runs a configuration to its target step and returns the run folder.

    Raises:
        RayrlError: whatever went wrong, the first failure first; also in ``crash.json``.
        Interrupted: Ctrl-C or, as `Preempted`, SIGTERM; the run is saved and `resume` continues it.
        TargetNotReached: the run ended early for another reason.
    """
    return _drive(Run.start(loaded))


def resume(run_dir: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Continues a run from its newest good checkpoint: nothing trained twice, nothing skipped."""
    return _drive(Run.resume(Path(run_dir), reload(run_dir, overrides)))


def _loop_until_done(run: Run) -> None:
    lost: RanksLost | BufferLost | None = None
    while True:
        try:
            if lost is not None:
                recover(run, lost)  # from the last commit, or the buffer's journal; raises the failure where that is no way
            loop(run)
            return run.commit()
        except (RanksLost, BufferLost) as failure:
            if failure is lost:  # there was no way on
                raise
            lost = failure


def _drive(run: Run) -> Path:
    with run:  # starts the roles; on the way out drains them, writes what is left and, after a failure, crash.json
        _loop_until_done(run)
        if not run.interrupted:
            run.evaluate()
        if not run.preempted:  # whoever wants the machine back will not wait for it
            run.export_policy()
    if run.interrupted:
        stopped = Preempted if run.preempted else Interrupted
        raise stopped(f"stopped after step {run.step} of {run.target}; everything is saved", f"go on with: rayrl resume {run.folder.path}")
    if run.step < run.target and not run.spent:
        raise TargetNotReached(f"the run ended at step {run.step} of {run.target}", f"go on with: rayrl resume {run.folder.path}")
    return run.folder.path
