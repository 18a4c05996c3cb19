"""How a run goes on after the death of something that there is only one of: the learner, or the buffer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rayrl import checkpoint
from rayrl.buffer import journal
from rayrl.buffer.snapshot import next_ordinal, pending_ordinals
from rayrl.errors import BufferLost, PayloadLost, RanksLost

if TYPE_CHECKING:
    from rayrl.run import Run

_IN_A_ROW = 3
"""How often in a row one of them may die without a step that counts."""


def recover(run: Run, failure: RanksLost | BufferLost) -> None:
    """Raises ``failure`` when there is nothing to go on from, or when it has come to nothing several times in a row."""
    if run.recoveries >= _IN_A_ROW:
        raise failure
    run.recoveries += 1
    if isinstance(failure, BufferLost):
        _restore_buffer(run, failure)
        if run.owed is not None:
            _go_on_from(run, run.owed)
    elif isinstance(failure.__cause__, PayloadLost) and len(run.roles.learner.handles) == 1:
        _generate_again(run, failure)
    else:
        _restore_learner(run, failure)


def _restore_buffer(run: Run, failure: BufferLost) -> None:
    """Another buffer goes on from the journal: what was generated and not trained on is generated again.

    What the learner has by now is learned, and counts; it may have failed too, when the dead process owned what it was about to read.
    """
    buffer, known = run.roles.buffer, journal.replay(run.folder.journal)
    buffer.restart()
    buffer.restore(known, run.tasks_of(pending_ordinals(known)))
    if not run.unfilled:
        run.work.seek(next_ordinal(known))  # prompts that were on their way when it died were admitted nowhere
    run.anew()
    run.recorder.recovered(failure, str(run.folder.journal), run.step)
    for working in list(run.under_way):
        run.finish(working)
        counted = not buffer.relend(working.batch)
        run.publish(working.weights)
        run.confirm(working, counted)
        run.commit_if_due()


def _generate_again(run: Run, failure: RanksLost) -> None:
    """The learner could not read its batch, and has changed nothing: the trajectories died with their buffer or their node.

    Several ranks wait for one another at such a moment, so that they are started again instead.
    """
    run.settle_commit()
    for working in run.under_way:
        run.roles.buffer.return_batch(working.batch.step)
        run.roles.buffer.requeue_lost(list(working.batch.ordinals))
    run.under_way.clear()
    run.anew()
    run.recorder.recovered(failure, "the same weights, with that batch generated again", run.step)


def _restore_learner(run: Run, failure: RanksLost) -> None:
    """A new learner goes on from the last commit. Rollouts are kept, what was trained since is trained again.

    The version counts on: weights of a lost step and those that replace them must never have one number.
    """
    if not run.has_commit:
        raise failure
    run.settle_commit()
    place = checkpoint.latest(run.folder, run.recorder.say)
    saved = checkpoint.read_state(place)
    run.roles.learner.restart()
    run.roles.learner.call("load", place / checkpoint.LEARNER, timeout_s=run.config.deadlines.save_s)
    run.step, run.version = saved["step"], run.version + 1
    run.under_way.clear()
    run.owed = place
    _go_on_from(run, place)
    run.recorder.recovered(failure, str(place), run.step)


def _go_on_from(run: Run, place: Path) -> None:
    """Everybody but the learner learns that it is back at ``place``. Owed until it is done: the buffer may die meanwhile, and then comes
    back with what it knew before.
    """
    saved, buffer = checkpoint.read_state(place), run.roles.buffer
    run.anew()
    if run.unfilled:
        run.version = saved["version"]
    elif run.asynchronous:
        lost = buffer.trained_since(saved["buffer"])
        buffer.rewind(run.tasks_of(lost), run.version)
    else:  # nothing is under way: the same prompts get the same samples again
        buffer.reset()
        run.work.go_on(run.roles.rollout, saved.get("engines", {}))
        run.refill_buffer(saved, place)
        buffer.set_version(run.version)
    if run.config.agent.env is not None:  # texts are sent once, and those since the commit are lost
        run.roles.rollout.call("repeat_texts", timeout_s=run.config.deadlines.call_s)
    run.reconnect()
    run.owed = None
