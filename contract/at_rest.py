"""Prompts at rest: what outlives a job of the words it was made from."""

from enum import StrEnum

from pydantic import Field

from contract.strict import Strict


class PromptForm(StrEnum):
    """What is put on record of a prompt."""

    KEPT = "kept"
    HASHED = "hashed"  # HMAC-SHA256 under a key of the deployment: told apart, not read
    DROPPED = "dropped"


class PromptAtRest(Strict):
    """A prompt as the policy lets it rest: its words, their HMAC-SHA256 in hexadecimal, or null."""

    form: PromptForm = PromptForm.DROPPED
    prompt: str | None = None
    negative_prompt: str | None = Field(None, description="Null without one as well.")
