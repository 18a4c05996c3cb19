"""The prompt stream: same ordinal, same prompt; every epoch shows every row once; nothing is tokenised differently by batching."""

import json

import numpy as np
import pytest

from rayrl.config.schema import Config, DataConfig, EvaluationConfig, ModelConfig, RunConfig
from rayrl.data.prompts import PromptStream, load_prompts, split_eval
from rayrl.data.rows import Row
from rayrl.data.tokenizer import load_tokenizer
from rayrl.errors import DataError, ModelError
from rayrl.models.tiny import build_tokenizer
from rayrl.protocols import PromptSource

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
DATA = DataConfig(source="test.jsonl")


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def chat_tokenizer():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def numbered(count: int) -> list[Row]:
    return [Row(f"q{i}", f"a{i}", "t", {"i": i}, i + 1) for i in range(count)]


def same(a, b) -> bool:
    return (a.ordinal, a.text, a.ground_truth, a.task, a.metadata) == (b.ordinal, b.text, b.ground_truth, b.task, b.metadata) and (
        np.array_equal(a.token_ids, b.token_ids)
    )


def test_the_stream_fulfils_its_contract(tokenizer):
    stream: PromptSource = PromptStream(numbered(3), tokenizer, DATA, seed=0)
    (prompt,) = stream.take(1)
    assert stream.position == 1 and prompt.ordinal == 0
    assert prompt.token_ids.dtype == np.int32 and prompt.token_ids.tolist() == tokenizer.encode(prompt.text)
    assert prompt.text[0] == "q" and prompt.ground_truth == "a" + prompt.text[1:] and prompt.task == "t"
    assert prompt.metadata == {"i": int(prompt.text[1:])}


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_shows_every_row_once(tokenizer, shuffle):
    stream = PromptStream(numbered(10), tokenizer, DataConfig(source="x", shuffle=shuffle), seed=1)
    epochs = [[p.text for p in stream.take(10)] for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"q{i}" for i in range(10))
    assert (epochs[0] != epochs[1]) == shuffle
    assert (epochs[0] == [f"q{i}" for i in range(10)]) == (not shuffle)


def test_seeking_anywhere_continues_as_if_the_stream_had_run_there(tokenizer):
    whole = PromptStream(numbered(7), tokenizer, DATA, seed=5).take(40)
    for start in (0, 1, 6, 7, 8, 13, 20, 35):
        stream = PromptStream(numbered(7), tokenizer, DATA, seed=5)
        stream.seek(start)
        assert stream.position == start
        for expected, actual in zip(whole[start:], stream.take(40 - start), strict=True):
            assert same(expected, actual)
    assert [p.ordinal for p in whole] == list(range(40))


def test_the_order_depends_on_the_seed(tokenizer):
    first, again, other = (PromptStream(numbered(20), tokenizer, DATA, seed=s).take(20) for s in (0, 0, 1))
    assert [p.text for p in first] == [p.text for p in again] != [p.text for p in other]


def test_rendering_equals_the_tokenizers_own_chat_rendering(chat_tokenizer):
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}, {"role": "user", "content": "x"}]
    rows = [Row("hello"), Row(talk)]
    config = DataConfig(source="x", system_prompt="be brief", shuffle=False)
    first, second = PromptStream(rows, chat_tokenizer, config, seed=0).take(2)
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    for prompt, messages in ((first, asked), (second, talk)):
        expected = chat_tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)
        assert prompt.token_ids.tolist() == list(expected)
        assert prompt.text == chat_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def test_raw_strings_are_fed_where_there_is_no_template_or_it_is_switched_off(tokenizer, chat_tokenizer):
    for tok, config in ((tokenizer, DATA), (chat_tokenizer, DataConfig(source="x", chat_template=False))):
        (prompt,) = PromptStream([Row("37+48=")], tok, config, seed=0).take(1)
        assert prompt.text == "37+48=" and prompt.token_ids.tolist() == tok.encode("37+48=")


def test_messages_without_a_template_are_refused(tokenizer):
    with pytest.raises(DataError, match=r"test.jsonl, line 9: chat messages"):
        PromptStream([Row([{"role": "user", "content": "x"}], number=9)], tokenizer, DATA, seed=0)


def test_a_template_that_refuses_a_row_names_the_row(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DataError, match=r"line 4: the chat template refused it: roles must alternate"):
        PromptStream([Row("x", number=4)], tokenizer, DATA, seed=0)


def test_rows_that_are_too_long_are_refused_with_their_line(tokenizer):
    rows = [Row("x" * n, number=n) for n in (3, 8, 9)]
    with pytest.raises(DataError, match=r"test.jsonl, line 9: the prompt has 9 tokens, data.max_prompt_length is 8"):
        PromptStream(rows, tokenizer, DataConfig(source="test.jsonl", max_prompt_length=8), seed=0)


def test_rows_that_are_too_long_are_skipped_and_counted(tokenizer):
    config = DataConfig(source="x", max_prompt_length=8, too_long="skip")
    stream = PromptStream([Row("x" * n, str(n)) for n in (9, 3, 20, 8, 1)], tokenizer, config, seed=0)
    assert stream.skipped == 2 and len(stream) == 3
    prompts = stream.take(3)
    assert sorted(p.token_ids.size for p in prompts) == [1, 3, 8]
    assert all(p.ground_truth == str(p.token_ids.size) for p in prompts)
    with pytest.raises(DataError, match="no row has at most 8 tokens"):
        PromptStream([Row("x" * 9)], tokenizer, config, seed=0)


