from hypothesis import given
from hypothesis import strategies as st

from rayrl.feedback.queue import BoundedQueue

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 12), st.tuples(st.integers(0, 3), st.integers(0, 3))),
        st.tuples(st.just("pop")),
        st.tuples(st.just("discard"), st.integers(0, 12)),
    ),
    max_size=200,
)


class Naive:
    """The same contract over a plain list: key, priority, age."""

    def __init__(self, capacity):
        self.capacity, self.rows, self.stamp = capacity, {}, 0

    def put(self, key, priority):
        if key in self.rows and self.rows[key][0] == priority:
            return None
        lost = None
        self.stamp += 1
        if key not in self.rows and len(self.rows) >= self.capacity:
            worst = min(self.rows, key=lambda k: (self.rows[k][0], -self.rows[k][1]))
            if priority <= self.rows[worst][0]:
                return key
            lost = worst
            del self.rows[worst]
        self.rows[key] = (priority, self.stamp)
        return lost

    def pop(self):
        if not self.rows:
            return None
        best = max(self.rows, key=lambda k: (self.rows[k][0], -self.rows[k][1]))
        del self.rows[best]
        return best

    def discard(self, key):
        self.rows.pop(key, None)


@given(st.integers(1, 6), OPERATIONS)
def test_it_does_what_a_sorted_list_does(capacity, operations):
    queue, naive = BoundedQueue(capacity), Naive(capacity)
    for name, *args in operations:
        assert getattr(queue, name)(*args) == getattr(naive, name)(*args)
        assert len(queue) == len(naive.rows) <= capacity
        assert queue.top(3) == sorted(naive.rows, key=lambda k: (tuple(-p for p in naive.rows[k][0]), naive.rows[k][1]))[:3]


def test_changing_priorities_do_not_make_it_grow():
    queue = BoundedQueue(10)
    for i in range(10_000):
        queue.put(i % 10, (i,))
    assert len(queue._largest) < 200 and len(queue._smallest) < 200
