"""A request for a job on its way: on whose behalf, accepted, awaited."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from contract.compare import CompareRequest
from contract.logs import about
from contract.request import GenerateRequest
from contract.result import JobView
from service.at_rest import PURPOSE
from service.audit.texts import entries_of
from service.awaiting import End, finished, first_of, gone
from service.callers import Caller
from service.jobs import JobRecord
from service.queue import Standing
from service.quotas import quota_headers
from service.refused_prompts import PromptRefused
from service.reproducing import again
from service.sender import Sender
from service.tenants import UNLIMITED

if TYPE_CHECKING:
    from service.gateway import Gateway

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """What comes with a request for a job, beside its body."""

    caller: Caller
    idempotency_key: str | None
    request: Request
    gateway: "Gateway"

    async def sender(self) -> Sender:
        """On whose behalf, and under what."""
        state = self.request.scope["state"]
        in_force = await self.gateway.policies.in_force(self.caller.tenant)
        prompt_key = (await self.gateway.callers.pepper_or_new()).derived(PURPOSE)
        return Sender(
            self.caller.tenant,
            in_force,
            state.get("limits", UNLIMITED),
            self.idempotency_key,
            prompt_key,
            state["request_id"],
            state["span"],
            self.caller.sees_scores,
        )

    async def accept(self, body: GenerateRequest | CompareRequest) -> tuple[Standing, float]:
        """Accept a request as a job. The job, and in how many seconds it should be finished."""
        state, sender = self.request.scope["state"], await self.sender()
        async with self._refusals_on_record(sender):
            job, finish_s = await run_in_threadpool(self.gateway.admission.admit, body, sender)
        self.note(job)
        if job.unfinished is not None:
            told = state["headers"]
            for name, value in quota_headers(sender.limits, job.unfinished).items():
                told[name] = ", ".join(filter(None, (told.get(name), value)))
        return job, finish_s

    async def accept_again(self, record: JobRecord) -> Standing:
        """Accept a finished job once more, as a job of its own."""
        gateway, sender = self.gateway, await self.sender()
        key, fingerprint = sender.idempotency_key, f"reproduce {record.job.id}"
        if earlier := await run_in_threadpool(gateway.intake.earlier, sender.tenant, key, fingerprint):
            return earlier
        async with self._refusals_on_record(sender):
            made = await run_in_threadpool(again, record, sender, gateway.catalogue)
        job, _ = await run_in_threadpool(gateway.intake.enqueue, made, sender, fingerprint)
        self.note(job)
        return job

    @asynccontextmanager
    async def _refusals_on_record(self, sender: Sender) -> AsyncIterator[None]:
        """Count a refused prompt, and put it on record."""
        try:
            yield
        except PromptRefused as refused:
            self.gateway.metrics.prompts_refused.labels(refused.field).inc()
            async with self.gateway.silence.noticed_in_turn():
                await self.gateway.audit.append(*entries_of(refused.texts, sender))
            raise

    def note(self, job: Standing) -> None:
        """Count a job that was accepted, and log its id under the request's."""
        if job.is_new:
            self.gateway.metrics.accepted.labels(job.model).inc()
            with about(job_id=job.id):
                log.info("job %s: accepted", job.id)

    async def awaited(self, job_id: str, wait_s: float, *ends: End) -> JobRecord:
        """The job as it is once it is finished, the time is over, one of `ends` came, or this process is to end."""
        jobs, tenant = self.gateway.jobs, self.caller.tenant
        record = (await jobs.read(job_id, tenant)).seen_by(self.caller)
        if record.status.is_terminal:
            return record
        await first_of(partial(finished, self.gateway.events, record.job, wait_s), self.gateway.leaving.wait, *ends)
        return (await jobs.read(job_id, tenant)).seen_by(self.caller)

    async def signed(self, view: JobView, for_s: int) -> JobView:
        """The job with addresses of its pictures that need no key for so long."""
        return await self.gateway.links.signed(view, self.caller.tenant, str(self.request.base_url), for_s)

    async def gone(self) -> None:
        """Return once the client has hung up."""
        await gone(self.request)
