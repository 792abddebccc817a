"""Concepts given as text, in the embedding space of the checker's own CLIP: cos(picture, text) against a threshold."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from workers.readable import count_words

CACHED_TEXTS = 4096


class TextConcepts:
    """Embeds concept texts, each once."""

    def __init__(self, tokenizer: CLIPTokenizer, text_model: CLIPTextModelWithProjection) -> None:
        self._tokenizer = tokenizer
        self._text_model = text_model.float().eval()
        # Some tokenizers state no limit, or an absurd one.
        self._max_tokens = int(min(tokenizer.model_max_length, text_model.config.max_position_embeddings))
        self.embed = lru_cache(CACHED_TEXTS)(self._embed)

    @property
    def projection_dim(self) -> int:
        """Dimension of the space shared with pictures."""
        return int(self._text_model.config.projection_dim)

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        """A text → (projection_dim,), of unit length.

        Raises:
            UnreadableText: when CLIP would not read all of it; a silently cut concept would be another concept.
        """
        count_words(self._tokenizer, text, self._max_tokens)
        tokens = self._tokenizer(text, return_tensors="pt")
        embeddings: Tensor = self._text_model(**tokens.to(self._text_model.device)).text_embeds
        return normalize(embeddings[0], dim=0)
