"""A job's trace, written once it is committed: all of its times are known by then, and a job that dies leaves none."""

from collections.abc import Iterable, Sequence

from contract.job import Job
from contract.result import Result
from contract.tracing import Span, Tracing
from workers.engine.picture import Stage
from workers.metrics import mode_of
from workers.results import Judged


def trace_job(
    tracing: Tracing,
    job: Job,
    attempt: int,
    started_at: float,
    judged: Sequence[Judged],
    result: Result,
    stages: Sequence[Stage],
) -> None:
    """Spans of a job, of its pictures with the discarded ones, and of their stages; `stages` are the job's own."""
    span = tracing.begin(
        "job",
        job.traceparent,
        started_at,
        "consumer",
        {
            "seemly.job.id": job.id,
            "seemly.request.id": job.request_id or "",
            "seemly.attempt": attempt,
            "seemly.model": job.model,
            "seemly.mode": mode_of(job),
            "seemly.outcome": result.status.value,
        },
    )
    _trace_stages(span, [Stage("queue", job.created_at.timestamp(), started_at)])
    for one in judged:
        submitted_at = started_at
        for made in one.attempts:
            submitted_at = _trace_picture(span, made, submitted_at)
    _trace_stages(span, stages)
    span.end(stages[-1].ended)


def _trace_picture(job_span: Span, made: Judged, submitted_at: float) -> float:
    """The picture's end, which is the next one's beginning where it was made again."""
    stages = made.outcome.stages
    if not stages:  # it never came into the engine
        return submitted_at
    attributes = {
        "seemly.picture": made.picture.index,
        "seemly.verdict": made.picture.verdict.value,
        "seemly.unet_rows": made.outcome.unet_rows,
        "seemly.pictures_per_batch_mean": made.outcome.pictures_per_batch_mean,
    }
    span = job_span.child("picture", submitted_at, attributes=attributes)
    _trace_stages(span, [Stage("room", submitted_at, stages[0].began), *stages])
    span.end(stages[-1].ended)
    return stages[-1].ended


def _trace_stages(span: Span, stages: Iterable[Stage]) -> None:
    for stage in stages:
        span.child(stage.name, stage.began).end(max(stage.began, stage.ended))
