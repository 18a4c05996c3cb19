"""The label store against a naive model of what it promises: asked once, bounded, durable, versioned."""

import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scripted_judge import messages

from rayrl.annotations import Question, QuestionState
from rayrl.errors import StorageError
from rayrl.feedback import templates
from rayrl.feedback.keys import item_key, question_key
from rayrl.feedback.outcome import Outcome
from rayrl.feedback.store import LabelStore

FREE = lambda entry: (0, 0.0)
GOOD = Outcome((1.0,), raw_answers=("<label>FOO</label>",), tokens=10)
BAD = Outcome((), "malformed: no tag", ("hm",), tokens=10)


def lease_all(store, now=0.0):
    found = []
    while (entry := store.lease(now, FREE)) is not None:
        found.append(entry)
    return found


def see(store, texts, times=1, first=1):
    return store.sight(texts, dict.fromkeys(texts, times), dict.fromkeys(texts, first))


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("sight"), st.lists(st.integers(0, 30), min_size=1, max_size=5), st.booleans()),
        st.tuples(st.just("lease"), st.integers(1, 4)),
        st.tuples(st.just("label"), st.integers(0, 3)),
        st.tuples(st.just("malformed"), st.integers(0, 3)),
        st.tuples(st.just("server down"), st.integers(0, 3)),
        st.tuples(st.just("flush")),
        st.tuples(st.just("kill")),
    ),
    max_size=60,
)


@given(EVENTS)
@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_a_settled_question_is_never_asked_again(tmp_path_factory, settings, events):
    """Model: a set of durable labels, a set of failures, attempts per question. A kill loses what was not flushed, and nothing else."""
    folder = tmp_path_factory.mktemp("store")
    config = settings(max_queued=8, max_known=16)
    open_store = lambda: LabelStore(folder / "f.sqlite", config, templates.load(config.template), "scripted")
    store, texts = open_store(), list(messages(31).items())
    out, durable, fresh = [], {}, {}
    for name, *args in events:
        if name == "sight":
            chosen = dict(texts[i] for i in args[0])
            wanted = store.sight(chosen if args[1] else {}, dict.fromkeys(chosen, 1), dict.fromkeys(chosen, 1))
            assert not (args[1] and wanted), "a text that was sent is never asked for"
            assert not set(wanted) & (durable.keys() | fresh.keys())
        elif name == "lease":
            for _ in range(args[0]):
                entry = store.lease(1e9, FREE)
                if entry is None:
                    break
                assert entry.key not in {e.key for e in out}, "in flight twice"
                assert entry.items[0] not in durable and entry.items[0] not in fresh, "asked although it is settled"
                out.append(entry)
        elif name in ("label", "malformed", "server down") and len(out) > args[0]:
            entry = out.pop(args[0])
            if name == "label":
                store.settle(entry, GOOD)
                fresh[entry.items[0]] = 1.0
            else:
                used = entry.attempts + (name == "malformed")
                store.give_back(entry, BAD if name == "malformed" else Outcome((), "connection: x", counts=False), 0.0)
                if used >= config.retry.max_attempts:
                    fresh[entry.items[0]] = None
        elif name == "flush":
            store.flush()
            durable, fresh = durable | fresh, {}
        elif name == "kill":
            store._database.close()
            store, out, fresh = open_store(), [], {}
        sizes = store.sizes()
        assert sizes["backlog"] <= 8 and sizes["known"] <= 16 + 4 + len(out)
        seen = store.snapshot()
        shown = dict(zip(seen.keys.tolist(), seen.labels.tolist(), strict=True)) if seen else {}
        assert shown == {k: v for k, v in durable.items() if v is not None}, "readers see exactly what is on disk"
    store._database.close()


@pytest.mark.parametrize(
    ("priority", "order"),
    [("first_sightings", [2, 1, 0]), ("frequency", [1, 0, 2]), ("lifo", [2, 1, 0]), ("uncertainty", [0, 2, 1])],
)
def test_priorities_decide_who_is_asked_first(store, settings, priority, order):
    s = store(settings(priority=priority))
    keys = list(messages(3))
    for key, (text, times, first) in zip(keys, zip(messages(3).values(), (5, 9, 1), (1, 2, 3), strict=True), strict=True):
        s.sight({key: text}, {key: times}, {key: first})
    s.note_uncertainty(dict(zip(keys, (0.9, 0.1, 0.5), strict=True)))
    assert [e.items[0] for e in lease_all(s)] == [keys[i] for i in order]


def test_what_somebody_waits_for_goes_before_what_was_only_seen_and_oldest_first(store, settings):
    s = store(settings())
    see(s, messages(3), times=100, first=100)
    asked = s.ask([Question(("one",)), Question(("two",))])
    assert [e.key for e in lease_all(s)][:2] == asked


