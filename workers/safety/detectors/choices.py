"""Which detectors a worker has beside its checkpoint's own, and of which ones it insists on the very weights."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import NoDecode

from contract.strict import Strict

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_PINNED = "SHA-256 as GET /models tells it; with another, the worker does not start. Null: whichever is there."


class Pinned(Strict):
    """The checkpoint's own detectors: the safety checker, and the concepts given as text."""

    name: Literal["clip-checker", "clip-concepts"]
    sha256: Sha256


class NudeNetChoice(Strict):
    """Exposed parts of the body; needs the extra `evaluation`."""

    name: Literal["nudenet"]
    file: Path | None = Field(None, description="A net in ONNX; null: the package's own.")
    threshold: float = Field(0.25, ge=0.25, lt=1, description="It tells nothing below 0.25.")
    sha256: Sha256 | None = Field(None, description=_PINNED)


class Q16Choice(Strict):
    """Whether a picture is inappropriate in the words of Q16, seen through the CLIP of the checkpoint's checker."""

    name: Literal["q16"]
    file: Path = Field(description="The two learned prompts, one array (2, dimension), .safetensors or .npz.")
    threshold: float = Field(0.5, ge=0, lt=1)
    sha256: Sha256 | None = Field(None, description=_PINNED)


DetectorChoice = Annotated[Pinned | NudeNetChoice | Q16Choice, Field(discriminator="name")]


def _as_json(written: Any) -> Any:
    if not isinstance(written, str):
        return written
    try:
        return json.loads(written)
    except ValueError:
        raise ValueError('must be a JSON list, as in [{"name": "nudenet", "threshold": 0.5}]') from None


# A setting, written as a JSON list.
DetectorChoices = Annotated[tuple[DetectorChoice, ...], NoDecode, BeforeValidator(_as_json)]
