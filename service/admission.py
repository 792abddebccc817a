"""From a request to a job: every bound checked, every default filled in, the effective plan decided."""

import hashlib
import secrets
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contract.acceptance import Terms
from contract.at_rest import PromptAtRest
from contract.compare import CompareRequest
from contract.job import ComparedPlan, Job, Original, Upload
from contract.model import ModelInfo
from contract.moderation import ModerateRequest
from contract.plan import SafetyPlan
from contract.policy import InForce
from contract.request import (
    MAX_SEED,
    GenerateRequest,
    OutputFormat,
    PicturesRequest,
    RequestedPlan,
    Scheduler,
    plan_of,
)
from contract.result import Result
from contract.tracing import OFF, Span
from service.at_rest import prompt_at_rest
from service.comparing import errors_of_plans, regeneration_errors, without_regeneration
from service.idempotency import fingerprint_of
from service.jobs import JobRecord
from service.models import Catalogue
from service.problems import FieldError, ForbiddenByPolicy, InvalidRequest, NotReproducible
from service.queue import JobQueue, Standing
from service.refused_prompts import PromptRefused, check_policy
from service.servable import (
    check_served,
    errors_of,
    plan_errors,
    probing_errors,
    renamed_concept_errors,
    token_errors,
    weakened_errors,
)
from service.tenants import UNLIMITED, TenantLimits
from service.webhooks.targets import Network, why_refused


@dataclass(frozen=True)
class Sender:
    """Who sends a request, and under which key it counts once."""

    tenant: str
    in_force: InForce
    limits: TenantLimits = UNLIMITED
    idempotency_key: str | None = None  # a digest
    prompt_key: bytes = b""  # under which its prompts are hashed, where the policy wants that
    request_id: str | None = None
    span: Span = OFF  # of the request
    sees_scores: bool = True  # in full, whatever the policy says


def check_webhook(url: str, tenant: str, queue: JobQueue, networks: Sequence[Network]) -> None:
    """See that a webhook may be sent there.

    Raises:
        InvalidRequest: when it may not, or cannot be signed.
    """
    why = why_refused(url, networks)
    if why is None and not queue.may_sign(tenant):
        why = f"needs a signing secret: have one made with `seemly webhooks secret create {tenant}`"
    if why is not None:
        raise InvalidRequest(FieldError(field="webhook_url", message=why))