def test_an_evicted_question_comes_back_when_it_is_seen_often_enough(store, settings):
    s = store(settings(max_queued=2))
    rare, common = messages(1), messages(2, start=1)
    see(s, rare)
    see(s, common, first=5)
    assert s.ledger.counts.evicted == 1 and s.sizes()["backlog"] == 2
    assert see(s, rare, first=50) == [], "its text is still known"
    assert lease_all(s)[0].items[0] == next(iter(rare))


def test_a_forgotten_text_is_asked_for_again(store, settings):
    s = store(settings(max_queued=1, max_known=2))
    many = messages(6)
    see(s, many)
    assert s.ledger.counts.forgotten == 4
    wanted = s.sight({}, dict.fromkeys(many, 1))
    assert len(wanted) == 4 and s.sight({k: many[k] for k in wanted}, dict.fromkeys(wanted, 1)) == []


def test_a_question_is_refused_its_label_after_its_last_attempt(store, settings):
    s = store(settings(retry__max_attempts=3))
    text = messages(1)
    see(s, text)
    for _ in range(3):
        (entry,) = lease_all(s)
        s.give_back(entry, BAD, 0.0)
    s.flush()
    assert lease_all(s) == [] and see(s, text) == [] and s.snapshot(0) is None
    annotation = s.annotation(entry.key)
    assert annotation.state is QuestionState.FAILED and annotation.values == () and annotation.error.startswith("malformed")
    assert annotation.attempts == 3 and annotation.tokens == 30 and s.failed == {"malformed": 1}
    with sqlite3.connect(s._database.path) as db:
        assert db.execute("SELECT COUNT(*), MIN(raw_answers) FROM attempts").fetchone() == (2, '["hm"]')


def test_a_paused_question_waits_and_still_counts_as_backlog(store, settings):
    s = store(settings())
    see(s, messages(1))
    (entry,) = lease_all(s)
    s.give_back(entry, BAD, not_before=100.0)
    assert s.sizes()["backlog"] == 1 and lease_all(s, now=99.0) == [] and len(lease_all(s, now=100.0)) == 1


def test_snapshots_do_not_change_and_grow_by_version(store, settings):
    s = store(settings())
    see(s, messages(5))
    entries = lease_all(s)
    s.settle(entries[0], GOOD)
    assert s.snapshot() is not None and not len(s.snapshot().keys), "not on disk, not to be seen"
    s.flush()
    first = s.snapshot()
    s.settle(entries[1], Outcome((0.0,)))
    s.flush()
    second = s.snapshot(newer_than=first.version)
    assert second.version > first.version and s.snapshot(newer_than=second.version) is None
    assert len(first.keys) == 1 and len(second.keys) == 2 and (np.diff(second.keys) > 0).all()
    keys = np.array([entries[0].items[0], entries[1].items[0], entries[2].items[0], 0], np.uint64).reshape(2, 2)
    np.testing.assert_array_equal(second.lookup(keys), np.array([[1, 0], [np.nan, np.nan]], np.float32))


def test_a_label_carries_all_that_is_needed_to_ask_it_again(store, settings):
    s = store(settings(goal="gold"))
    see(s, messages(1))
    (entry,) = lease_all(s)
    s.settle(entry, Outcome((1.0,), raw_answers=("Gold! <label>FOO</label>",), latency_s=1.5, tokens=70, cost_usd=0.1))
    s.flush()
    cursor, (label,) = s.labels_since()
    template = templates.load("nethack_class")
    assert cursor == label.id and s.labels_since(cursor) == (cursor, [])
    assert (label.template, label.goal, label.model) == (template.hash, template.goals["gold"], "scripted")
    assert (label.raw_answers, label.latency_s, label.tokens, label.cost_usd) == (("Gold! <label>FOO</label>",), 1.5, 70, 0.1)
    assert label.question.texts[0] in messages(1).values() and label.attempts == 1
    assert label.key == question_key(template.hash, label.goal, "scripted", "", label.question.texts)
    with sqlite3.connect(s._database.path) as db:
        assert db.execute("SELECT source FROM templates WHERE hash = ?", (label.template,)).fetchone()[0] == template.source


def test_another_goal_or_model_is_another_question(tmp_path, settings):
    template = templates.load("nethack_class")
    for goal, model in (("gold", "a"), ("combat", "a"), ("combat", "b")):
        s = LabelStore(tmp_path / "f.sqlite", settings(goal=goal), template, model)
        see(s, messages(1))
        (entry,) = lease_all(s)
        s.settle(entry, GOOD)
        s.close()


def test_bytes_and_text_of_a_message_are_one_question(store, settings):
    s = store(settings())
    raw = "café \x80".encode("latin-1")
    assert s.sight({item_key(raw): raw}, {item_key(raw): 1}) == []
    assert s.sight({item_key(raw): raw.decode("latin-1")}, {}) == [] and len(lease_all(s)) == 1


def test_a_key_that_is_not_of_its_text_is_refused(store, settings):
    with pytest.raises(ValueError, match="is not the xxh3-64"):
        store(settings()).sight({7: "text"}, {7: 1})


