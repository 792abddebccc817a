"""Prompts to conditionings, each text encoded once and alone: a row's conditioning never depends on its neighbours."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from workers.readable import count_words
from workers.safety.protocol import PromptTokens

CACHED_TEXTS = 1024
CACHED_READINGS = 64  # each holds a pooled embedding for every word


class PromptEncoder:
    """Encodes prompts with the model's text encoder and keeps the latest ones.

    All methods raise `UnreadableText` rather than cut a text silently.
    """

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> None:
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        # Some tokenizers state no limit, or an absurd one.
        self.max_tokens = int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))
        self.encode = lru_cache(CACHED_TEXTS)(self._encode)
        self.read = lru_cache(CACHED_READINGS)(self._read)
        self.pooled = lru_cache(CACHED_TEXTS)(self._pooled)

    @torch.no_grad()
    def _encode(self, text: str) -> Tensor:
        """A prompt → (tokens, dim)."""
        conditioning: Tensor = self._text_encoder(self._ids(text))[0][0]
        return conditioning

    @torch.no_grad()
    def _read(self, text: str) -> PromptTokens:
        """A prompt, whole and with each of its words masked (replaced by token 0, as SAFREE's authors do)."""
        ids = self._ids(text)
        words = count_words(self._tokenizer, text, self.max_tokens)
        if words == 0:
            return PromptTokens(self.encode(text), self.encode(text)[:0])
        masked = ids.repeat(words, 1)
        masked[torch.arange(words), torch.arange(words) + 1] = 0
        return PromptTokens(self.encode(text), self._text_encoder(masked).pooler_output)

    @torch.no_grad()
    def _pooled(self, text: str) -> Tensor:
        """A text's pooled embedding, (dim,)."""
        pooled: Tensor = self._text_encoder(self._ids(text)).pooler_output[0]
        return pooled

    def _ids(self, text: str) -> Tensor:
        """(1, tokens), padded to the encoder's length.

        Not by the tokenizer: asked to pad, it pads for whoever uses it on another thread as well.
        """
        count_words(self._tokenizer, text, self.max_tokens)
        ids: list[int] = self._tokenizer(text).input_ids
        padding = [self._tokenizer.pad_token_id] * (self.max_tokens - len(ids))
        return torch.tensor([[*ids, *padding]], device=self._text_encoder.device)
