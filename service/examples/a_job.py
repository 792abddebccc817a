"""A job for pictures, and whatever tells of it."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from contract.job import PolicyRef
from contract.listing import (
    JobPage,
    JobSummary,
)
from contract.plan import SafetyPlan
from contract.provenance import DIGITAL_SOURCE, Manifest, Origin, Provenance, Provenances
from contract.request import OutputFormat
from contract.result import AppliedSafety, JobView, Metrics, Picture, Status
from contract.verdict import ConceptScore, Verdict, decide
from service.compatible.answer import Image, ImagesAnswer, Withheld
from service.listing import Place

ID = "c27163bc46644fe8867abafa973a0483"
CREATED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
STARTED, FINISHED = CREATED + timedelta(milliseconds=15), CREATED + timedelta(milliseconds=812)
SHA256 = "5c7e3b1d9f2a4c6e8b0d1f3a5c7e9b2d4f6a8c0e1b3d5f7a9c2e4b6d8f0a1c3e"
_THRESHOLD = 0.29542


def _score(score: float) -> ConceptScore:
    margin = round(score - _THRESHOLD, 3)
    return ConceptScore(
        name="skull",
        category="death",
        detector="clip-checker",
        detector_version="1",
        score=score,
        threshold=_THRESHOLD,
        margin=margin,
        flagged=margin > 0,
    )


def _picture(index: int, seed: int, score: float) -> Picture:
    plan = SafetyPlan.from_short_form("filter")
    decision = decide([_score(score)], plan.output)
    is_passed = decision.verdict is Verdict.PASSED
    return Picture(
        index=index,
        seed=seed,
        verdict=decision.verdict,
        action=decision.action,
        url=f"/jobs/{ID}/images/{index}" if is_passed else None,
        sha256=SHA256 if is_passed else None,
        width=64,
        height=64,
        concepts=(_score(score),),
        reasons=decision.reasons,
    )


BLOCKED, PASSED = _picture(0, 8, 0.552339), _picture(1, 9, -0.077998)
_JOB = JobView(
    id=ID,
    status=Status.PARTIAL,
    created_at=CREATED,
    started_at=STARTED,
    finished_at=FINISHED,
    safety=AppliedSafety(
        requested="filter",
        applied=SafetyPlan.from_short_form("filter").model_dump(mode="json"),
        policy=PolicyRef(id="default", version=1),
        weights_sha256=SHA256,
        model="demo",
    ),
    images=(BLOCKED, PASSED),
    metrics=Metrics(queue_s=0.015, inference_s=0.78, total_s=0.812, steps=25, unet_rows=100, images_per_batch_mean=2.0),
)
_LISTED = JobSummary(
    id=ID,
    url=f"/jobs/{ID}",
    status=Status.PARTIAL,
    model="demo",
    pictures=2,
    created_at=CREATED,
    started_at=STARTED,
    finished_at=FINISHED,
)
_ORIGIN = Origin(
    job=ID,
    picture=1,
    model="demo",
    weights_sha256=SHA256,
    variant=f"sdd-weapons@{SHA256}",
    plan="erased+sld+filter",
    policy="default@1",
    detectors="clip-checker@5c7e3b1d9f2a clip-concepts@5c7e3b1d9f2a",
)
_PROVENANCE = Provenance(
    index=0,
    sha256=SHA256,
    packet=_ORIGIN,
    manifest=Manifest(
        state="Valid",
        issuer="Seemly development",
        generator="Seemly",
        digital_source=DIGITAL_SOURCE,
        origin=_ORIGIN,
        problems=("signingCredential.untrusted",),
    ),
    manifest_read=True,
    delivered=True,
)

EXAMPLES: tuple[BaseModel, ...] = (
    _JOB,
    JobPage(jobs=(_LISTED,), next_cursor=Place(CREATED.timestamp(), ID).cursor()),
    ImagesAnswer(
        created=int(FINISHED.timestamp()),
        data=[Image(url=f"https://pictures.example/jobs/{ID}/images/1", index=1, seed=9)],
        output_format=OutputFormat.PNG,
        size="64x64",
        job_id=ID,
        withheld=[Withheld(index=0, verdict=BLOCKED.verdict, reasons=BLOCKED.reasons)],
    ),
    Provenances(images=(_PROVENANCE,)),
)
