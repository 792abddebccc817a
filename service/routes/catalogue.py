"""What can be asked for: models and safety methods."""

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from contract.effect import MeasuredEffects
from contract.filter import Action, Filter
from contract.listing import Models, SafetyMethod, SafetyMethods, Variant, Variants
from contract.model import ModelInfo
from contract.plan import SafetyPlan
from contract.steering import Erased, Negative, Safree, Sega, Sld, Unguidance
from contract.strict import Strict
from service.authentication import Anyone
from service.gateway import Here

router = APIRouter(tags=["catalogue"])

_METHODS: tuple[tuple[str, str, type[Strict]], ...] = (
    ("prompt", "safree", Safree),
    ("weights", "erased", Erased),
    ("guidance", "negative", Negative),
    ("guidance", "sld", Sld),
    ("guidance", "sega", Sega),
    ("trajectory", "unguidance", Unguidance),
    ("output", "filter", Filter),
)


@router.get("/safety/methods", operation_id="list_safety_methods", summary="Safety methods")
async def list_safety_methods(gateway: Here, caller: Anyone) -> SafetyMethods:
    """Every method with its place, its parameters and the models that serve it; what the caller's policy refuses."""
    policy = (await gateway.policies.in_force(caller.tenant)).policy
    models = await run_in_threadpool(gateway.catalogue.models)
    return SafetyMethods(
        policy=policy.id,
        methods=[
            SafetyMethod(
                name=name,
                place=place,
                description=(method.__doc__ or "").strip(),
                presets=_presets(name, method, models),
                parameters=method.model_json_schema(),
                models=[model.name for model in models.values() if name in model.methods],
                forbidden=not policy.allows_some(name),
                measured=_measured(name, models),
            )
            for place, name, method in _METHODS
        ],
    )


@router.get("/models", operation_id="list_models", summary="Models")
def list_models(gateway: Here, caller: Anyone) -> Models:
    """Every announced model with its bounds and defaults."""
    models = gateway.catalogue.models()
    only = next(iter(models)) if len(models) == 1 else None
    return Models(default=gateway.settings.default_model or only, models=list(models.values()))


@router.get("/variants", operation_id="list_variants", summary="Erased weights")
def list_variants(gateway: Here, caller: Anyone) -> Variants:
    """Every variant of every announced model: its status, what was erased, and what that was measured to do."""
    return Variants(
        variants=[
            Variant(model=model.name, **variant.model_dump())
            for model in gateway.catalogue.models().values()
            for variant in model.variants
        ]
    )


def _presets(name: str, method: type[Strict], models: dict[str, ModelInfo]) -> list[str]:
    if name == "erased":
        return sorted({name for model in models.values() for name in model.available_variants})
    if name == "filter":
        served = {action for model in models.values() if name in model.methods for action in model.actions}
        return [action.value for action in Action if action in served]
    preset = method.model_json_schema()["properties"].get("preset", {})
    return list(preset.get("enum", []))


def _measured(name: str, models: dict[str, ModelInfo]) -> dict[str, MeasuredEffects]:
    """Beside a method's own effects those of plain generation, without which they say nothing."""
    return {
        model.name: MeasuredEffects(
            settings=model.measured.settings,
            effects={
                prompts: {plan: effect for plan, effect in plans.items() if _methods(plan) in ((), (name,))}
                for prompts, plans in model.measured.effects.items()
            },
        )
        for model in models.values()
        if model.measured is not None
    }


def _methods(plan: str) -> tuple[str, ...]:
    return SafetyPlan.from_short_form(plan.split("+")).methods
