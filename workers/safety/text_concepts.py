"""Concepts given as text, in the embedding space of the checker's own CLIP: cos(picture, text) against a threshold."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

CACHED_TEXTS = 4096


class TextConcepts:
    """Embeds concept texts, each once."""

    def __init__(self, tokenizer: CLIPTokenizer, text_model: CLIPTextModelWithProjection) -> None:
        self._tokenizer = tokenizer
        self._text_model = text_model.float().eval()
        self.embed = lru_cache(CACHED_TEXTS)(self._embed)

    @property
    def projection_dim(self) -> int:
        """Dimension of the space shared with pictures."""
        return int(self._text_model.config.projection_dim)

    @torch.no_grad()
    def _embed(self, text: str) -> Tensor:
        """A text → (projection_dim,), of unit length.

        Raises:
            ValueError: when the text has more tokens than CLIP reads; a silently cut concept would be another concept.
        """
        tokens = self._tokenizer(text, return_tensors="pt")
        limit = self._tokenizer.model_max_length
        if tokens.input_ids.shape[1] > limit:
            raise ValueError(f"the concept text has {tokens.input_ids.shape[1]} tokens; CLIP reads {limit}: shorten it")
        embeddings: Tensor = self._text_model(**tokens.to(self._text_model.device)).text_embeds
        return normalize(embeddings[0], dim=0)
