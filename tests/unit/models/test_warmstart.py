"""The careless student writes what it is documented to write, and a warm start holds what its name says."""

import random
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayrl.data.planted import planted
from rayrl.errors import DataError, StorageError
from rayrl.models import students, tiny, warmstart
from rayrl.models.students import Habits, adder, completion, searcher
from rayrl.models.warmstart import Recipe, build

PAIRS = [(a, b) for a in range(10, 100) for b in range(10, 100)]
CAREFUL = Habits(forgets_carry=0.0, loses_hundred=0.0, slips=0.0)
QUICK = Recipe(shape=tiny.NANO, steps=3, batch=4)
TRAIN = [("37+48=", "85"), ("12+11=", "23"), ("95+97=", "192")]


def answer(text: str) -> str:
    return text.rpartition("->")[2]


def is_right(a: int, b: int, habits: Habits, rng: random.Random) -> bool:
    return answer(adder(f"{a}+{b}=", rng, habits)) == str(a + b)


def silent(line: str) -> None: ...


def test_a_careful_student_writes_only_true_equations():
    for a, b in PAIRS:
        completion = adder(f"{a}+{b}=", random.Random(0), CAREFUL)
        assert answer(completion) == str(a + b)
        for left, right in re.findall(r"([\d+]+)=(\d+)", completion):
            assert sum(map(int, left.split("+"))) == int(right)


def test_the_example_in_the_docstring():
    assert adder("37+48=", random.Random(0), CAREFUL) == "7+8=15,3+4+1=8->85"


def test_a_mistake_is_carried_through_to_the_answer():
    rng = random.Random(1)
    for a, b in rng.sample(PAIRS, 2000):
        units, carry, tens, result = re.fullmatch(
            r"\d\+\d=(\d+),\d\+\d\+(\d)=(\d+)->(\d+)", adder(f"{a}+{b}=", rng)
        ).groups()  # fmt: skip
        assert int(tens) == a // 10 + b // 10 + int(carry)
        assert int(carry) in (0, int(units) // 10)
        written = str(int(tens) * 10 + int(units) % 10)
        assert result in ((written, written[1:]) if len(written) == 3 else (written,))


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [(11, 22, 1.0), (37, 48, 1 - students.FORGETS_CARRY), (81, 92, 1 - students.LOSES_HUNDRED),
     (95, 97, (1 - students.FORGETS_CARRY) * (1 - students.LOSES_HUNDRED))],
)  # fmt: skip
def test_mistakes_happen_as_often_as_documented(a, b, share):
    rng, n = random.Random(2), 4000
    right = sum(is_right(a, b, Habits(), rng) for _ in range(n)) / n
    assert right == pytest.approx(share * (1 - students.SLIPS), abs=0.03)


def test_the_preferred_answers_are_right_for_a_fifth_to_two_fifths_of_the_problems():
    habit = Habits(forgets_carry=1.0, loses_hundred=1.0, slips=0.0)  # what greedy decoding of a perfect imitator writes
    assert 0.20 < sum(is_right(a, b, habit, random.Random(0)) for a, b in PAIRS) / len(PAIRS) < 0.40


@pytest.mark.parametrize("problem", ["3+4=", "37-48=", "137+48=", "37+48", "07+48=", " 37+48="])
def test_other_problems_are_answered_by_their_ground_truth_or_refused(problem):
    assert completion(problem, "the truth", random.Random(0)) == "the truth"
    with pytest.raises(DataError, match="nobody can answer"):
        completion(problem, None, random.Random(0))


def test_a_sure_searcher_finds_what_the_task_hides_and_a_careless_one_finds_it_as_often_as_documented():
    rng = random.Random(3)
    for row in planted("train", digits=[2, 5], size=200):
        attempts = re.split("[.,]", searcher(row.prompt, rng, Habits(sure=1.0)))
        assert set(attempts[:-1]) == {row.answer}
    traces = [searcher("374>", rng) for _ in range(4000)]
    assert sum(t[:3] == "625" for t in traces) / 4000 == pytest.approx(students.SURE**3, abs=0.03)
    assert sum(t[3] == "." for t in traces) / 4000 == pytest.approx(students.STOPS, abs=0.03)
    assert {len(t) for t in traces} == {students.TRACE}


def test_only_the_given_problems_are_shown(tmp_path, monkeypatch):
    shown = set()
    monkeypatch.setattr(warmstart, "completion", lambda p, *rest: shown.add(p) or completion(p, *rest))
    build(tmp_path / "m", TRAIN, report=silent, recipe=replace(QUICK, steps=10))
    assert shown == {prompt for prompt, _ in TRAIN}


def test_targets_are_the_completion_and_the_end_token_alone():
    tokenizer = tiny.build_tokenizer()
    inputs, targets = warmstart._encode([("1+2=", "3"), ("11+22=", "33,4")], tokenizer)
    kept = [[tokenizer.decode([t]) for t in row.tolist() if t != -100] for row in targets]
    assert kept == [["3", "<eos>"], ["3", "3", ",", "4", "<eos>"]]
    assert torch.equal(inputs[:, 1:][targets[:, :-1] != -100], targets[:, :-1][targets[:, :-1] != -100])


def test_a_finished_warm_start_is_reused_and_other_settings_rebuild_it(tmp_path):
    lines = []
    folder = build(tmp_path / "m", TRAIN, report=lines.append, recipe=QUICK)
    first = (folder / "model.safetensors").stat().st_mtime_ns
    assert build(folder, list(reversed(TRAIN)), report=lines.append, recipe=QUICK) == folder
    assert "up to date" in lines[-1]
    assert (folder / "model.safetensors").stat().st_mtime_ns == first
    build(folder, TRAIN, seed=1, report=lines.append, recipe=QUICK)
    assert (folder / "model.safetensors").stat().st_mtime_ns != first
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match="not empty"):
        build(tmp_path, TRAIN, report=silent, recipe=QUICK)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_start_is_a_job_for_rl(tmp_path):
    """Greedy accuracy on unseen problems is 20 to 40 %, and sampling finds the right answer in most groups of eight."""
    rng = random.Random(0)
    problems = [f"{a}+{b}=" for a, b in rng.sample(PAIRS, len(PAIRS))]
    held_out, train = problems[:810], problems[810:]
    folder = build(tmp_path / "m", [(p, None) for p in train], report=print)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)

    def share_right(count: int, times: int, **sampling) -> torch.Tensor:
        asked = [p for p in held_out[:count] for _ in range(times)]
        inputs = torch.tensor([tokenizer.encode(p) for p in asked])
        with torch.no_grad():
            out = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=24, **sampling)[:, inputs.shape[1] :]
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        right = [answer(t) == str(sum(map(int, p[:-1].split("+")))) for p, t in zip(asked, texts, strict=True)]
        return torch.tensor(right, dtype=torch.float32).view(-1, times)

    assert 0.20 <= share_right(810, 1, do_sample=False).mean() <= 0.40
    assert share_right(128, 8, do_sample=True, temperature=1.0, top_k=0).amax(dim=1).mean() > 0.6
