"""What of a request a model's workers do not serve, each fault with the field it comes from."""

from collections.abc import Iterator, Sequence
from operator import itemgetter

from tokenizers import Tokenizer

from contract.concept_text import joined
from contract.detail import ScoreDetail
from contract.filter import Action
from contract.idle import idle_settings
from contract.job import Job
from contract.model import ModelInfo, VariantStatus
from contract.plan import SafetyPlan
from contract.policy import InForce
from contract.request import plan_of
from contract.steering import Negative, Sega, Sld
from service.models import count_tokens, holds_mark, too_long
from service.problems import FieldError, PolicyNotServed

_PLACES = ("prompt", "weights", "guidance", "trajectory", "output")


def errors_of(job: Job, model: ModelInfo, in_force: InForce, tokenizer: Tokenizer) -> list[FieldError]:
    """All that is wrong with a job that is to make pictures."""
    requested = plan_of(job.requested)
    return [
        *_size_errors(job, model),
        *_scheduler_errors(job, model),
        *plan_errors(requested, model),
        *renamed_concept_errors(requested, in_force, model),
        *_idle_errors(job),
        *weakened_errors(job, model, in_force),
        *token_errors(job, model, tokenizer),
    ]


def plan_errors(plan: SafetyPlan, model: ModelInfo) -> Iterator[FieldError]:
    """What of a plan the model's workers do not serve."""
    for place in _PLACES:
        method = getattr(plan, place)
        if method is not None and method.method not in model.methods:
            yield FieldError(
                field=f"safety.{place}",
                message=f"{method.method!r} is not served by this model; available: {', '.join(model.methods)}",
            )
    if plan.weights is not None and "erased" in model.methods:
        yield from _variant_error(plan.weights.variant, model)
    if plan.trajectory is not None and not model.scores_text_concepts:
        if plan.trajectory.concepts is not None:
            yield FieldError(
                field="safety.trajectory.concepts",
                message="this model scores its own concepts only; leave the list out and take the preset 'filter'",
            )
        elif plan.trajectory.preset != "filter":
            yield FieldError(
                field="safety.trajectory.preset", message="this model scores its own concepts only; take 'filter'"
            )
    if plan.output is not None:
        yield from _action_error("safety.output.action", plan.output.action, model)
        if plan.output.concepts and not model.scores_text_concepts:
            yield FieldError(
                field="safety.output.concepts",
                message=f"this model scores its own concepts only: {', '.join(model.concepts)}; leave the list out",
            )
        scored = {*model.concepts, *(concept.name for concept in plan.output.concepts)}
        for index, concept in enumerate(plan.output.concepts):
            yield from _action_error(f"safety.output.concepts.{index}.action", concept.action, model)
        for index, rule in enumerate(plan.output.rules):
            yield from _action_error(f"safety.output.rules.{index}.action", rule.action, model)
            if rule.name not in scored:
                message = (
                    f"no detector here scores it; scored: {', '.join(model.concepts)}, and `concepts` given as text"
                )
                yield FieldError(field=f"safety.output.rules.{index}.name", message=message)


def crowding_errors(requested: SafetyPlan, in_force: InForce) -> list[FieldError]:
    """Asked before the effective plan is made: a filter takes no more concepts, and no more rules, than these."""
    why = in_force.crowding(requested)
    return [FieldError(field="safety.output.concepts", message=why)] if why else []


def renamed_concept_errors(requested: SafetyPlan, in_force: InForce, model: ModelInfo) -> Iterator[FieldError]:
    """Under a floor, nobody may put a text of their own in the place of a concept that the model's checker knows."""
    if in_force.floor.output is None or requested.output is None:
        return
    for index, concept in enumerate(requested.output.concepts):
        if concept.name in model.concepts:
            yield FieldError(
                field=f"safety.output.concepts.{index}.name",
                message="is the name of a concept of the model's own checker; choose another",
            )


def weakened_errors(job: Job, model: ModelInfo, in_force: InForce) -> Iterator[FieldError]:
    """A negative prompt pushes as hard as guidance does, so under a floor that demands one no request turns this down;
    how far it may is the policy's to say."""
    least, is_bounded = model.default_guidance_scale, in_force.policy.bounds.guidance_scale.min is not None
    if isinstance(in_force.floor.guidance, Negative) and not is_bounded and job.guidance_scale < least:
        message = (
            f"must be at least the model's default, {least:g}: the policy {in_force.policy.id!r} demands 'negative',"
            " which fades with it"
        )
        yield FieldError(field="guidance_scale", message=message)


