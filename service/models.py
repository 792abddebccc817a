"""The models that workers have announced, and their tokenizers."""

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from pydantic import ValidationError
from tokenizers import Encoding, Tokenizer

from contract.model import ModelInfo
from service.problems import FieldError, InvalidRequest, NoModel
from service.queue import JobQueue

log = logging.getLogger(__name__)

FRESH_S = 1.0
TOKENIZERS_KEPT = 4
LOST_WORDS_SHOWN = 160  # characters


class Catalogue:
    """What the gateway knows about models. Blocking; call it from a thread."""

    def __init__(self, queue: JobQueue, default_model: str | None) -> None:
        self._queue = queue
        self._default_model = default_model
        self._models: dict[str, ModelInfo] = {}
        self._read_at = -FRESH_S
        self._tokenizers: dict[str, Tokenizer] = {}
        self._lock = Lock()

    def models(self) -> dict[str, ModelInfo]:
        """Every announced model by name, at most a second old."""
        with self._lock:
            if not self._models or time.monotonic() - self._read_at >= FRESH_S:
                self._models = dict(sorted(_parsed(self._queue.announced()).items()))
                self._read_at = time.monotonic()
            return self._models

    def renew(self) -> None:
        """Read the models anew with the next call: something is known to have changed."""
        with self._lock:
            self._read_at = -FRESH_S

    def model(self, name: str | None) -> ModelInfo:
        """The model of a request.

        Raises:
            NoModel: while no worker has announced any, or not the default.
            InvalidRequest: for a name that is not served, or none where a choice is needed.
        """
        models = self.models()
        if not models:
            raise NoModel("No worker has announced a model yet; try again soon.", retry_after_s=5)
        if name is not None:
            if name not in models:
                raise InvalidRequest(_model_error("is not served", models))
            return models[name]
        if self._default_model is not None:
            if self._default_model not in models:
                raise NoModel("No worker has announced the default model yet; try again soon.", retry_after_s=5)
            return models[self._default_model]
        if len(models) > 1:
            raise InvalidRequest(_model_error("is needed, as more than one is served", models))
        return next(iter(models.values()))

    def tokenizer(self, model: ModelInfo) -> Tokenizer:
        """The model's tokenizer, checked against its hash.

        Raises:
            NoModel: when the announced bytes are missing or not those that the model names.
        """
        sha256 = model.tokenizer_sha256
        known = self._tokenizers.get(sha256)
        if known is not None:
            return known
        content = self._queue.tokenizer(sha256)
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            log.error("the tokenizer of model %s is %s", model.name, "missing" if content is None else "not its own")
            raise NoModel("The model's tokenizer is not there yet; try again soon.", retry_after_s=5)
        tokenizer = Tokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        while len(self._tokenizers) >= TOKENIZERS_KEPT:
            self._tokenizers.pop(next(iter(self._tokenizers)))
        self._tokenizers[sha256] = tokenizer
        return tokenizer


@dataclass(frozen=True)
class TokenCount:
    """How many tokens a text takes, its begin and end marks included, the words for which there is no room, and the
    first of such marks that stands in the text itself: there, some readers would take the text to end."""

    tokens: int
    lost_words: str = ""
    stray_mark: str = ""


def count_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> TokenCount:
    """Count a text's tokens; `lost_words` is empty when all of them fit."""
    encoding = tokenizer.encode(text)
    tokens = len(encoding.ids)
    stray_mark = _stray_mark(tokenizer, encoding, text)
    if tokens <= max_tokens:
        return TokenCount(tokens, stray_mark=stray_mark)
    end_marks = _trailing_ones(encoding.special_tokens_mask)
    first_lost: int = encoding.offsets[max_tokens - end_marks][0]
    # a word cut in two is lost as well
    while first_lost > 0 and not text[first_lost - 1].isspace():
        first_lost -= 1
    return TokenCount(tokens, " ".join(text[first_lost:].split()), stray_mark)


def holds_mark(field: str, count: TokenCount) -> FieldError:
    """What to tell the caller of a text with a mark in it."""
    message = f"holds {count.stray_mark}, where the model would take the text to begin or end; remove it"
    return FieldError(field=field, message=message)


def too_long(field: str, count: TokenCount, max_tokens: int) -> FieldError:
    """What to tell the caller of a text that does not fit."""
    shown = count.lost_words
    if len(shown) > LOST_WORDS_SHOWN:
        shown = f"{shown[:LOST_WORDS_SHOWN].rsplit(' ', 1)[0]} …"
    message = f"takes {count.tokens} tokens of at most {max_tokens}; shorten it. These words would be lost: {shown}"
    return FieldError(field=field, message=message)


def _stray_mark(tokenizer: Tokenizer, encoding: Encoding, text: str) -> str:
    marks = _marks(tokenizer)
    inside = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return next((text[slice(*span)] for number, span, is_added in inside if number in marks and not is_added), "")


@lru_cache(maxsize=TOKENIZERS_KEPT)
def _marks(tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)


def _trailing_ones(mask: Sequence[int]) -> int:
    count = 0
    for flag in reversed(mask):
        if not flag:
            break
        count += 1
    return count


def _parsed(announced: dict[str, bytes]) -> dict[str, ModelInfo]:
    models = {}
    for name, info in announced.items():
        try:
            models[name] = ModelInfo.model_validate_json(info)
        except ValidationError as error:  # a worker of another version
            log.warning("model %s is announced in a form unknown here (%d errors)", name, error.error_count())
    return models


def _model_error(what: str, models: dict[str, ModelInfo]) -> FieldError:
    return FieldError(field="model", message=f"{what}; available: {', '.join(models)}")
