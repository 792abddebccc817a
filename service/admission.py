"""From a request for pictures to a job: every bound checked, every default filled in, the effective plan decided."""

import hashlib
import secrets
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from contract.compare import CompareRequest
from contract.job import ComparedPlan, Job
from contract.model import ModelInfo
from contract.plan import SafetyPlan
from contract.policy import InForce
from contract.request import MAX_SEED, GenerateRequest, PicturesRequest, RequestedPlan, plan_of
from service.comparing import errors_of_plans, regeneration_errors, without_regeneration
from service.idempotency import fingerprint_of
from service.intake import Intake
from service.models import Catalogue
from service.problems import FieldError, ForbiddenByPolicy, InvalidRequest
from service.queue import Standing
from service.refused_prompts import PromptRefused, check_policy
from service.sender import Sender
from service.servable import check_served, crowding_errors, errors_of, probing_errors


@dataclass(frozen=True)
class Admission:
    """Takes requests for pictures in. Blocking; call it from a thread."""

    catalogue: Catalogue
    intake: Intake

    def admit(self, request: GenerateRequest | CompareRequest, sender: Sender) -> tuple[Standing, float]:
        """Check a request, make it a job and enqueue it. The job, and in how many seconds it should be finished.

        Raises:
            Refusal: when it is not served; then nothing was enqueued.
        """
        fingerprint, end_user = fingerprint_of(request), _digest(sender.tenant, request.end_user)
        if (earlier := self.intake.earlier(sender.tenant, sender.idempotency_key, fingerprint)) is not None:
            return earlier, 0
        self.intake.check_webhook(request.webhook_url, sender.tenant)
        model = self.catalogue.model(request.model)
        try:
            if isinstance(request, CompareRequest):
                job = self._compare_job(request, model, sender)
            else:
                job = self._generate_job(request, model, sender)
        except PromptRefused:
            if end_user is not None:
                self.intake.queue.count_refusal(sender.tenant, end_user, sender.limits.refusals)
            raise
        at_rest, keep_blocked = sender.at_rest(job.prompt, job.negative_prompt), sender.in_force.policy.keep_blocked
        job = job.model_copy(update={"prompt_at_rest": at_rest, "keep_blocked": keep_blocked})
        return self.intake.enqueue(
            job, sender, fingerprint, request.webhook_url, end_user=end_user, priority=request.priority
        )

    def _generate_job(self, request: GenerateRequest, model: ModelInfo, sender: Sender) -> Job:
        if why := _why_forbidden(request.plan, sender.in_force):
            raise ForbiddenByPolicy(why)
        if crowded := crowding_errors(request.plan, sender.in_force):
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
        if crowded := errors_of_plans([crowding_errors(plan_of(plan), in_force) for plan in request.plans]):
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
        return [*errors_of(job, model, sender.in_force, self.catalogue.tokenizer(model)), *probing]

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


def _why_forbidden(requested: SafetyPlan, in_force: InForce) -> str | None:
    if refused := in_force.policy.refused_methods(requested):
        return f"The policy {in_force.policy.id!r} does not allow: {', '.join(refused)}. Choose another safety plan."
    return None


def _digest(tenant: str, end_user: str | None) -> str | None:
    """What is kept of an end user's name: enough to count by."""
    return None if end_user is None else hashlib.sha256(f"{tenant} {end_user}".encode()).hexdigest()


def _seeds(first: int | None, pictures: int) -> tuple[int, ...]:
    start = secrets.randbits(32) if first is None else first
    return tuple((start + index) % (MAX_SEED + 1) for index in range(pictures))