def test_ids_beyond_the_models_vocabulary_are_refused(tokenizer):
    biggest = max(tokenizer.encode("a~"))
    PromptStream([Row("a~")], tokenizer, DATA, seed=0, vocab_size=biggest + 1)
    with pytest.raises(ModelError, match=f"token id {biggest} is beyond the model's vocabulary of {biggest}"):
        PromptStream([Row("a~")], tokenizer, DATA, seed=0, vocab_size=biggest)


def test_more_rows_than_one_rendering_batch_keep_their_order_and_answers(tokenizer):
    stream = PromptStream(numbered(2500), tokenizer, DataConfig(source="x", shuffle=False), seed=0)
    assert [p.text for p in stream.take(2500)] == [f"q{i}" for i in range(2500)]
    stream.seek(2100)
    assert stream.take(1)[0].ground_truth == "a2100"


def test_held_out_questions_are_never_trained_on_even_when_rows_repeat():
    rows = [Row(f"q{i % 30}", str(i)) for i in range(90)]
    train, held_out = split_eval(rows, 10, seed=0)
    assert len(held_out) == 10
    assert not {r.prompt for r in train} & {r.prompt for r in held_out}
    assert split_eval(rows, 10, seed=0) == (train, held_out)
    assert split_eval(rows, 10, seed=1)[1] != held_out
    with pytest.raises(DataError, match="leaves none to train on"):
        split_eval(rows, 90, seed=0)


def make_config(tmp_path, **data) -> Config:
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(json.dumps({"prompt": f"q{i}", "answer": str(i)}) for i in range(40)))
    return Config(run=RunConfig(seed=3), data=DataConfig(**({"source": str(source), "eval_size": 8} | data)))


def test_load_prompts_cuts_the_same_held_out_rows_for_every_seed(tokenizer, tmp_path):
    config = make_config(tmp_path)
    stream, held_out = load_prompts(config, tokenizer)
    assert len(stream) == 32 and len(held_out) == 8
    assert not {p.text for p in held_out} & {p.text for p in stream.take(32)}
    assert [p.ordinal for p in held_out] == [-1, -2, -3, -4, -5, -6, -7, -8]
    config.run.seed = 4
    assert all(same(a, b) for a, b in zip(held_out, load_prompts(config, tokenizer)[1], strict=True))


def test_load_prompts_of_a_generated_task_holds_out_its_own_split(tokenizer):
    stream, held_out = load_prompts(Config(data=DataConfig(source="task:arithmetic", eval_size=20)), tokenizer)
    assert len(stream) == 7290 and len(held_out) == 20
    assert not {p.text for p in held_out} & {p.text for p in stream.take(len(stream))}


def test_load_prompts_reads_an_evaluation_source_and_leaves_the_training_rows_whole(tokenizer, tmp_path):
    other = tmp_path / "eval.jsonl"
    other.write_text('{"prompt": "e1", "answer": "1"}\n{"prompt": "e2", "answer": "2"}\n')
    stream, held_out = load_prompts(make_config(tmp_path, eval_source=str(other)), tokenizer)
    assert len(stream) == 40 and {p.text for p in held_out} == {"e1", "e2"}


def test_nothing_is_held_out_when_evaluation_is_off(tokenizer, tmp_path):
    config = make_config(tmp_path)
    config.evaluation = EvaluationConfig(enabled=False)
    stream, held_out = load_prompts(config, tokenizer)
    assert len(stream) == 40 and held_out == []


def test_a_saved_tokenizer_is_loaded_and_pads_with_its_end_token(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tok")
    loaded = load_tokenizer(ModelConfig(path="unused", tokenizer=str(tmp_path / "tok")))
    assert loaded.encode("37+48=") == tokenizer.encode("37+48=")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "padless")
    loaded = load_tokenizer(ModelConfig(path=str(tmp_path / "padless")))
    assert loaded.pad_token_id == loaded.eos_token_id == 1


def test_a_path_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match=r"model.path: .* is not a folder") as caught:
        load_tokenizer(ModelConfig(path=str(tmp_path / "modle")))
    assert "model" in caught.value.hint
    with pytest.raises(ModelError, match=r"model.tokenizer: .* holds no tokenizer files"):
        load_tokenizer(ModelConfig(path="unused", tokenizer=str(tmp_path / "model")))
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(ModelConfig(path=str(tmp_path / "model")))


def test_a_few_shots_are_the_same_for_every_seed_and_are_repeated_for_ever(tokenizer):
    def drawn(seed: int, shots: int) -> list[str]:
        data = DataConfig(source="task:planted", task_args={"digits": [3], "size": 200}, eval_size=4, shots=shots, chat_template=False)
        config = Config(data=data, run=RunConfig(seed=seed), model=ModelConfig(path="x"))
        stream, held_out = load_prompts(config, tokenizer)
        assert len(held_out) == 4
        return [p.text for p in stream.take(3 * shots)]

    assert len(set(drawn(0, 1))) == 1 and drawn(0, 1) == drawn(1, 1)
    assert len(set(drawn(0, 5))) == 5 and set(drawn(0, 5)) == set(drawn(1, 5)) and drawn(0, 5) != drawn(1, 5)
