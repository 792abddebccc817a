"""Prompts to conditionings, each text encoded once and alone: a row's conditioning never depends on its neighbours."""

from collections import OrderedDict

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

CACHED_TEXTS = 1024


class PromptTooLong(ValueError):
    """A prompt has more tokens than the text encoder reads. The gateway refuses it earlier."""


class PromptEncoder:
    """Encodes prompts with the model's text encoder and keeps the latest ones."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._conditionings: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, text: str) -> Tensor:
        """A prompt → (tokens, dim).

        Raises:
            PromptTooLong: rather than cut the prompt silently.
        """
        if text in self._conditionings:
            self._conditionings.move_to_end(text)
            return self._conditionings[text]
        limit = self._tokenizer.model_max_length
        ids = self._tokenizer(text, padding="max_length", max_length=limit, return_tensors="pt").input_ids
        if ids.shape[1] > limit:
            raise PromptTooLong(f"the prompt has {ids.shape[1]} tokens; this model reads {limit}")
        with torch.no_grad():
            conditioning: Tensor = self._text_encoder(ids.to(self._text_encoder.device))[0][0]
        self._conditionings[text] = conditioning
        if len(self._conditionings) > CACHED_TEXTS:
            self._conditionings.popitem(last=False)
        return conditioning
