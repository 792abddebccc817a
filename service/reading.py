"""Texts held against a policy's concepts: a job for a worker, awaited; texts and job are gone with the answer."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.acceptance import Terms
from contract.policy import Policy
from contract.prompt_concepts import TextScore
from contract.reading import MAX_CHARACTERS, ReadingJob, ReadingResult
from service.awaiting import End, ended
from service.events import EventStreams
from service.intake import check_cost
from service.kept import KeptJobs, KeptRecord
from service.models import Catalogue
from service.problems import AlreadyFinished, FieldError, InvalidRequest, NotJudged, PolicyNotServed
from service.queue import JobQueue
from service.silence import Silence
from service.tenants import TenantLimits


@dataclass(frozen=True)
class ReadingRecord(KeptRecord[ReadingJob, ReadingResult]):
    """Such a job's record in Redis, parsed."""

    @classmethod
    def read(cls, fields: Mapping[str, str] | None) -> "ReadingRecord | None":
        """The record; None where there is none, or one that cannot be read."""
        return cls.parsed(fields, ReadingJob, ReadingResult)

    @property
    def view(self) -> ReadingResult | None:
        """What came of it."""
        return self.result


@dataclass(frozen=True)
class Readings:
    """Has texts scored."""

    catalogue: Catalogue
    queue: JobQueue
    kept: KeptJobs[ReadingRecord]
    events: EventStreams
    redis: "Redis"
    silence: Silence
    queue_limit: int
    wait_s: float

    async def scores(
        self, texts: Sequence[str], policy: Policy, model: str | None, tenant: str, limits: TenantLimits, *ends: End
    ) -> tuple[TextScore, ...]:
        """What texts are scored for under a policy; nothing where it names no concepts.

        ends: each of them ends the waiting, and the job with it

        Raises:
            InvalidRequest: there is too much of them, or more than the tenant may ever have unfinished.
            PolicyNotServed: the model has no text tower.
            NotJudged: they were not scored, or not in time, or not before one of `ends`.
            Refusal: there is no such model, or it is one job too many.
        """
        concepts = tuple(dict.fromkeys(concept.text for concept in policy.prompt_rules.concepts))
        if not texts or not concepts:
            return ()
        if sum(map(len, texts)) > MAX_CHARACTERS:
            message = f"have more than {MAX_CHARACTERS} characters together, all that is read at once; send some apart"
            raise InvalidRequest(FieldError(field="texts", message=message))
        job = await run_in_threadpool(self._job, texts, concepts, model, tenant, policy)
        check_cost(job.cost, limits, "texts")
        names = [keys.upload_key(job.id, index) for index in range(len(texts))]
        async with self.silence.noticed_in_turn(), self.redis.pipeline(transaction=False) as pipe:
            for name, text in zip(names, texts, strict=True):
                pipe.set(name, text, ex=int(self.wait_s) + 60)
            await pipe.execute()
        record = None
        try:
            terms = Terms(queue_limit=self.queue_limit, service_s=None, jobs=limits.jobs, cost=limits.cost)
            await run_in_threadpool(self.queue.accept, job, terms)
            record = await ended(self.kept, self.events, job, self.wait_s, *ends)
            if record is None:
                with suppress(AlreadyFinished, RedisError):
                    record = await self.kept.cancel(job.id, tenant)
        finally:
            with suppress(RedisError):  # they end by themselves
                await self._forget(job, names, is_over=record is not None and record.status.is_terminal)
        result = record.result if record else None
        if result is None or not result.texts:
            error = result.error if result else None
            raise NotJudged(f"The texts could not be judged{f': {error.message}' if error else ' in time'}.", 5)
        return result.texts

    def _job(
        self, texts: Sequence[str], concepts: tuple[str, ...], model: str | None, tenant: str, policy: Policy
    ) -> ReadingJob:
        info, now = self.catalogue.model(model), datetime.now(UTC)
        if not info.scores_text_concepts:
            what = f"The policy {policy.id!r} demands what this model's workers do not serve"
            raise PolicyNotServed(f"{what}: texts scored for concepts, which takes a CLIP text tower.", 60)
        return ReadingJob(
            id=uuid.uuid4().hex,
            tenant=tenant,
            created_at=now,
            deadline_at=now + timedelta(seconds=self.wait_s),
            model=info.name,
            texts=tuple(hashlib.sha256(text.encode()).hexdigest() for text in texts),
            concepts=concepts,
            characters=sum(map(len, texts)),
        )

    async def _forget(self, job: ReadingJob, names: Sequence[str], *, is_over: bool) -> None:
        """The texts, and of a job that is over its record as well: there are many, and nobody can ask for one again."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.delete(*names)
            if is_over:
                pipe.delete(keys.job_key(job.id), keys.events_key(job.id))
                pipe.zrem(keys.tenant_jobs_key(job.tenant, job.kind), job.id)
            await pipe.execute()
