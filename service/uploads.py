"""Uploads as the job that judges them."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from contract.job import Job, Upload
from contract.moderation import ModerateRequest
from contract.plan import SafetyPlan
from contract.request import OutputFormat, Scheduler
from service.models import Catalogue
from service.problems import FieldError, InvalidRequest
from service.refused_prompts import check_policy
from service.sender import Sender
from service.servable import check_served, crowding_errors, plan_errors, renamed_concept_errors, token_errors


def moderation_job(request: ModerateRequest, uploads: Sequence[Upload], sender: Sender, catalogue: Catalogue) -> Job:
    """The job that judges uploads, checked and not yet in the queue.

    Raises:
        Refusal: when it is not served.
    """
    model, in_force = catalogue.model(request.model), sender.in_force
    requested = SafetyPlan(output=request.output)
    if crowded := crowding_errors(requested, in_force):
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
        plan=in_force.effective(requested),
        policy=in_force.policy.ref,
        keep_blocked=in_force.policy.keep_blocked,
        uploads=tuple(uploads),
    )
    errors = [
        *plan_errors(requested, model),
        *renamed_concept_errors(requested, in_force, model),
        *token_errors(job.model_copy(update={"plan": requested}), model, catalogue.tokenizer(model)),
    ]
    if errors:
        raise InvalidRequest(*map(_beside_output, errors))
    check_policy(job, in_force)
    check_served(job, model, in_force)
    return job


def _beside_output(error: FieldError) -> FieldError:
    """The same for a request that has no plan but a filter."""
    return FieldError(field=error.field.removeprefix("safety."), message=error.message)
