"""Concepts given as text, in the embedding space of the checker's own CLIP: cos(picture, text) against a threshold."""

from collections import OrderedDict

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
        self._embeddings: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def projection_dim(self) -> int:
        """Dimension of the space shared with pictures."""
        return int(self._text_model.config.projection_dim)

    def embed(self, text: str) -> Tensor:
        """A text → (projection_dim,), of unit length.

        Raises:
            ValueError: when the text has more tokens than CLIP reads; a silently cut concept would be another concept.
        """
        if text in self._embeddings:
            self._embeddings.move_to_end(text)
            return self._embeddings[text]
        tokens = self._tokenizer(text, return_tensors="pt")
        limit = self._tokenizer.model_max_length
        if tokens.input_ids.shape[1] > limit:
            raise ValueError(f"the concept text has {tokens.input_ids.shape[1]} tokens; CLIP reads {limit}: shorten it")
        with torch.no_grad():
            embedding: Tensor = normalize(self._text_model(**tokens.to(self._text_model.device)).text_embeds[0], dim=0)
        self._embeddings[text] = embedding
        if len(self._embeddings) > CACHED_TEXTS:
            self._embeddings.popitem(last=False)
        return embedding
