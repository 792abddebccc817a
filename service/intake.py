"""The way into the queue, for jobs of every kind."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from contract.acceptance import Priority, Terms
from contract.job import Job
from service.problems import FieldError, InvalidRequest
from service.queue import JobQueue, Standing
from service.sender import Sender
from service.tenants import TenantLimits
from service.webhooks.targets import Network, why_refused


@dataclass(frozen=True)
class Intake:
    """Lets jobs in. Blocking; call it from a thread."""

    queue: JobQueue
    queue_limit: int
    idempotency_ttl_s: int
    webhook_networks: Sequence[Network] = ()

    def earlier(self, tenant: str, key: str | None, fingerprint: str) -> Standing | None:
        """The job that the digest of an Idempotency-Key stands for.

        Raises:
            IdempotencyKeyReused: when it came with another request.
        """
        return None if key is None else self.queue.replayed(tenant, key, fingerprint)

    def check_webhook(self, url: str | None, tenant: str) -> None:
        """See that a webhook may be sent where a request wants it, if it wants one.

        Raises:
            InvalidRequest: when it may not, or cannot be signed.
        """
        if url is None:
            return
        why = why_refused(url, self.webhook_networks)
        if why is None and not self.queue.may_sign(tenant):
            why = f"needs a signing secret: have one made with `seemly webhooks secret create {tenant}`"
        if why is not None:
            raise InvalidRequest(FieldError(field="webhook_url", message=why))

    def terms(self, limits: TenantLimits, key: str | None, fingerprint: str, webhook_url: str | None) -> Terms:
        """What holds for a job of any kind: its tenant's limits, and what came with its request."""
        return Terms(
            queue_limit=self.queue_limit,
            service_s=None,
            jobs=limits.jobs,
            cost=limits.cost,
            refusals=limits.refusals,
            webhook_url=webhook_url,
            webhooks=limits.webhooks,
            idempotency_key=key,
            fingerprint=fingerprint,
            idempotency_ttl_s=self.idempotency_ttl_s,
        )

    def enqueue(
        self,
        job: Job,
        sender: Sender,
        fingerprint: str,
        webhook_url: str | None = None,
        *,
        end_user: str | None = None,
        priority: Priority = "normal",
    ) -> tuple[Standing, float]:
        """Put a job for pictures into the queue, or find the one that the sender's idempotency key stands for.

        It carries the request's id and its trace on.

        end_user: the digest of a name

        Returns:
            The job, and in how many seconds it should be finished; 0 of an earlier one.

        Raises:
            InvalidRequest: when it costs more than its tenant may ever have.
            Refusal: when it is one too many, of whatever kind, or the key came with another request.
        """
        check_cost(job.cost, sender.limits, *(("images",) if job.uploads else ("steps", "width", "height")))
        load = self.queue.recent_load(job.model)
        terms = replace(
            self.terms(sender.limits, sender.idempotency_key, fingerprint, webhook_url),
            service_s=load.mean_service_s,
            in_flight=load.in_flight,
            end_user=end_user,
            priority=priority,
        )
        span = sender.span.child("accept", kind="producer", attributes={"seemly.job.id": job.id})
        try:
            carrying = {"request_id": sender.request_id, "traceparent": span.traceparent}
            standing = self.queue.accept(job.model_copy(update=carrying), terms)
        finally:
            span.end()
        return standing, load.finish_s(standing.position) if standing.position else 0


def check_cost(cost: int, limits: TenantLimits, *fields: str) -> None:
    """See that a tenant may ever have so much unfinished.

    cost: pixel-steps
    fields: those of the request that make it up

    Raises:
        InvalidRequest: when it may not.
    """
    if limits.cost is not None and cost > limits.cost:
        may = f"the tenant may have {limits.cost} unfinished; ask for less of this"
        message = f"the request costs {cost} pixel-steps, and {may}"
        raise InvalidRequest(*(FieldError(field=field, message=message) for field in fields))
