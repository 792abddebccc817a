"""When a message is sent again.

After the first attempt come twelve more, 5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 2 h, 4 h, 8 h, 12 h, 20 h and 24 h
apart, each pause shortened by up to a fifth at random, so that what failed together does not return together. That is
less than three days; `Retry-After` lengthens a pause, but the last attempt comes three days after the first at the
latest.
"""

import random
from collections.abc import Sequence

PAUSES_S = (5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 43_200, 72_000, 86_400)
LONGEST_S = 3 * 86_400
JITTER = 0.2


def next_attempt_at(
    now: float, first_at: float, failures: int, retry_after_s: float, pauses_s: Sequence[float]
) -> float | None:
    """When to try again after that many failures before this one; None: no more. Times in epoch seconds."""
    last_at = first_at + LONGEST_S
    if failures >= len(pauses_s) or now >= last_at:
        return None
    pause_s = pauses_s[failures] * random.uniform(1 - JITTER, 1)  # noqa: S311 - no secret
    return min(last_at, now + max(pause_s, retry_after_s))