def probing_errors(requested: SafetyPlan, in_force: InForce) -> Iterator[FieldError]:
    """Thresholds of a caller's own, to whom scores are not told in full: each answer would halve where a score lies."""
    if in_force.policy.scores is ScoreDetail.FULL or requested.output is None:
        return
    message = f"the policy {in_force.policy.id!r} does not tell this key scores, so that it sets no thresholds"
    for index, _ in enumerate(requested.output.concepts):
        yield FieldError(field=f"safety.output.concepts.{index}.threshold", message=f"{message}; leave the concept out")
    for index, rule in enumerate(requested.output.rules):
        if rule.threshold is not None:
            yield FieldError(field=f"safety.output.rules.{index}.threshold", message=f"{message}; leave it out")


def token_errors(job: Job, model: ModelInfo, tokenizer: Tokenizer) -> Iterator[FieldError]:
    """Texts that the model's encoder does not read whole."""
    for field, text in filter(itemgetter(1), _encoded_texts(job, model)):
        count = count_tokens(tokenizer, text, model.max_tokens)
        if count.lost_words:
            yield too_long(field, count, model.max_tokens)
        if count.stray_mark:
            yield holds_mark(field, count)


def _size_errors(job: Job, model: ModelInfo) -> Iterator[FieldError]:
    multiple = model.size_multiple_px
    for field, side in (("width", job.width), ("height", job.height)):
        if not model.min_size_px <= side <= model.max_size_px or side % multiple:
            yield FieldError(
                field=field,
                message=f"must be a multiple of {multiple} from {model.min_size_px} to {model.max_size_px} pixels",
            )


def _scheduler_errors(job: Job, model: ModelInfo) -> Iterator[FieldError]:
    if job.scheduler not in model.schedulers:
        available = ", ".join(scheduler.value for scheduler in model.schedulers)
        yield FieldError(field="scheduler", message=f"is not served by this model; available: {available}")


def _idle_errors(job: Job) -> list[FieldError]:
    found = idle_settings(job.plan, job.guidance_scale, job.steps, job.scheduler, job.negative_prompt)
    return [FieldError(field=field, message=message) for field, message in found]


def _encoded_texts(job: Job, model: ModelInfo) -> Iterator[tuple[str, str]]:
    """Every text that a worker will encode, with the field it comes from; none of them may be cut."""
    yield "prompt", job.prompt
    match job.plan.guidance:
        case Negative(concepts=concepts):
            field = "negative_prompt" if job.negative_prompt else "safety.guidance.concepts"
            yield field, ", ".join(filter(None, (job.negative_prompt, _concept_text(concepts, model))))
        case Sld(concepts=concepts):
            yield "negative_prompt", job.negative_prompt
            yield "safety.guidance.concepts", _concept_text(concepts, model)
        case Sega(concepts=edits):
            yield "negative_prompt", job.negative_prompt
            if edits is None:
                yield "safety.guidance.concepts", _concept_text(None, model)
            for index, edit in enumerate(edits or ()):
                yield f"safety.guidance.concepts.{index}.text", edit.text
        case None:
            yield "negative_prompt", job.negative_prompt
    if job.plan.prompt:
        for index, text in enumerate(job.plan.prompt.concepts or model.default_concepts):
            yield f"safety.prompt.concepts.{index}", text
    if job.plan.trajectory:
        for index, text in enumerate(job.plan.trajectory.concepts or ()):
            yield f"safety.trajectory.concepts.{index}", text
    for index, concept in enumerate(job.plan.output.concepts if job.plan.output else ()):
        yield f"safety.output.concepts.{index}.text", concept.text


def _concept_text(concepts: Sequence[str] | None, model: ModelInfo) -> str:
    return joined(concepts or model.default_concepts)


def _variant_error(name: str, model: ModelInfo) -> Iterator[FieldError]:
    status = next((variant.status for variant in model.variants if variant.name == name), None)
    if status is VariantStatus.AVAILABLE:
        return
    match status:
        case None:
            what = model.refused_variants.get(name, "is not a variant here")
        case VariantStatus.CANDIDATE:
            what = "is a candidate that was not promoted yet"
        case VariantStatus.RETIRED:
            what = "is retired and served no longer"
    yield FieldError(
        field="safety.weights.variant", message=f"{what}; available: {', '.join(model.available_variants) or 'none'}"
    )


def _action_error(field: str, action: Action | None, model: ModelInfo) -> Iterator[FieldError]:
    if action is not None and action not in model.actions:
        available = ", ".join(served.value for served in model.actions)
        yield FieldError(field=field, message=f"{action.value!r} is not served by this model; available: {available}")


def check_served(job: Job, model: ModelInfo, in_force: InForce) -> None:
    """See that a model's workers can do what a policy demands of a job.

    Raises:
        PolicyNotServed: when they cannot.
    """
    what = f"The policy {in_force.policy.id!r} demands what this model's workers do not serve"
    if any(True for _ in plan_errors(job.plan, model)):
        raise PolicyNotServed(f"{what}.", 60)
    if in_force.policy.prompt_rules.concepts and not (job.uploads or model.scores_text_concepts):
        raise PolicyNotServed(f"{what}: prompts scored for concepts, which takes a CLIP text tower (`clip_text/`).", 60)
