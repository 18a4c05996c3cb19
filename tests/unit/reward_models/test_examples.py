import pytest

from rayrl.reward_models.examples import ExampleSet, Label, Pair


def labels(count: int) -> list[Label]:
    return [Label(f"text {i}", float(i % 2)) for i in range(count)]


def test_the_split_follows_from_content_alone():
    a, b = ExampleSet(10_000, 0.2), ExampleSet(10_000, 0.2)
    a.add(labels(2000))
    for label in reversed(labels(2000)):
        b.add([label])
    assert {e.text for e in a.validation} == {e.text for e in b.validation}
    assert len(a.validation) == pytest.approx(400, abs=60) and len(a.train) + len(a.validation) == 2000


def test_what_belongs_to_one_prompt_is_on_one_side():
    examples = ExampleSet(10_000, 0.3)
    examples.add(Pair(f"{p} {i}", f"{p} {i + 1}", 1.0, group=f"prompt {p}") for p in range(100) for i in range(5))
    assert not {e.group for e in examples.train} & {e.group for e in examples.validation}
    assert examples.validation and examples.train


def test_a_newer_label_replaces_the_older_one_also_when_the_pair_is_turned_round():
    examples = ExampleSet(10, 0.0)
    assert examples.add([Pair("a", "b", 1.0), Label("a", 0.0)]) == 2
    assert examples.add([Pair("b", "a", 1.0), Label("a", 1.0)]) == 0
    assert list(examples) == [Pair("b", "a", 1.0), Label("a", 1.0)]


def test_it_is_bounded_and_the_oldest_goes():
    examples = ExampleSet(100, 0.0)
    for label in labels(250):
        examples.add([label])
    assert [e.text for e in examples] == [f"text {i}" for i in range(150, 250)]
    assert examples.evicted == 150


def test_a_pair_of_equal_texts_and_a_preference_out_of_range_are_refused():
    with pytest.raises(ValueError, match="equal texts"):
        Pair("a", "a", 0.5)
    with pytest.raises(ValueError, match="preference of 2"):
        Pair("a", "b", 2.0)


def test_saving_keeps_everything_and_the_order(tmp_path):
    examples, copy = ExampleSet(100, 0.2), ExampleSet(100, 0.2)
    examples.add([Pair("a\n", "b é", 0.5, 2.0, "p"), *labels(9), Label("", 1.0)])
    examples.save(tmp_path / "e.parquet")
    copy.load(tmp_path / "e.parquet")
    assert list(copy) == list(examples) and copy.validation == examples.validation
