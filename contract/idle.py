"""Settings under which a part of a plan would silently do nothing. They are refused, by gateway and worker alike."""

from collections.abc import Iterator

from contract.plan import SafetyPlan
from contract.request import Scheduler
from contract.steering import Sega, SegaConcept, Sld, Unguidance


def idle_settings(
    plan: SafetyPlan, guidance_scale: float, steps: int, scheduler: Scheduler, negative_prompt: str
) -> list[tuple[str, str]]:
    """Pairs of a field of the request and what to change about it; none when everything asked for acts."""
    return [
        *_idle_guidance(plan, guidance_scale, steps),
        *_idle_trajectory(plan.trajectory, steps, scheduler),
        *_dropped_negative_prompt(guidance_scale, negative_prompt),
    ]


def _idle_guidance(plan: SafetyPlan, guidance_scale: float, steps: int) -> Iterator[tuple[str, str]]:
    guidance = plan.guidance
    if guidance is not None and guidance_scale <= 1:
        yield (
            "guidance_scale",
            f"{guidance.method!r} acts through guidance, which is off at 1 and under; take more than 1",
        )
    match guidance:
        case Sld(parameters=parameters):
            if parameters.scale == 0:
                yield "safety.guidance.scale", "'sld' does nothing at 0; take more, or leave the method out"
            if steps <= parameters.warmup_steps:
                yield "steps", _warmup_message("sld", parameters.warmup_steps)
        case Sega(concepts=None):
            default = SegaConcept(text="default")
            if steps <= default.warmup_steps:
                yield "steps", _warmup_message("sega", default.warmup_steps)
        case Sega(concepts=tuple(concepts)):
            for index, concept in enumerate(concepts):
                yield from _idle_edit(f"safety.guidance.concepts.{index}", concept, steps)


def _warmup_message(method: str, warmup_steps: int) -> str:
    return f"{method!r} acts after {warmup_steps} warm-up steps; take more steps or a shorter warm-up"


def _idle_edit(field: str, concept: SegaConcept, steps: int) -> Iterator[tuple[str, str]]:
    if concept.scale == 0:
        yield f"{field}.scale", "the edit does nothing at 0; take more, or leave it out"
    if steps <= concept.warmup_steps:
        yield (
            f"{field}.warmup_steps",
            f"the edit acts after {concept.warmup_steps} steps, and there are {steps}; warm up for fewer",
        )
    if concept.cooldown_step is not None and concept.cooldown_step <= concept.warmup_steps:
        yield (
            f"{field}.cooldown_step",
            f"the edit would end before it acts, after {concept.warmup_steps} warm-up steps; let it end later",
        )


def _idle_trajectory(unguidance: Unguidance | None, steps: int, scheduler: Scheduler) -> Iterator[tuple[str, str]]:
    if unguidance is None:
        return
    if scheduler is not Scheduler.DDIM:
        yield "scheduler", "'unguidance' works with 'ddim' only"
    if unguidance.strength == 0:
        yield "safety.trajectory.strength", "'unguidance' does nothing at 0; take more, or leave the method out"
    start, end = unguidance.start_step, unguidance.end_step
    if unguidance.schedule in (None, "constant") and (start > 0 or end is not None):
        yield (
            "safety.trajectory.schedule",
            "start_step and end_step belong to 'window' and 'linear'; take one of these, or leave them out",
        )
    if start >= steps:
        yield "safety.trajectory.start_step", f"is beyond the last of {steps} steps, the first being 0; start earlier"
    if end is not None and end > steps:
        yield "safety.trajectory.end_step", f"is beyond the end of {steps} steps; end earlier, or leave it out"
    if end is not None and start >= end:
        yield "safety.trajectory.end_step", f"no step lies between {start} and {end}; end after start_step"


def _dropped_negative_prompt(guidance_scale: float, negative_prompt: str) -> Iterator[tuple[str, str]]:
    if negative_prompt and guidance_scale <= 1:
        yield (
            "negative_prompt",
            "acts through guidance, which is off at a guidance_scale of 1 and under; take more, or leave it out",
        )
