"""Prompts to conditionings, each text encoded once and alone: a row's conditioning never depends on its neighbours."""

from collections import OrderedDict

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from workers.safety.protocol import PromptTokens

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
        with torch.no_grad():
            conditioning: Tensor = self._text_encoder(self._ids(text))[0][0]
        self._conditionings[text] = conditioning
        if len(self._conditionings) > CACHED_TEXTS:
            self._conditionings.popitem(last=False)
        return conditioning

    @torch.no_grad()
    def read(self, text: str) -> PromptTokens:
        """A prompt, whole and with each of its words masked (replaced by token 0, as SAFREE's authors do)."""
        ids = self._ids(text)
        words = len(self._tokenizer(text).input_ids) - 2
        masked = ids.repeat(words, 1)
        masked[torch.arange(words), torch.arange(words) + 1] = 0
        return PromptTokens(self.encode(text), self._text_encoder(masked).pooler_output)

    @torch.no_grad()
    def pooled(self, text: str) -> Tensor:
        """A text's pooled embedding, (dim,)."""
        pooled: Tensor = self._text_encoder(self._ids(text)).pooler_output[0]
        return pooled

    def _ids(self, text: str) -> Tensor:
        """(1, tokens), padded to the encoder's length.

        Raises:
            PromptTooLong: rather than cut the text silently.
        """
        limit = self._tokenizer.model_max_length
        ids: Tensor = self._tokenizer(text, padding="max_length", max_length=limit, return_tensors="pt").input_ids
        if ids.shape[1] > limit:
            raise PromptTooLong(f"the text has {ids.shape[1]} tokens; this model reads {limit}")
        return ids.to(self._text_encoder.device)
