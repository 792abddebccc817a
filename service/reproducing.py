"""A finished job as the job that makes its pictures again."""

import uuid
from datetime import UTC, datetime

from contract.job import Job, Original
from contract.request import plan_of
from contract.result import Result
from service.comparing import without_regeneration
from service.jobs import JobRecord
from service.models import Catalogue
from service.problems import ForbiddenByPolicy, NotReproducible
from service.refused_prompts import check_policy
from service.sender import Sender
from service.servable import check_served, plan_errors, weakened_errors


def again(record: JobRecord, sender: Sender, catalogue: Catalogue) -> Job:
    """The job that makes a finished one again, under the policy of now, checked and not yet in the queue.

    Raises:
        NotReproducible: it made no pictures, is over without any, or asked for what the model serves no more.
        Refusal: when it is not served any more.
    """
    job, result = record.job, record.result
    if job.uploads or result is None or not result.images:
        raise NotReproducible("Only a finished job that made pictures can be made again.")
    model, in_force = catalogue.model(job.model), sender.in_force
    for each in job.plans:
        for error in plan_errors(plan_of(each.requested), model):
            raise NotReproducible(f"What the job asked for is served no more: {error.field} {error.message}.")
        if why := in_force.crowding(each.plan):
            raise ForbiddenByPolicy(f"The job's own concepts are not within the policy: {why}.")
    compared = tuple(
        each.model_copy(update={"plan": without_regeneration(in_force.effective(each.plan))}) for each in job.compared
    )
    now = {
        "id": uuid.uuid4().hex,
        "created_at": datetime.now(UTC),
        "deadline_at": None,
        "plan": compared[0].plan if compared else in_force.effective(job.plan),
        "compared": compared,
        "policy": in_force.policy.ref,
        "keep_blocked": in_force.policy.keep_blocked,
        "prompt_at_rest": sender.at_rest(job.prompt, job.negative_prompt),
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
    made = Job.model_validate(job.model_copy(update=now).model_dump())
    check_policy(made, in_force)
    if weak := tuple(weakened_errors(made, model, in_force)):
        raise ForbiddenByPolicy(f"The request is not within the policy: guidance_scale {weak[0].message}.", errors=weak)
    for index in range(max(1, len(compared))):
        check_served(made.of_picture(index), model, in_force)
    return made


def _weights_of(result: Result) -> str | None:
    told = [result.safety, *(each.safety for each in result.comparison)]
    return next((safety.weights_sha256 for safety in told if safety is not None), None)
