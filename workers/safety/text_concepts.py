"""Texts in the embedding space of the checker's own CLIP: concepts, which must be read whole, and prompts, by pieces.

A text that is longer than the tower reads is cut into windows of that length, at words, each beginning in the middle of
the one before: whatever is no longer than half a window stands whole in one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from workers.readable import count_words

CACHED_TEXTS = 4096
WINDOWS_AT_ONCE = 64


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

    @torch.no_grad()
    def embed_windows(self, texts: Sequence[str]) -> Tensor:
        """Texts of any length → (windows, projection_dim), of unit length; one window of each at least."""
        room = self._max_tokens - 2
        windows = list(
            dict.fromkeys(each for text in texts for each in windows_of(list(self._words(text, room)), room))
        )
        batches = (windows[at : at + WINDOWS_AT_ONCE] for at in range(0, len(windows), WINDOWS_AT_ONCE))
        return torch.cat([self._embed_ids(batch) for batch in batches])

    def _words(self, text: str, room: int) -> Iterator[tuple[int, ...]]:
        """Each word's tokens, in parts where there is no room, without marks at which the tower would stop reading."""
        marks = {self._tokenizer.bos_token_id, self._tokenizer.eos_token_id}
        for word in text.split():
            ids = [id_ for id_ in self._tokenizer(word, add_special_tokens=False).input_ids if id_ not in marks]
            yield from (tuple(ids[at : at + room]) for at in range(0, len(ids), room))

    def _embed_ids(self, windows: Sequence[tuple[int, ...]]) -> Tensor:
        begin, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        longest = max(map(len, windows)) + 1  # what fills the others stands behind the mark that ends them, unread
        filled = [[begin, *ids, *[end] * (longest - len(ids))] for ids in windows]
        embeddings: Tensor = self._text_model(torch.tensor(filled, device=self._text_model.device)).text_embeds
        return normalize(embeddings, dim=1)


def windows_of(words: Sequence[tuple[int, ...]], room: int) -> Iterator[tuple[int, ...]]:
    """As many words (each its tokens) as have room, again from the middle of these on, until the last word was in."""
    begin, end = 0, 0
    while True:
        ids: list[int] = []
        for end in range(begin, len(words) + 1):
            if end == len(words) or len(ids) + len(words[end]) > room:
                break
            ids += words[end]
        yield tuple(ids)
        if end == len(words):
            return
        begin += max(1, (end - begin) // 2)
