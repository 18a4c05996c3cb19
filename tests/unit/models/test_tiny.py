"""The tiny checkpoints behave, loaded through transformers' Auto classes, as they did when they were built."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from rayrl.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nano"), tiny.NANO, seed=3)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@given(st.text(alphabet=tiny.CHARACTERS, max_size=40).filter(lambda s: not any(t in s for t in ("<pad>", "<eos>", "<unk>"))))
def test_text_survives_encoding_and_decoding(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == [tiny.CHARACTERS.index(c) + 3 for c in text]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


@pytest.mark.parametrize("text", [tiny.CHARACTERS, "a  b", "   ", "\n\n \n", " . , ' s n't", "7+8=15,3+4+1=8->85", " leading", "trailing "])
def test_white_space_and_punctuation_survive(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


def test_saved_tokenizer_is_the_built_one(tokenizer):
    built = tiny.build_tokenizer()
    assert tokenizer.get_vocab() == built.get_vocab()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert built.encode("a b\n") == tokenizer.encode("a b\n")


def test_saved_model_is_the_built_one(folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    built = tiny.build_model(tiny.NANO, seed=3).state_dict()
    other = tiny.build_model(tiny.NANO, seed=4).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in built.items())
    assert any(not torch.equal(other[name], tensor) for name, tensor in built.items())


@pytest.mark.parametrize(("shape", "millions"), [(tiny.BENCH, 4.5), (tiny.SMALL, 0.8), (tiny.NANO, 0.08)])
def test_sizes_are_as_documented(shape, millions):
    assert sum(p.numel() for p in tiny.build_model(shape).parameters()) / 1e6 == pytest.approx(millions, rel=0.05)
