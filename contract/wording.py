"""What pydantic found wrong, in words for the person who wrote it: its own are for programmers."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

_WORDING = {
    "missing": "is required; add it",
    "extra_forbidden": "is not a field of this request; remove it",
    "finite_number": "must be a finite number; NaN and infinity cannot be used",
    "model_attributes_type": "a JSON object is expected",
    "model_type": "a JSON object is expected",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large a number",
    "float_parsing": "must be a number",
    "string_type": "must be a string",
    "string_unicode": "must be valid unicode text; remove lone surrogates",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "its {discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "its {discriminator} is required; add it",
    "bool_type": "must be true or false",
}


def wording(error: Mapping[str, Any]) -> str:
    """One entry of `ValidationError.errors()`; the value that was sent is never quoted."""
    if (known := _WORDING.get(error["type"])) is not None:
        return known.format_map(error.get("ctx", {}))
    return _length_wording(error) or error["msg"].removeprefix("Value error, ")


def settings_wording(error: ValidationError) -> str:
    """What is wrong with settings, each by the name it has in the environment."""
    return "; ".join(f"{_variable(entry['loc'])}{wording(entry)}" for entry in error.errors())


def _variable(location: tuple[int | str, ...]) -> str:
    """The variable and a colon. An alias is its whole name; a check of several settings together names them itself."""
    name = ".".join(map(str, location))
    if not name:
        return ""
    return f"{name if name.isupper() else f'SEEMLY_{name.upper()}'}: "


def _length_wording(error: Mapping[str, Any]) -> str | None:
    unit = "characters" if isinstance(error["input"], str) else "entries"
    match error["type"]:
        case "too_short" | "string_too_short":
            least = error["ctx"]["min_length"]
            return "must not be empty" if least == 1 else f"must have at least {least} {unit}"
        case "too_long" | "string_too_long":
            return f"must have at most {error['ctx']['max_length']} {unit}"
    return None
