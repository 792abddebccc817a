"""Drift as it is read: hours of counted scores out of Redis, and what they come to, kept for a minute."""

import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from redis.asyncio import Redis

from contract.drift import HOUR_S, Concept, DriftReport, drift_of, hour_key, read
from service.silence import Silence

RECENT_H: Final = 24
REFERENCE_H: Final = 7 * 24
FRESH_S: Final = 60.0


@dataclass
class Drift:
    """Reads what workers count."""

    redis: "Redis"
    silence: Silence
    _known: dict[tuple[str, int, int], tuple[float, DriftReport]] = field(default_factory=dict)

    async def report(self, model: str, recent_h: int = RECENT_H, reference_h: int = REFERENCE_H) -> DriftReport:
        """A model's drift, at most `FRESH_S` old."""
        asked = model, recent_h, reference_h
        made_at, report = self._known.get(asked, (-FRESH_S, None))
        if report is None or time.monotonic() - made_at >= FRESH_S:
            report = await self._made(model, recent_h, reference_h)
            if len(self._known) >= 100:
                self._known.clear()
            self._known[asked] = time.monotonic(), report
        return report

    async def _made(self, model: str, recent_h: int, reference_h: int) -> DriftReport:
        now = time.time()
        recent = await self._counts(model, now, recent_h)
        reference = await self._counts(model, now - recent_h * HOUR_S, reference_h)
        concepts = [drift_of(concept, counts, reference.get(concept, Counter())) for concept, counts in recent.items()]
        concepts.sort(key=lambda each: (-(each.psi or 0), each.detector, each.name))
        return DriftReport(
            model=model,
            until=datetime.fromtimestamp(now, UTC),
            recent_hours=recent_h,
            reference_hours=reference_h,
            shifted=any(each.shifted for each in concepts),
            concepts=tuple(concepts),
        )

    async def _counts(self, model: str, until_s: float, hours: int) -> dict[Concept, Counter[int]]:
        async with self.silence.noticed_in_turn(), self.redis.pipeline(transaction=False) as pipe:
            for hour in range(hours):
                pipe.hgetall(hour_key(model, until_s - hour * HOUR_S))
            counts: dict[Concept, Counter[int]] = {}
            for of_an_hour in await pipe.execute():
                for concept, counted in read(of_an_hour).items():
                    counts.setdefault(concept, Counter()).update(counted)
        return counts
