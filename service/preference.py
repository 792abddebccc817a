"""How a request for a job would like to be answered: `Prefer: wait=N` (RFC 7240), with links or without."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Query

from service.links import LONGEST_S
from service.problems import BadRequest

MAX_WAIT_S = 60
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)

LinksFor = Annotated[
    int | None,
    Query(
        ge=1,
        le=LONGEST_S,
        description="Seconds. Every passed picture then has a `signed_url` that needs no key for so long.",
    ),
]


@dataclass(frozen=True)
class Preferred:
    """How long an answer may wait for the job's end, and for how long its pictures' links are then good."""

    wait_s: int
    links_for_s: int | None


async def seconds_to_wait(
    prefer: Annotated[
        str | None,
        Header(description=f"`wait=N`, N up to {MAX_WAIT_S} seconds: answer when the job is finished, if in time."),
    ] = None,
) -> int:
    """N of `Prefer: wait=N`; 0 when no wait is preferred. Other preferences are not known here."""
    for preference in re.split("[,;]", prefer or ""):
        if not re.match(r"wait\b", preference.strip(), re.IGNORECASE):
            continue
        found = _WAIT.fullmatch(preference.strip())
        if found is None or int(found[1]) > MAX_WAIT_S:
            raise BadRequest(f"Prefer: wait=N takes whole seconds from 0 to {MAX_WAIT_S}.")
        return int(found[1])
    return 0


async def _preferred(wait_s: Annotated[int, Depends(seconds_to_wait)], links_for_s: LinksFor = None) -> Preferred:
    return Preferred(wait_s, links_for_s)


Preference = Annotated[Preferred, Depends(_preferred)]
