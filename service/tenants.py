"""What a tenant may use."""

from typing import Annotated

from limits import parse
from pydantic import AfterValidator, Field

from contract.strict import Strict


def _rate(text: str) -> str:
    try:
        item = parse(text)
    except ValueError:
        raise ValueError(f"{text!r} is no rate; write one as 600/minute or 10/second") from None
    if item.amount < 1:
        raise ValueError("a rate allows one request at least")
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class TenantLimits(Strict):
    """A tenant's limits; None is none."""

    requests: Rate | None = Field(None, description='As in "600/minute".')
    jobs: int | None = Field(None, ge=1, description="Unfinished jobs at once.")
    cost: int | None = Field(None, ge=1, description="Pixels × steps × branches × pictures of these, together.")
    webhooks: int | None = Field(None, ge=1, description="Webhooks that could not be delivered yet.")
    refusals: int | None = Field(None, ge=1, description="Blocked pictures and refused prompts of an end user an hour.")


UNLIMITED = TenantLimits()
