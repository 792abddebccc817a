"""What is wrong with the plans of a compare, told so that the caller finds the plan."""

from collections.abc import Iterator, Sequence

from contract.filter import Action, Filter
from contract.job import Job
from contract.plan import SafetyPlan
from contract.request import plan_of
from service.problems import FieldError


def errors_of_plans(errors: Sequence[Sequence[FieldError]]) -> list[FieldError]:
    """Each plan's errors, at its place in the request; what is wrong with the request under every plan, once."""
    told: list[FieldError] = []
    for index, of_plan in enumerate(errors):
        for error in of_plan:
            first, _, rest = error.field.partition(".")
            if first == "safety":
                error = FieldError(field=".".join(filter(None, (f"plans.{index}", rest))), message=error.message)
            elif not all(error in others for others in errors):
                error = FieldError(field=error.field, message=f"plans.{index}: {error.message}")
            if error not in told:
                told.append(error)
    return told


def without_regeneration(plan: SafetyPlan) -> SafetyPlan:
    """The plan with `block` in the place of a `regenerate` that a policy's floor has put there."""
    if plan.output is None:
        return plan
    written = plan.output.model_dump()
    for each in (written, *written["concepts"], *written["rules"]):
        del each["regenerations"]
        if each["action"] is Action.REGENERATE:
            each["action"] = Action.BLOCK
    return plan.model_copy(update={"output": Filter.model_validate(written)})


def regeneration_errors(job: Job) -> Iterator[FieldError]:
    """A compare shows every plan on one seed; a picture made again would have another."""
    output = plan_of(job.requested).output
    if output is None:
        return
    message = "'regenerate' takes another seed, and a compare keeps to one; choose another action, such as 'block'"
    if output.action is Action.REGENERATE:
        yield FieldError(field="safety.output.action", message=message)
    actions = {
        "concepts": [concept.action for concept in output.concepts],
        "rules": [rule.action for rule in output.rules],
    }
    for part, of_part in actions.items():
        for index, action in enumerate(of_part):
            if action is Action.REGENERATE:
                yield FieldError(field=f"safety.output.{part}.{index}.action", message=message)