class Admission:
    """Takes requests in. Blocking; call it from a thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        queue: JobQueue,
        queue_limit: int,
        idempotency_ttl_s: int,
        webhook_networks: Sequence[Network] = (),
    ) -> None:
        self._catalogue = catalogue
        self._queue = queue
        self._queue_limit = queue_limit
        self._idempotency_ttl_s = idempotency_ttl_s
        self._webhook_networks = webhook_networks

    def admit(self, request: GenerateRequest | CompareRequest, sender: Sender) -> tuple[Standing, float]:
        """Check a request, make it a job and enqueue it. The job, and in how many seconds it should be finished.

        Raises:
            Refusal: when it is not served; then nothing was enqueued.
        """
        key, fingerprint = sender.idempotency_key, fingerprint_of(request)
        if key is not None and (earlier := self._queue.replayed(sender.tenant, key, fingerprint)) is not None:
            return earlier, 0
        if request.webhook_url is not None:
            check_webhook(request.webhook_url, sender.tenant, self._queue, self._webhook_networks)
        model = self._catalogue.model(request.model)
        limits, end_user = sender.limits, _digest(sender.tenant, request.end_user)
        try:
            if isinstance(request, CompareRequest):
                job = self._compare_job(request, model, sender)
            else:
                job = self._generate_job(request, model, sender)
        except PromptRefused:
            if end_user is not None:
                self._queue.count_refusal(sender.tenant, end_user, limits.refusals)
            raise
        policy = sender.in_force.policy
        job = job.model_copy(update={"prompt_at_rest": _at_rest(job, sender), "keep_blocked": policy.keep_blocked})
        load = self._queue.recent_load(model.name)
        terms = Terms(
            queue_limit=self._queue_limit,
            service_s=load.mean_service_s,
            in_flight=load.in_flight,
            priority=request.priority,
            jobs=limits.jobs,
            cost=limits.cost,
            end_user=end_user,
            refusals=limits.refusals,
            webhook_url=request.webhook_url,
            webhooks=limits.webhooks,
            idempotency_key=key,
            fingerprint=fingerprint,
            idempotency_ttl_s=self._idempotency_ttl_s,
        )
        accepted = self._accept(job, terms, sender)
        return accepted, load.finish_s(accepted.position) if accepted.position else 0

    def moderation(self, request: ModerateRequest, uploads: tuple[Upload, ...], sender: Sender) -> Job:
        """The job that judges uploads, checked and not yet in the queue.

        Raises:
            Refusal: when it is not served.
        """
        if request.webhook_url is not None:
            check_webhook(request.webhook_url, sender.tenant, self._queue, self._webhook_networks)
        model = self._catalogue.model(request.model)
        requested = SafetyPlan(output=request.output)
        if crowded := _crowding_errors(requested, sender.in_force):
            raise InvalidRequest(*map(_beside_output, crowded))
        job = Job(
            id=uuid.uuid4().hex,
            tenant=sender.tenant,
            created_at=datetime.now(UTC),
            deadline_at=None,
            model=model.name,
            prompt="",
            negative_prompt="",
            seeds=(0,) * len(uploads),
            width=max(upload.width for upload in uploads),
            height=max(upload.height for upload in uploads),
            steps=1,
            guidance_scale=1,
            scheduler=Scheduler.DDIM,
            output_format=OutputFormat.PNG,
            requested=requested,
            plan=sender.in_force.effective(requested),
            policy=sender.in_force.policy.ref,
            keep_blocked=sender.in_force.policy.keep_blocked,
            uploads=uploads,
        )
        errors = [
            *plan_errors(requested, model),
            *renamed_concept_errors(requested, sender.in_force, model),
            *token_errors(job.model_copy(update={"plan": requested}), model, self._catalogue.tokenizer(model)),
        ]
        if errors:
            raise InvalidRequest(*map(_beside_output, errors))
        check_policy(job, sender.in_force)
        check_served(job, model, sender.in_force)
        return job

    def again(self, record: JobRecord, sender: Sender) -> Job:
        """The job that makes a finished one again, under the policy of now, checked and not yet in the queue.

        Raises:
            NotReproducible: it made no pictures, is over without any, or asked for what the model serves no more.
            Refusal: when it is not served any more.
        """
        job, result = record.job, record.result
        if job.uploads or result is None or not result.images:
            raise NotReproducible("Only a finished job that made pictures can be made again.")
        model, in_force = self._catalogue.model(job.model), sender.in_force
        for each in job.plans:
            for error in plan_errors(plan_of(each.requested), model):
                raise NotReproducible(f"What the job asked for is served no more: {error.field} {error.message}.")
            if why := in_force.crowding(each.plan):
                raise ForbiddenByPolicy(f"The job's own concepts are not within the policy: {why}.")
        compared = tuple(
            each.model_copy(update={"plan": without_regeneration(in_force.effective(each.plan))})
            for each in job.compared
        )
        now = {
            "id": uuid.uuid4().hex,
            "created_at": datetime.now(UTC),
            "deadline_at": None,
            "plan": compared[0].plan if compared else in_force.effective(job.plan),
            "compared": compared,
            "policy": in_force.policy.ref,
            "keep_blocked": in_force.policy.keep_blocked,
            "prompt_at_rest": _at_rest(job, sender),
            "request_id": sender.request_id,
            "traceparent": None,
            "original": Original(
                job=job.id,
                attempt=record.attempt,
                weights_sha256=_weights_of(result),
                verdicts=tuple(picture.verdict for picture in record.pictures),
                overturned=tuple(picture.index for picture in result.images if picture.is_overturned),
            ),
        }
        again = Job.model_validate(job.model_copy(update=now).model_dump())
        check_policy(again, in_force)
        if weak := tuple(weakened_errors(again, model, in_force)):
            raise ForbiddenByPolicy(
                f"The request is not within the policy: guidance_scale {weak[0].message}.", errors=weak
            )
        for index in range(max(1, len(compared))):
            check_served(again.of_picture(index), model, in_force)
        return again

    def enqueue(self, job: Job, sender: Sender, fingerprint: str, webhook_url: str | None = None) -> Standing:
        """Put a job into the queue, or find the one that the sender's idempotency key stands for.

        Raises:
            Refusal: when it is one too many, of whatever kind, or the key came with another request.
        """
        load, limits = self._queue.recent_load(job.model), sender.limits
        terms = Terms(
            queue_limit=self._queue_limit,
            service_s=load.mean_service_s,
            in_flight=load.in_flight,
            jobs=limits.jobs,
            cost=limits.cost,
            webhook_url=webhook_url,
            webhooks=limits.webhooks,
            idempotency_key=sender.idempotency_key,
            fingerprint=fingerprint,
            idempotency_ttl_s=self._idempotency_ttl_s,
        )
        return self._accept(job, terms, sender)

    def _accept(self, job: Job, terms: Terms, sender: Sender) -> Standing:
        """Into the queue; the job carries the request's id and its trace on."""
        if terms.cost is not None and job.cost > terms.cost:
            raise InvalidRequest(*_too_costly(job, terms.cost))
        span = sender.span.child("accept", kind="producer", attributes={"seemly.job.id": job.id})
        try:
            carrying = {"request_id": sender.request_id, "traceparent": span.traceparent}
            return self._queue.accept(job.model_copy(update=carrying), terms)
        finally:
            span.end()

    def _generate_job(self, request: GenerateRequest, model: ModelInfo, sender: Sender) -> Job:
        if why := _why_forbidden(request.plan, sender.in_force):
            raise ForbiddenByPolicy(why)
        if crowded := _crowding_errors(request.plan, sender.in_force):
            raise InvalidRequest(*crowded)
        job = self._job(request, request.safety, _seeds(request.seed, request.num_images), model, sender)
        if errors := self._errors_of(job, model, sender):
            raise InvalidRequest(*errors)
        check_policy(job, sender.in_force)
        check_served(job, model, sender.in_force)
        return job

    def _compare_job(self, request: CompareRequest, model: ModelInfo, sender: Sender) -> Job:
        """Every plan is checked as if it came alone to `POST /generate`."""
        in_force = sender.in_force
        forbidden = [(index, _why_forbidden(plan_of(plan), in_force)) for index, plan in enumerate(request.plans)]
        if refused := [FieldError(field=f"plans.{index}", message=why) for index, why in forbidden if why]:
            raise ForbiddenByPolicy(f"{refused[0].field}: {refused[0].message}", errors=tuple(refused))
        if crowded := errors_of_plans([_crowding_errors(plan_of(plan), in_force) for plan in request.plans]):
            raise InvalidRequest(*crowded)
        seeds = _seeds(request.seed, 1) * len(request.plans)
        jobs = [self._job(request, plan, seeds, model, sender) for plan in request.plans]
        if errors := errors_of_plans(
            [[*self._errors_of(job, model, sender), *regeneration_errors(job)] for job in jobs]
        ):
            raise InvalidRequest(*errors)
        compared = tuple(
            ComparedPlan(label=label, requested=job.requested, plan=without_regeneration(job.plan))
            for label, job in zip(request.names, jobs, strict=True)
        )
        whole = jobs[0].model_copy(update={"plan": compared[0].plan, "compared": compared})
        check_policy(whole, in_force)
        for job in jobs:
            check_served(job, model, in_force)
        return whole

    def _errors_of(self, job: Job, model: ModelInfo, sender: Sender) -> list[FieldError]:
        probing = () if sender.sees_scores else probing_errors(plan_of(job.requested), sender.in_force)
        return [*errors_of(job, model, sender.in_force, self._catalogue.tokenizer(model)), *probing]

    def _job(
        self,
        request: PicturesRequest,
        requested: RequestedPlan,
        seeds: tuple[int, ...],
        model: ModelInfo,
        sender: Sender,
    ) -> Job:
        created_at = datetime.now(UTC)
        return Job(
            id=uuid.uuid4().hex,
            tenant=sender.tenant,
            created_at=created_at,
            deadline_at=created_at + timedelta(seconds=request.deadline_s) if request.deadline_s else None,
            model=model.name,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt or "",
            seeds=seeds,
            width=request.width or model.native_width_px,
            height=request.height or model.native_height_px,
            steps=request.steps or model.default_steps,
            guidance_scale=(model.default_guidance_scale if request.guidance_scale is None else request.guidance_scale),
            scheduler=request.scheduler,
            output_format=request.output_format,
            requested=requested,
            plan=sender.in_force.effective(plan_of(requested)),
            policy=sender.in_force.policy.ref,
        )


