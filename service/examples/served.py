"""What is served, what makes more of it, and how it fares."""

from datetime import timedelta

from pydantic import BaseModel

from contract.drift import Bin, ConceptDrift, DriftReport
from contract.erasure import ErasurePage, ErasureView, Made
from contract.filter import Action
from contract.gate import Assessment, Gate
from contract.listing import (
    Models,
    SafetyMethod,
    SafetyMethods,
    Variant,
    Variants,
)
from contract.model import ErasureEffect, ModelInfo, VariantInfo
from contract.recipe import Uce
from contract.request import Scheduler
from contract.result import Status
from service.examples.a_job import CREATED, FINISHED, ID, SHA256, STARTED
from service.routes.health import Health

_VARIANT = VariantInfo(
    name="sdd-weapons", recipe="sdd", concepts=("weapon",), changes="attn2_only", weights_sha256=SHA256
)
_LISTED_VARIANT = Variant(model="demo", **_VARIANT.model_dump())
_MODEL = ModelInfo(
    name="demo",
    source="models/demo",
    weights_sha256=SHA256,
    default_steps=25,
    default_guidance_scale=4.0,
    native_width_px=64,
    native_height_px=64,
    min_size_px=64,
    max_size_px=128,
    size_multiple_px=16,
    max_tokens=77,
    tokenizer_sha256=SHA256,
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
    id=ID,
    status=Status.SUCCEEDED,
    created_at=CREATED,
    started_at=STARTED,
    finished_at=CREATED + timedelta(seconds=41),
    model="demo",
    name="uce-knives",
    recipe=Uce(concepts=("a knife",), preserved=("a cat",)),
    attempt=1,
    made=Made(
        weights_sha256=SHA256,
        changes="kv_only",
        tensors=14,
        effects=(
            ErasureEffect(measure="shows an unsafe object", prompts="ambiguous", pictures=100, before=0.62, after=0.29),
        ),
        gate=Assessment(passed=False, gate=Gate(), findings=("benign prompts: what is kept was not measured",)),
    ),
)

EXAMPLES: tuple[BaseModel, ...] = (
    Models(default="demo", models=[_MODEL]),
    SafetyMethods(policy="default", methods=[_METHOD]),
    _LISTED_VARIANT,
    Variants(variants=[_LISTED_VARIANT]),
    _ERASURE,
    ErasurePage(erasures=(_ERASURE,), next_cursor=None),
    DriftReport(
        model="demo",
        until=FINISHED,
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
    Health(status="live"),
)
