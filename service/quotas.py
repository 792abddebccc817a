"""What a tenant's unfinished jobs leave of its quotas, as `RateLimit` headers tell it.

The headers are those of draft-ietf-httpapi-ratelimit-headers: q is a quota, r what remains of it. These quotas have no
window: they come back as jobs end.
"""

from dataclasses import dataclass
from typing import Protocol


class Quotas(Protocol):
    """How many unfinished jobs a tenant may have, and of what cost; None: any."""

    @property
    def jobs(self) -> int | None:
        """Unfinished jobs."""

    @property
    def cost(self) -> int | None:
        """Their cost together, in pixel-steps."""


@dataclass(frozen=True)
class Unfinished:
    """A tenant's unfinished jobs, and their cost together in pixel-steps."""

    jobs: int
    cost: int


def quota_headers(quotas: Quotas, unfinished: Unfinished) -> dict[str, str]:
    """One entry for each quota that there is; no headers where there is none."""
    limited = [
        (name, quota, max(0, quota - used))
        for name, quota, used in (("jobs", quotas.jobs, unfinished.jobs), ("cost", quotas.cost, unfinished.cost))
        if quota is not None
    ]
    if not limited:
        return {}
    return {
        "RateLimit-Policy": ", ".join(f'"{name}";q={quota}' for name, quota, _ in limited),
        "RateLimit": ", ".join(f'"{name}";r={left}' for name, _, left in limited),
    }
