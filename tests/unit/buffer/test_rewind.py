"""The learner lost the weights of some steps: what the buffer makes of it."""

from __future__ import annotations

import pytest

from rayrl.buffer import snapshot
from rayrl.types import OrdinalState


@pytest.fixture
def rewound(make):
    """Ordinals 0 and 1 were trained before the snapshot, 2 and 3 after it, 4 and 5 are at the learner, 6 is ready, 7 in flight."""
    core = make.core(max_staleness=1)
    make.ready(core, 0, 1)
    core.select(0, 0, 2)
    core.confirm_trained(0, [0, 1])
    core.set_version(1)
    saved = snapshot.take(core)
    make.ready(core, 2, 3, version=1)
    core.select(1, 1, 2)
    core.confirm_trained(1, [2, 3])
    core.set_version(2)
    make.ready(core, 4, version=1)
    make.ready(core, 5, 6, version=2)
    core.select(2, 2, 2)
    core.admit(make.tasks(7))
    core.lease_prompts("maker", 0, 1, now=0.0)
    assert snapshot.trained_since(core, saved) == [2, 3]
    core.rewind(make.tasks(2, 3), 3)
    return core


def test_what_was_trained_in_vain_waits_and_what_engines_wrote_is_kept_unless_it_is_too_old_by_now(rewound):
    states = {ordinal: rewound.ledger.state(ordinal) for ordinal in range(8)}
    assert states == {
        0: OrdinalState.TRAINED,
        1: OrdinalState.TRAINED,
        2: OrdinalState.QUEUED,
        3: OrdinalState.QUEUED,
        4: OrdinalState.QUEUED,  # sampled at version 1, and 3 - 1 exceeds the bound
        5: OrdinalState.BUFFERED,
        6: OrdinalState.BUFFERED,
        7: OrdinalState.IN_FLIGHT,
    }
    assert rewound.outstanding() == {"live": 4, "queued": 1, "in_flight": 1, "unscored": 0, "ready": 2, "leased": 0, "parked": 2}
    assert len(rewound.ledger.dropped) == 0


def test_parked_ordinals_are_leased_only_when_they_are_let_in_and_are_trained_once_more(rewound, make):
    assert [t.prompt.ordinal for t in rewound.lease_prompts("maker", 0, 10, now=1.0)] == [4]
    assert rewound.ledger.unpark(1) == 1
    assert [t.prompt.ordinal for t in rewound.lease_prompts("maker", 0, 10, now=1.0)] == [2]
    assert rewound.ledger.unpark(5) == 1 and rewound.ledger.unpark(5) == 0
    with pytest.raises(ValueError, match="twice"):
        rewound.admit(make.tasks(3))


def test_a_commit_made_while_ordinals_are_parked_counts_them_as_unfinished(rewound):
    assert snapshot.pending_ordinals(snapshot.take(rewound)) == [2, 3, 4, 5, 6, 7]


def test_versions_count_on_after_a_rewind(rewound):
    assert rewound.version == 3
    with pytest.raises(ValueError, match="goes back"):
        rewound.set_version(2)
