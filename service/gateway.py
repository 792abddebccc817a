"""The parts that one gateway process holds, and how routes come by them."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Self, cast

from fastapi import Depends, Request
from obstore.store import ObjectStore
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.store import open_store
from contract.tracing import Tracing
from service.admission import Admission
from service.audit.reading import Audit
from service.callers import Callers
from service.drift import Drift
from service.erasures import ErasureAdmission, ErasureRecord
from service.events import EventStreams
from service.explanation.drawings import Drawings
from service.intake import Intake
from service.jobs import JobRecord, readings_under
from service.kept import KeptJobs, alike
from service.limits import Limits
from service.links import Links
from service.listing import Listing
from service.loopback import is_loopback
from service.metrics import Metrics
from service.models import Catalogue
from service.moderating import Moderator
from service.policies import Policies
from service.policy import load_policy
from service.provenance import Verifier
from service.queue import JobQueue
from service.reading import ReadingRecord, Readings
from service.reviews import Reviews
from service.settings import Settings
from service.silence import Silence
from service.standings import StandingRecord, Standings
from service.store_check import StoreCheck
from service.webhooks.deliveries import Deliveries

SHEETS_AT_ONCE = 2


@dataclass(frozen=True)
class Gateway:
    """Everything behind the routes."""

    settings: Settings
    policies: Policies
    redis: "Redis"
    silence: Silence
    callers: Callers
    limits: Limits
    queue: JobQueue
    catalogue: Catalogue
    intake: Intake
    admission: Admission
    jobs: KeptJobs[JobRecord]
    links: Links
    listing: Listing[JobRecord]
    erasing: ErasureAdmission
    erasures: KeptJobs[ErasureRecord]
    erasure_listing: Listing[ErasureRecord]
    standings: Standings
    readings: Readings
    deliveries: Deliveries
    events: EventStreams
    drawings: Drawings
    store: ObjectStore
    withheld: ObjectStore
    store_check: StoreCheck
    audit: Audit
    reviews: Reviews
    metrics: Metrics
    tracing: Tracing
    sheets: asyncio.Semaphore  # contact sheets drawn at once: each holds a decoded picture
    moderator: Moderator
    verifier: Verifier
    drift: Drift
    leaving: asyncio.Event  # set once the process is asked to end: whoever waits is answered now

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Build every part. Nothing connects yet."""
        timeout_s = settings.redis_timeout_s
        redis = Redis.from_url(
            settings.redis_url,
            decode_responses=True,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        silence = Silence()
        queue = JobQueue(settings.redis_url, timeout_s, silence, allow_unsafe_redis=settings.allow_unsafe_redis)
        catalogue = Catalogue(queue, settings.default_model)
        events = EventStreams(redis, silence, settings.redis_url, timeout_s)
        callers = Callers(
            redis,
            silence,
            is_loopback=is_loopback(settings.host),
            pepper=settings.pepper.get_secret_value() if settings.pepper else None,
            pepper_file=settings.pepper_path,
        )
        store, withheld = open_store(settings.pictures_url), open_store(settings.withheld_pictures_url)
        audit = Audit(redis)
        policies = Policies(redis, silence, load_policy(settings.policy), settings.floor)
        of_pictures = keys.PICTURES, readings_under(policies)
        of_erasures = keys.ERASURES, alike(ErasureRecord.read)
        of_standings = keys.STANDINGS, alike(StandingRecord.read)
        jobs = KeptJobs(redis, silence, queue, settings.result_ttl_s, *of_pictures)
        standings = KeptJobs(redis, silence, queue, settings.result_ttl_s, *of_standings)
        of_readings = keys.READINGS, alike(ReadingRecord.read)
        readings = KeptJobs(redis, silence, queue, settings.result_ttl_s, *of_readings)
        intake = Intake(queue, settings.queue_limit, settings.idempotency_ttl_s, settings.webhook_networks)
        return cls(
            settings=settings,
            policies=policies,
            redis=redis,
            silence=silence,
            callers=callers,
            limits=Limits(redis, silence, settings.limits),
            queue=queue,
            catalogue=catalogue,
            links=Links(callers, jobs, settings.public_url),
            intake=intake,
            admission=Admission(catalogue, intake),
            erasing=ErasureAdmission(catalogue, intake),
            erasures=KeptJobs(redis, silence, queue, settings.result_ttl_s, *of_erasures),
            erasure_listing=Listing(redis, silence, *of_erasures),
            standings=Standings(catalogue, queue, standings, events, settings.queue_limit),
            readings=Readings(
                catalogue, queue, readings, events, redis, silence, settings.queue_limit, settings.moderation_wait_s
            ),
            deliveries=Deliveries(redis, silence),
            listing=Listing(redis, silence, *of_pictures),
            jobs=jobs,
            events=events,
            drawings=Drawings(),
            store=store,
            withheld=withheld,
            store_check=StoreCheck(store),
            audit=audit,
            reviews=Reviews(redis, silence, jobs, audit, policies, settings.withheld_keep_s, settings.result_ttl_s),
            metrics=Metrics(events.listeners),
            tracing=Tracing.open(settings.otlp_url, "gateway", settings.trace_share),
            sheets=asyncio.Semaphore(SHEETS_AT_ONCE),
            drift=Drift(redis, silence),
            verifier=Verifier.of(jobs, settings.provenance_anchors),
            moderator=Moderator.of(settings.moderation_wait_s, settings.moderations_at_once),
            leaving=asyncio.Event(),
        )

    async def close(self) -> None:
        """Give every connection back."""
        await self.events.close()
        await self.redis.aclose()
        self.queue.close()
        await run_in_threadpool(self.tracing.close)


def gateway_of(request: Request) -> Gateway:
    """The gateway that serves this request."""
    return cast(Gateway, request.app.state.gateway)


async def _gateway(request: Request) -> Gateway:
    return gateway_of(request)  # FastAPI takes a dependency that is not async to a thread, 0.1 ms each


Here = Annotated[Gateway, Depends(_gateway)]
