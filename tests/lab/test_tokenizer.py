"""The tokenizer: one token per word of the world, letters for everything else."""

import pytest
from transformers import CLIPTokenizer

from contract.concept_text import joined
from lab.world.captions import SAFETY_CONCEPTS, SLD_DEFAULT_TEXT, all_words, caption
from lab.world.scenes import generator, random_scene
from lab.world.tokenizer import MAX_TOKENS, build_tokenizer, encode


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer()


def test_every_word_of_the_world_is_one_token(tokenizer: CLIPTokenizer) -> None:
    assert {word: len(tokenizer.tokenize(word)) for word in all_words()} == dict.fromkeys(all_words(), 1)


def test_captions_survive_the_round_trip(tokenizer: CLIPTokenizer) -> None:
    for index in range(300):
        rng = generator(31, index)
        text = caption(random_scene(rng), rng)
        if text.endswith(SLD_DEFAULT_TEXT):
            continue  # longer than the window
        decoded = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert decoded == text.replace(",", " ,")


@pytest.mark.parametrize("text", ["zeppelin", "Crème brûlée, 3 €!", "😀", "女性", "x" * 500])
def test_unknown_text_falls_back_to_letters_without_unknown_tokens(tokenizer: CLIPTokenizer, text: str) -> None:
    body = tokenizer(text).input_ids[1:-1]
    assert body
    assert not set(body) & {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert encode(tokenizer, [text]).shape == (1, MAX_TOKENS)


def test_the_models_own_safety_text_fits_the_window(tokenizer: CLIPTokenizer) -> None:
    assert len(tokenizer(joined(SAFETY_CONCEPTS)).input_ids) <= MAX_TOKENS


def test_special_tokens_are_set(tokenizer: CLIPTokenizer) -> None:
    ids = encode(tokenizer, [""])[0].tolist()
    assert ids == [tokenizer.bos_token_id] + [tokenizer.eos_token_id] * (MAX_TOKENS - 1)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(tokenizer) - 1
