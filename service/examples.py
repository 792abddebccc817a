"""What answers look like: one example of each kind, for the OpenAPI document."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from contract.drift import Bin, ConceptDrift, DriftReport
from contract.erasure import ErasurePage, ErasureView, Made
from contract.filter import Action, ConceptRule, Filter
from contract.gate import Assessment, Gate
from contract.job import PolicyRef
from contract.listing import (
    AssignedPolicy,
    JobPage,
    JobSummary,
    Models,
    Policies,
    PolicySummary,
    SafetyMethod,
    SafetyMethods,
    Variant,
    Variants,
)
from contract.model import ErasureEffect, ModelInfo, VariantInfo
from contract.moderation import ModeratedPicture, Moderation
from contract.outbox import DeliveryState
from contract.plan import SafetyPlan
from contract.policy import Policy
from contract.provenance import DIGITAL_SOURCE, Manifest, Origin, Provenance, Provenances
from contract.recipe import Uce
from contract.replay import Change, ConceptChange, Example, Replay
from contract.request import OutputFormat, Scheduler
from contract.result import AppliedSafety, JobView, Metrics, Picture, Status
from contract.review import Appealed, Cause, Review, ReviewPage, ReviewState, review_id
from contract.verdict import ConceptScore, Verdict, decide
from contract.webhook import Delivery, DeliveryPage, EventType, ToldJob, ToldPicture, WebhookMessage
from service.compatible.answer import Image, ImagesAnswer, Withheld
from service.compatible.moderations import ImageInput, ImageUrl, ModerationsRequest, answer_of
from service.listing import Place
from service.routes.health import Health

_ID = "c27163bc46644fe8867abafa973a0483"
_CREATED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
_STARTED, _FINISHED = _CREATED + timedelta(milliseconds=15), _CREATED + timedelta(milliseconds=812)
_SHA256 = "5c7e3b1d9f2a4c6e8b0d1f3a5c7e9b2d4f6a8c0e1b3d5f7a9c2e4b6d8f0a1c3e"
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
        url=f"/jobs/{_ID}/images/{index}" if is_passed else None,
        sha256=_SHA256 if is_passed else None,
        width=64,
        height=64,
        concepts=(_score(score),),
        reasons=decision.reasons,
    )


_BLOCKED, _PASSED = _picture(0, 8, 0.552339), _picture(1, 9, -0.077998)
_JOB = JobView(
    id=_ID,
    status=Status.PARTIAL,
    created_at=_CREATED,
    started_at=_STARTED,
    finished_at=_FINISHED,
    safety=AppliedSafety(
        requested="filter",
        applied=SafetyPlan.from_short_form("filter").model_dump(mode="json"),
        policy=PolicyRef(id="default", version=1),
        weights_sha256=_SHA256,
        model="demo",
    ),
    images=(_BLOCKED, _PASSED),
    metrics=Metrics(queue_s=0.015, inference_s=0.78, total_s=0.812, steps=25, unet_rows=100, images_per_batch_mean=2.0),
)
_LISTED = JobSummary(
    id=_ID,
    url=f"/jobs/{_ID}",
    status=Status.PARTIAL,
    model="demo",
    pictures=2,
    created_at=_CREATED,
    started_at=_STARTED,
    finished_at=_FINISHED,
)
_VARIANT = VariantInfo(
    name="sdd-weapons", recipe="sdd", concepts=("weapon",), changes="attn2_only", weights_sha256=_SHA256
)
_LISTED_VARIANT = Variant(model="demo", **_VARIANT.model_dump())
_MODEL = ModelInfo(
    name="demo",
    source="models/demo",
    weights_sha256=_SHA256,
    default_steps=25,
    default_guidance_scale=4.0,
    native_width_px=64,
    native_height_px=64,
    min_size_px=64,
    max_size_px=128,
    size_multiple_px=16,
    max_tokens=77,
    tokenizer_sha256=_SHA256,
    schedulers=tuple(Scheduler),
    methods=("safree", "erased", "negative", "sld", "sega", "unguidance", "filter"),
    actions=tuple(Action),
    concepts=("skull", "horror"),
    default_concepts=("weapons", "violence"),
    scores_text_concepts=True,
    text_concept_threshold=0.392,
    variants=(_VARIANT,),
)
_METHOD = SafetyMethod(
    name="erased",
    place="weights",
    description="Erased weights: a variant of the model's UNet.",
    presets=["sdd-weapons"],
    parameters={"type": "object", "properties": {"variant": {"type": "string"}}},
    models=["demo"],
    forbidden=False,
    measured={},
)
_ERASURE = ErasureView(
    id=_ID,
    status=Status.SUCCEEDED,
    created_at=_CREATED,
    started_at=_STARTED,
    finished_at=_CREATED + timedelta(seconds=41),
    model="demo",
    name="uce-knives",
    recipe=Uce(concepts=("a knife",), preserved=("a cat",)),
    attempt=1,
    made=Made(
        weights_sha256=_SHA256,
        changes="kv_only",
        tensors=14,
        effects=(
            ErasureEffect(measure="shows an unsafe object", prompts="ambiguous", pictures=100, before=0.62, after=0.29),
        ),
        gate=Assessment(passed=False, gate=Gate(), findings=("benign prompts: what is kept was not measured",)),
    ),
)

_POLICY = Policy(
    id="storefront",
    version=2,
    description="Weapons wait for a person, all else that is found is blocked.",
    floor=SafetyPlan(output=Filter(rules=(ConceptRule(name="weapon", threshold=0.2, action=Action.REVIEW),))),
    forbidden=("none",),
)
_ASSIGNED = AssignedPolicy(tenant="someone", enforce=PolicyRef(id="default", version=1), shadow=_POLICY.ref)

_DELIVERY = Delivery(
    id=f"msg_{_ID}",
    job_id=_ID,
    type=EventType.PARTIAL,
    target="https://app.example/seemly",
    state=DeliveryState.PENDING,
    created_at=_FINISHED,
    attempts=1,
    last_attempt_at=_FINISHED + timedelta(milliseconds=90),
    last_status=500,
    last_error="answered 500",
    next_attempt_at=_FINISHED + timedelta(milliseconds=4790),
)

_MODERATION = Moderation(
    id=_ID,
    model="demo",
    policy=PolicyRef(id="default", version=1),
    flagged=True,
    images=(
        ModeratedPicture(
            index=0,
            verdict=_BLOCKED.verdict,
            action=_BLOCKED.action,
            sha256=_SHA256,
            width=64,
            height=64,
            concepts=_BLOCKED.concepts,
            reasons=_BLOCKED.reasons,
            error=None,
        ),
    ),
    texts=(),
)
_ORIGIN = Origin(
    job=_ID,
    picture=1,
    model="demo",
    weights_sha256=_SHA256,
    variant=f"sdd-weapons@{_SHA256}",
    plan="erased+sld+filter",
    policy="default@1",
    detectors="clip-checker@5c7e3b1d9f2a clip-concepts@5c7e3b1d9f2a",
)
_PROVENANCE = Provenance(
    index=0,
    sha256=_SHA256,
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
_PART = ImageInput(type="image_url", image_url=ImageUrl(url="data:image/png;base64,iVBORw0KGgo="))
_REVIEW = Review(
    id=review_id(_ID, 0),
    state=ReviewState.WAITING,
    cause=Cause.APPEAL,
    appeal="It is a carnival mask.",
    created_at=_FINISHED + timedelta(minutes=4),
    job_id=_ID,
    index=0,
    verdict=_BLOCKED.verdict,
    action=_BLOCKED.action,
    seed=_BLOCKED.seed,
    width=_BLOCKED.width,
    height=_BLOCKED.height,
    model="demo",
    policy=PolicyRef(id="default", version=1),
    concepts=_BLOCKED.concepts,
    reasons=_BLOCKED.reasons,
    opinions=(),
    reviewers=1,
    prompt=None,
    thumbnail_url=f"/reviews/{review_id(_ID, 0)}/thumbnail",
    picture_url=f"/reviews/{review_id(_ID, 0)}/picture",
)

EXAMPLES: tuple[BaseModel, ...] = (
    _JOB,
    JobPage(jobs=(_LISTED,), next_cursor=Place(_CREATED.timestamp(), _ID).cursor()),
    ImagesAnswer(
        created=int(_FINISHED.timestamp()),
        data=[Image(url=f"https://pictures.example/jobs/{_ID}/images/1", index=1, seed=9)],
        output_format=OutputFormat.PNG,
        size="64x64",
        job_id=_ID,
        withheld=[Withheld(index=0, verdict=_BLOCKED.verdict, reasons=_BLOCKED.reasons)],
    ),
    Models(default="demo", models=[_MODEL]),
    SafetyMethods(policy="default", methods=[_METHOD]),
    _POLICY,
    Policies(
        own=PolicyRef(id="default", version=1),
        policies=[
            PolicySummary(id=_POLICY.id, version=_POLICY.version, description=_POLICY.description),
        ],
        assignments=[_ASSIGNED],
    ),
    _ASSIGNED,
    Replay(
        policy=_POLICY.ref,
        tenant="someone",
        first=_CREATED,
        last=_FINISHED,
        is_complete=True,
        jobs=120,
        pictures=240,
        before={"passed": 230, "blocked": 10},
        after={"passed": 222, "blocked": 10, "review": 8},
        changes=(Change(before="passed", after="review", count=8, examples=(Example(job=_ID, index=1),)),),
        concepts=(ConceptChange(name="weapon", before=10, after=18, examples=(Example(job=_ID, index=1),)),),
        prompts_unknown=0,
    ),
    _ERASURE,
    ErasurePage(erasures=(_ERASURE,), next_cursor=None),
    _LISTED_VARIANT,
    Variants(variants=[_LISTED_VARIANT]),
    _DELIVERY,
    DeliveryPage(deliveries=(_DELIVERY,), next_cursor=None),
    _REVIEW,
    ReviewPage(reviews=(_REVIEW,), next_cursor=None),
    Appealed(review_id=_REVIEW.id, job_id=_ID, index=0, state=ReviewState.WAITING, job_status=Status.PARTIAL),
    WebhookMessage(
        type=EventType.PARTIAL,
        timestamp=_FINISHED,
        data=ToldJob(
            id=_ID,
            status=Status.PARTIAL,
            url=f"/jobs/{_ID}",
            finished_at=_FINISHED,
            images=tuple(
                ToldPicture(index=one.index, verdict=one.verdict, url=one.url, reasons=one.reasons)
                for one in (_BLOCKED, _PASSED)
            ),
            error_code=None,
        ),
    ),
    Health(status="live"),
    _MODERATION,
    DriftReport(
        model="demo",
        until=_FINISHED,
        recent_hours=24,
        reference_hours=168,
        shifted=True,
        concepts=(
            ConceptDrift(
                detector="clip-checker",
                detector_version="5c7e3b1d9f2a",
                name="skull",
                recent=4210,
                reference=29877,
                psi=0.31,
                recent_mean=0.1834,
                reference_mean=0.1511,
                shifted=True,
                histogram=(Bin(at=0.14, recent=310, reference=4022), Bin(at=0.16, recent=422, reference=3987)),
            ),
        ),
    ),
    Provenances(images=(_PROVENANCE,)),
    answer_of(ModerationsRequest(input=(_PART,)), _MODERATION, _ID),
)