def test_pairs_are_of_different_texts_and_each_pair_is_made_once(store, settings):
    s = store(settings(template="nethack_pair"))
    see(s, messages(8))
    assert s.fill_pairs(1000) <= 28
    for _ in range(50):
        s.fill_pairs(10)
    entries = lease_all(s)
    pairs = [frozenset(e.question.texts) for e in entries]
    assert len(set(pairs)) == len(pairs) == 28 and all(len(p) == 2 for p in pairs)
    assert s.offer([Question(("same", "same")), Question(("b", "a")), Question(("a", "b"))]) and s.ledger.counts.refused == 1
    assert len(lease_all(s)) == 1


def test_pairs_are_of_what_episodes_show_and_small_talk_waits(store, settings):
    """400 texts were met once, four by a hundred episodes each: the pairs of those four come among the first."""
    s = store(settings(template="nethack_pair"))
    texts = messages(404)
    often = set(list(texts)[200:204])
    s.sight(texts, dict.fromkeys(texts, 1), dict.fromkeys(texts, 1))
    s.sight({}, dict.fromkeys(often, 100), dict.fromkeys(often, 100))
    s.fill_pairs(100)
    pairs = [set(e.items) for e in lease_all(s)]
    assert sum(pair <= often for pair in pairs) >= 5 and len(pairs) == 100
    assert sum(bool(pair & often) for pair in pairs) > 40, "of texts drawn alike two of a hundred pairs have one of the four"


def test_uncertain_pairs_are_chosen_first(store, settings):
    s = store(settings(template="nethack_pair", pairs__select="uncertainty"))
    see(s, messages(40))
    unsure = set(list(messages(40))[:4])
    s.note_uncertainty({key: float(key in unsure) for key in messages(40)})
    s.fill_pairs(30)
    share = np.mean([sum(item in unsure for item in e.items) for e in lease_all(s)]) / 2
    assert share > 0.2, "a random choice has a tenth"


def test_a_text_that_is_too_long_is_refused_and_counted_once(store, settings):
    s = store(settings(max_text=50))
    long = "x" * 51
    for _ in range(3):
        assert s.sight({item_key(long): long}, {item_key(long): 1}) == []
    assert s.ledger.counts.refused == 1 and lease_all(s) == []


def test_budget_keeps_what_died_in_flight(tmp_path, settings):
    config = settings()
    build = lambda: LabelStore(tmp_path / "f.sqlite", config, templates.load(config.template), "m")
    s = build()
    see(s, messages(2))
    s.lease(0.0, lambda e: (500, 0.25))
    (other,) = lease_all(s)
    s.settle(other, GOOD)
    s.flush()
    s._database.close()  # the process dies
    again = build()
    assert again.spent() == (510, 0.25)
    assert len(lease_all(again)) == 1, "and asks it again"
    assert again.ledger.counts.asked == 2, "without counting it twice"


def test_an_answer_that_was_on_its_way_when_the_process_died_is_asked_for_again_and_its_label_counts_once(tmp_path, settings):
    """The question is the key, so that readers of labels, from any cursor, and every count know it once; both answers are paid for."""
    config, texts = settings(), messages(3)
    open_store = lambda: LabelStore(tmp_path / "f.sqlite", config, templates.load(config.template), "scripted")
    store = open_store()
    see(store, texts)
    asked = lease_all(store)
    store.settle(asked[0], GOOD)
    store.flush()
    cursor, before = store.labels_since(0)
    del store  # killed: two answers are on their way, and nobody is there to take them
    again = open_store()
    see(again, texts)
    on_their_way = lease_all(again)
    assert {entry.key for entry in on_their_way} == {entry.key for entry in asked[1:]}
    for entry in on_their_way:
        again.settle(entry, GOOD)
    again.flush()
    _, after = again.labels_since(cursor)
    assert len(before) == 1 and sorted(a.key for a in before + after) == sorted(entry.key for entry in asked)
    assert again.labelled == again.ledger.counts.asked == 3 and len(again.snapshot().keys) == 3


def test_a_disk_that_refuses_loses_nothing(store, settings, monkeypatch):
    s = store(settings())
    see(s, messages(1))
    (entry,) = lease_all(s)
    s.settle(entry, GOOD)
    with monkeypatch.context() as m:
        m.setattr(s._database, "commit", lambda *a: (_ for _ in ()).throw(StorageError("disk full")))
        with pytest.raises(StorageError):
            s.flush()
        assert s.snapshot(0) is None
    s.flush()
    assert len(s.snapshot().keys) == 1


def test_a_file_of_another_kind_is_refused(tmp_path, settings):
    (tmp_path / "f.sqlite").write_text("this is no database, " * 100)
    with pytest.raises(StorageError, match=r"f\.sqlite"):
        LabelStore(tmp_path / "f.sqlite", settings(), templates.load("score"), "m")
