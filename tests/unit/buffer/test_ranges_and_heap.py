"""The two containers under the ledger, against a plain set and a plain sort."""

import heapq
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayrl.buffer.heap import OrdinalHeap
from rayrl.buffer.ranges import RangeSet


@given(st.lists(st.integers(0, 60), unique=True))
def test_range_set_equals_a_plain_set_whatever_the_order_of_arrival(values):
    ranges = RangeSet()
    for value in values:
        ranges.add(value)
    assert list(ranges) == sorted(values)
    assert len(ranges) == len(values)
    assert [v in ranges for v in range(-1, 62)] == [v in set(values) for v in range(-1, 62)]
    pieces = ranges.ranges()
    assert all(end < start for (_, end), (start, _) in pairwise(pieces)), "adjacent ranges must have merged"
    assert list(RangeSet(pieces)) == sorted(values)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=80))
def test_range_set_with_removals_equals_a_plain_set(actions):
    ranges, model = RangeSet(), set()
    for adds, value in actions:
        if adds == (value in model):
            with pytest.raises(ValueError, match="already" if adds else "no member"):
                (ranges.add if adds else ranges.remove)(value)
            continue
        (ranges.add if adds else ranges.remove)(value)
        (model.add if adds else model.remove)(value)
        assert list(ranges) == sorted(model) and len(ranges) == len(model)
    assert list(RangeSet(ranges.ranges())) == sorted(model)


def test_a_second_membership_is_refused():
    ranges = RangeSet([[0, 3]])
    with pytest.raises(ValueError, match="already"):
        ranges.add(1)


def test_overlapping_ranges_are_refused():
    with pytest.raises(ValueError, match="disjoint"):
        RangeSet([[0, 3], [2, 5]])


def test_heap_with_deletions_pops_what_a_sorted_dictionary_would():
    rng, heap, model = random.Random(0), OrdinalHeap(), {}
    for _ in range(20_000):
        action, ordinal = rng.random(), rng.randrange(200)
        if action < 0.5:
            key = rng.randrange(1000)
            heap.push(key, ordinal)
            model[ordinal] = key
        elif action < 0.75:
            heap.discard(ordinal)
            model.pop(ordinal, None)
        else:
            expected = min(((k, o) for o, k in model.items()), default=None)
            assert heap.pop() == expected
            if expected:
                del model[expected[1]]
        assert len(heap) == len(model)


def test_memory_of_the_heap_follows_its_members_not_its_history():
    heap = OrdinalHeap()
    heap.push(-1, 0)
    for ordinal in range(1, 5000):
        heap.push(ordinal, ordinal)
        heap.discard(ordinal)
    assert len(heap._heap) < 200
    assert heap._heap == heapq.nsmallest(len(heap._heap), heap._heap)
