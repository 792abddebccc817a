"""Texts that a text encoder reads to their end. The gateway refuses others first; nothing is ever cut silently."""

from transformers import CLIPTokenizer


class UnreadableText(ValueError):
    """A text has more tokens than there is room for, or holds a mark at which the encoder would take it to end."""


def count_words(tokenizer: CLIPTokenizer, text: str, most_tokens: int) -> int:
    """Tokens of a text, the begin and end marks around it left out.

    Raises:
        UnreadableText: when not all of it would be read.
    """
    ids = tokenizer(text).input_ids
    if len(ids) > most_tokens:
        raise UnreadableText(f"the text has {len(ids)} tokens; this model reads {most_tokens}: shorten it")
    if marks := {tokenizer.bos_token_id, tokenizer.eos_token_id}.intersection(ids[1:-1]):
        raise UnreadableText(f"the text holds {tokenizer.decode(sorted(marks))}, where it would be taken to end")
    return len(ids) - 2