def _at_rest(job: Job, sender: Sender) -> PromptAtRest:
    return prompt_at_rest(sender.in_force.policy.prompts, job.prompt, job.negative_prompt, sender.prompt_key)


def _weights_of(result: Result) -> str | None:
    told = [result.safety, *(each.safety for each in result.comparison)]
    return next((safety.weights_sha256 for safety in told if safety is not None), None)


def _beside_output(error: FieldError) -> FieldError:
    """The same for a request that has no plan but a filter."""
    return FieldError(field=error.field.removeprefix("safety."), message=error.message)


def _why_forbidden(requested: SafetyPlan, in_force: InForce) -> str | None:
    if refused := in_force.policy.refused_methods(requested):
        return f"The policy {in_force.policy.id!r} does not allow: {', '.join(refused)}. Choose another safety plan."
    return None


def _crowding_errors(requested: SafetyPlan, in_force: InForce) -> list[FieldError]:
    """Asked before the effective plan is made: a filter takes no more concepts, and no more rules, than these."""
    why = in_force.crowding(requested)
    return [FieldError(field="safety.output.concepts", message=why)] if why else []


def _digest(tenant: str, end_user: str | None) -> str | None:
    """What is kept of an end user's name: enough to count by."""
    return None if end_user is None else hashlib.sha256(f"{tenant} {end_user}".encode()).hexdigest()


def _too_costly(job: Job, limit: int) -> Iterator[FieldError]:
    message = (
        f"the request costs {job.cost} pixel-steps, and the tenant may have {limit} unfinished; ask for less of this"
    )
    for field in ("images",) if job.uploads else ("steps", "width", "height"):
        yield FieldError(field=field, message=message)


def _seeds(first: int | None, pictures: int) -> tuple[int, ...]:
    start = secrets.randbits(32) if first is None else first
    return tuple((start + index) % (MAX_SEED + 1) for index in range(pictures))
