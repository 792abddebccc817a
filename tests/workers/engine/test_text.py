"""Prompts as the text encoder gets them."""

import torch

from tests import tiny
from workers.engine.text import PromptEncoder


def test_prompts_are_padded_as_the_tokenizer_pads_and_it_is_left_as_it_was_for_other_threads() -> None:
    pipeline = tiny.pipeline()
    prompts, words = PromptEncoder(pipeline.tokenizer, pipeline.text_encoder), tiny.tokenizer()
    for text in ("", "a knife", "é" * 10):
        ids = words(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            assert torch.equal(prompts.encode(text), pipeline.text_encoder(ids)[0][0])
        assert pipeline.tokenizer.backend_tokenizer.padding is None
