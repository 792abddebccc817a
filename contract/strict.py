"""The base of every model that crosses a process: frozen, closed to unknown fields, finite numbers only."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict


class Strict(BaseModel):
    """Immutable; unknown fields, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_sent(number: Any) -> Any:
    """Refuse what pydantic would make a number of, although the description says that it is none."""
    if isinstance(number, bool | str | bytes):
        raise ValueError("must be a number, not a text, true or false")
    return number


# Annotated[int, Field(ge=1), Number]: an int stays fine where a float is asked for.
Number = BeforeValidator(_as_sent)


def _encodable(text: str) -> str:
    """Refuse what UTF-8 cannot carry, so that no later process trips over it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"holds a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start};"
            " send valid Unicode text"
        ) from None
    if "\x00" in text:
        raise ValueError("holds a NUL character; remove it")
    return text


Text = Annotated[str, AfterValidator(_encodable)]
