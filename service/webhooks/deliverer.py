"""The delivery process's loop: what is due is taken, sent, and reported. Whatever it is killed in, nothing is lost."""

import asyncio
import json
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

from redis.exceptions import RedisError

from contract.outbox import DeliveryState
from service.api_keys import NoPepper, Pepper
from service.webhooks.messages import message_of
from service.webhooks.metrics import DeliveryMetrics
from service.webhooks.outbox import Claim, Outbox, Report
from service.webhooks.schedule import next_attempt_at
from service.webhooks.sending import Answer, Sender
from service.webhooks.settings import Settings
from service.webhooks.signing import secrets_of, signed_headers

log = logging.getLogger(__name__)

POLL_S = 0.2
PAUSE_S = 1.0  # after Redis failed
TURNS_WITHIN_S = 90.0  # of the loop: longer than the client's patience with Redis


@dataclass
class Deliverer:
    """Sends what is due, many at once, few of any one tenant."""

    settings: Settings
    outbox: Outbox
    sender: Sender
    metrics: DeliveryMetrics
    _busy: Counter[str] = field(default_factory=Counter)  # deliveries in flight, by tenant
    _rounds: int = 0
    _has_room: asyncio.Event = field(default_factory=asyncio.Event)
    _pepper: Pepper | None = None
    _turned_at: float = field(default_factory=time.monotonic)  # when the loop last began anew
    _served_at: float = float("-inf")  # monotonic; when Redis last answered

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns; while Redis is away it does."""
        return time.monotonic() - self._turned_at <= TURNS_WITHIN_S

    @property
    def is_ready(self) -> bool:
        """Whether what is due is being taken."""
        return time.monotonic() - self._served_at <= self.settings.webhook_lease_s

    async def run(self, leaving: asyncio.Event) -> None:
        """Deliver until asked to leave; what has been taken by then is sent first."""
        async with asyncio.TaskGroup() as tasks:
            while not leaving.is_set():
                self._turned_at = time.monotonic()
                self._has_room.clear()
                try:
                    claims = await self._take()
                except RedisError as error:
                    self._note(error)
                    await _wait(leaving, PAUSE_S)
                    continue
                self._served_at = time.monotonic()
                for claim in claims:
                    self._busy[claim.tenant] += 1
                    tasks.create_task(self._deliver(claim))
                if not claims:
                    await _wait(self._has_room if self._busy.total() else leaving, POLL_S)

    async def _take(self) -> list[Claim]:
        free = self.settings.webhook_slots - self._busy.total()
        if free <= 0:
            return []
        self._rounds += 1
        busy = json.dumps(+self._busy)
        return await self.outbox.claim(
            time.time(), self.settings.webhook_lease_s, free, self.settings.webhook_slots_of_one, busy, self._rounds
        )

    async def _deliver(self, claim: Claim) -> None:
        self.metrics.in_flight.inc()
        try:
            report = self._judged(claim, await self._answer(claim))
            if await self.outbox.report(claim, report, time.time()):
                self._count(claim, report)
        except RedisError as error:
            self._note(error)  # its lease ends, and it is sent again under the same id
        finally:
            self.metrics.in_flight.dec()
            self._busy[claim.tenant] -= 1
            self._has_room.set()

    async def _answer(self, claim: Claim) -> Answer:
        try:
            return await self._sent(claim)
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - one delivery's trouble must not end the others
            log.error("webhook %s could not be sent: %s", claim.id, type(error).__name__)
            return Answer(error="it could not be sent")

    async def _sent(self, claim: Claim) -> Answer:
        now = datetime.now(UTC)
        kept = secrets_of(await self.outbox.signing_secrets(claim.tenant))
        try:
            whsecs = [secret.shown(self._own_pepper()) for secret in kept if secret.is_valid(now)]
        except NoPepper as error:
            log.error("webhook %s cannot be signed: %s", claim.id, error)
            return Answer(error="the service cannot sign messages: its pepper is missing")
        if not whsecs:
            return Answer(error="the tenant has no signing secret")
        body = message_of(claim.fields, self.settings.public_url).model_dump_json()
        headers = {"content-type": "application/json", "user-agent": "Seemly-Webhooks"}
        headers |= signed_headers(claim.id, body, whsecs, now)
        with self.metrics.attempt.time():
            return await self.sender.post(claim.fields["target"], headers, body)

    def _judged(self, claim: Claim, answer: Answer) -> Report:
        if answer.has_arrived:
            return Report(DeliveryState.DELIVERED, status=answer.status)
        if answer.is_gone:
            return Report(DeliveryState.GONE, status=answer.status, error=answer.error)
        due_at = next_attempt_at(
            time.time(), claim.first_at, claim.failures, answer.retry_after_s, self.settings.webhook_pauses_s
        )
        if due_at is None:
            return Report(DeliveryState.DEAD, status=answer.status, error=answer.error)
        return Report(DeliveryState.PENDING, due_at, answer.status, answer.error)

    def _own_pepper(self) -> Pepper:
        if self._pepper is None:
            given = self.settings.pepper
            self._pepper = Pepper.read(given.get_secret_value() if given else None, self.settings.pepper_path)
        return self._pepper

    def _count(self, claim: Claim, report: Report) -> None:
        self.metrics.attempts.labels(report.state).inc()
        if report.state is DeliveryState.DELIVERED:
            self.metrics.delay.observe(max(0, time.time() - float(claim.fields["created_at"])))
        else:
            log.info("webhook %s of job %s: %s; %s", claim.id, claim.fields["job"], report.error, report.state)

    def _note(self, error: RedisError) -> None:
        self.metrics.redis_errors.inc()
        log.warning("Redis does not serve (%s)", type(error).__name__)


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass
