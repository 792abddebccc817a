"""What `POST /v1/images/generations` answers: OpenAI's fields, and beside them the verdicts that they lack."""

from typing import Literal

from pydantic import BaseModel, Field

from contract.request import OutputFormat
from contract.verdict import Verdict

PICTURE_MADE: Literal["image_generation.completed"] = "image_generation.completed"


class Image(BaseModel):
    """One picture that passed: its bytes, or its address."""

    b64_json: str | None = None
    url: str | None = None
    index: int = Field(description="0 to n - 1; those missing are in `withheld`.")
    seed: int


class Withheld(BaseModel):
    """One picture that did not pass, and why."""

    index: int
    verdict: Verdict
    reasons: tuple[str, ...]


class ImagesAnswer(BaseModel):
    """The pictures of a finished job. `data` holds fewer than `n` when some were withheld."""

    created: int = Field(description="Seconds since 1970.")
    data: list[Image]
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat
    size: str = Field(examples=["64x64"])
    job_id: str = Field(description="`GET /jobs/{job_id}` tells what was found.")
    withheld: list[Withheld]


class TokenDetails(BaseModel):
    """Pictures are not made of tokens here."""

    image_tokens: Literal[0] = 0
    text_tokens: Literal[0] = 0


class Usage(BaseModel):
    """There for OpenAI's clients, whose event has it: nothing is counted in tokens here."""

    input_tokens: Literal[0] = 0
    input_tokens_details: TokenDetails = TokenDetails()
    output_tokens: Literal[0] = 0
    total_tokens: Literal[0] = 0


class PictureMade(BaseModel):
    """The event of one picture that passed."""

    type: Literal["image_generation.completed"] = PICTURE_MADE
    b64_json: str
    created_at: int = Field(description="Seconds since 1970.")
    background: Literal["opaque"] = "opaque"
    quality: Literal["auto"] = "auto"
    output_format: OutputFormat
    size: str
    usage: Usage = Usage()
    index: int
    seed: int
    job_id: str
