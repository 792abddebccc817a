"""The body of `POST /v1/images/generations`, and the request of ours that it stands for.

    prompt, model, negative_prompt, guidance_scale, seed, safety, output_format    as they are
    n → num_images · num_inference_steps → steps · size → width and height · safety_identifier, else user → end_user

Of OpenAI's other fields only the value is taken that says what is done here anyway.
"""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator

from contract.request import (
    AskedPlan,
    GenerateRequest,
    GuidanceScale,
    ModelName,
    NegativePrompt,
    OutputFormat,
    PictureCount,
    PromptText,
    Seed,
    Steps,
)
from contract.strict import Number, Strict, Text

MIN_SIDE_PX, MAX_SIDE_PX = 16, 2048
OWN_NAMES = {  # what a field of ours is called here
    "num_images": "n",
    "steps": "num_inference_steps",
    "width": "size",
    "height": "size",
    "end_user": "safety_identifier",
}

Person = Annotated[Text, Field(max_length=200)]
No = Annotated[int, Field(ge=0, le=0), Number]


class ImagesRequest(Strict):
    """A request for pictures, as OpenAI's clients write it. Fields without a counterpart here are refused."""

    prompt: PromptText
    model: ModelName | None = Field(None, description="A name of `GET /models`; null: the deployment's default.")
    n: PictureCount | None = Field(1, description="How many pictures.")
    size: str | None = Field(
        "auto",
        pattern=r"^(auto|[0-9]{2,4}x[0-9]{2,4})$",
        description="`WIDTHxHEIGHT` in pixels; `auto`: the model's own.",
        examples=["64x64"],
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="Null: `b64_json`. A `url` needs no key, and is good for an hour.",
    )
    output_format: OutputFormat | None = Field(None, description="Null: `png`.")
    safety_identifier: Person | None = Field(
        None, description="Whom this is made for, best a pseudonym: `end_user` of `POST /generate`."
    )
    user: Person | None = Field(None, description="The same, in its older name; `safety_identifier` comes before it.")
    stream: StrictBool | None = Field(False, description="Answer with server-sent events.")
    partial_images: No | None = Field(None, description="Unfinished pictures are unjudged, and never shown: 0.")
    quality: Literal["auto"] | None = Field(None, description="`num_inference_steps` sets it.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Always opaque.")
    moderation: Literal["auto"] | None = Field(None, description="`safety` sets it.")
    negative_prompt: NegativePrompt | None = None
    num_inference_steps: Steps | None = Field(None, description="Null: the model's default.")
    guidance_scale: GuidanceScale | None = Field(None, description="Null: the model's default.")
    seed: Seed | None = Field(None, description="Picture i takes seed + i. Null draws one at random.")
    safety: AskedPlan = Field("filter", description="A safety plan, as of `POST /generate`.")

    @field_validator("size")
    @classmethod
    def _has_sides_in_bounds(cls, size: str | None) -> str | None:
        if any(not MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in _sides(size)):
            raise ValueError(f"must have sides of {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels")
        return size

    @field_validator("stream")
    @classmethod
    def _carries_bytes(cls, stream: bool | None, info: ValidationInfo) -> bool | None:
        if stream and info.data.get("response_format") == "url":
            raise ValueError("carries pictures as b64_json; leave response_format out")
        return stream

    @property
    def wanted(self) -> GenerateRequest:
        """The request of ours that this one stands for."""
        width, height = _sides(self.size) or (None, None)
        return GenerateRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            model=self.model,
            num_images=self.n or 1,
            width=width,
            height=height,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            safety=self.safety,
            output_format=self.output_format or OutputFormat.PNG,
            end_user=self.safety_identifier or self.user or None,
        )


def _sides(size: str | None) -> tuple[int, ...]:
    return tuple(map(int, size.split("x"))) if size and size != "auto" else ()
