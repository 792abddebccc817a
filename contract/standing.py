"""Variants promoted and retired over HTTP: a job for a worker of their model, which has them on its shelf."""

from typing import Annotated

from pydantic import Field, StringConstraints

from contract import keys
from contract.job import AnyJob
from contract.model import VariantInfo, VariantStatus
from contract.request import ModelName
from contract.result import Ended
from contract.steering import VariantName
from contract.strict import Strict, Text

Why = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=500)]


class PromoteRequest(Strict):
    """Let requests ask for a variant."""

    model: ModelName | None = Field(None, description="Null takes the deployment's default model.")
    force: Why | None = Field(
        None, description="Why it may be served although it has not passed its gate; kept in its card."
    )


class RetireRequest(Strict):
    """Take a variant out of service."""

    model: ModelName | None = Field(None, description="Null takes the deployment's default model.")
    reason: Why = Field(description="Kept in its card.")


class StandingJob(AnyJob):
    """A variant's next status."""

    kind = keys.STANDINGS
    goes_first = True

    name: VariantName
    status: VariantStatus
    reason: str | None

    @property
    def function(self) -> str:
        """What its worker's table calls it."""
        return keys.MOVE


class StandingResult(Ended):
    """What became of it."""

    variant: VariantInfo | None = None
