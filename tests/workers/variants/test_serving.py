"""Many variants at once in one engine: each picture is that of its own weights, and no call is made needlessly."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from contract.plan import SafetyPlan
from tests import engines
from tests.originals import lay_over
from tests.workers.variants.conftest import CHOSEN
from workers.engine.engine import Engine
from workers.engine.model import EngineModel
from workers.engine.picture import PictureSpec
from workers.models import LoadedModel
from workers.variants.reading import load_variant
from workers.variants.shelf import VariantShelf


def spec(shelf: VariantShelf, index: int, name: str | None, safety: Sequence[str] = ()) -> PictureSpec:
    plan = SafetyPlan.from_short_form([*([f"erased:{name}"] if name else []), *safety, "filter"])
    return engines.spec(index, plan=plan, weights=shelf.get(name) if name else None)


@dataclass(frozen=True)
class CountingModel(EngineModel):
    """A model that keeps how many rows each UNet call had."""

    calls: list[int] = field(default_factory=list)

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        self.calls.append(len(latents))
        return super().predict(latents, timesteps, conditioning)


def counting(parts: EngineModel) -> CountingModel:
    return CountingModel(**{each.name: getattr(parts, each.name) for each in fields(EngineModel)})


def test_a_mixed_batch_is_what_each_is_alone(model: LoadedModel, shelf: VariantShelf) -> None:
    names = [None, *CHOSEN, None, *CHOSEN]
    methods = [[], ["sld:max"], ["sega"], ["negative"], ["safree"], ["sld:strong"], [], ["sld:weak"]]
    mixed = [spec(shelf, index, name, methods[index % 8]) for index, name in enumerate(names)]
    together = engines.final_latents(model, mixed)
    for one, latents in zip(mixed, together, strict=True):
        [alone] = engines.final_latents(model, [one])
        assert (latents - alone).abs().max() <= 1e-10
    assert len({tuple(latents.flatten()[:4].tolist()) for latents in together}) == len(mixed)


@pytest.mark.parametrize("name", CHOSEN)
def test_a_variant_is_the_model_with_its_tensors_laid_over(
    model: LoadedModel, shelf: VariantShelf, folder: Path, tiny_folder: Path, name: str
) -> None:
    served = engines.final_latents(model, [spec(shelf, 0, name)])
    other = engines.load(tiny_folder)
    variant = load_variant(folder / name, other.parts.weights.base, other.info.weights_sha256)
    lay_over(other.parts.unet, variant.tensors)
    projection = other.parts.project_text.erased(variant.tensors, other.parts.weights.base)
    other.parts.project_text.weight.copy_(projection.weight)
    reference = engines.final_latents(other, [engines.spec(0)])
    assert (served[0] - reference[0]).abs().max() <= 1e-10


def test_keys_and_values_share_the_calls_of_the_base(model: LoadedModel, shelf: VariantShelf) -> None:
    parts = counting(model.parts)
    names = [None, "keys-1", "keys-2", "keys-3", "keys-4"]
    engines.run(engines.engine(model, parts=parts), [spec(shelf, i, name) for i, name in enumerate(names)])
    assert parts.calls == [12] * 4  # 5 pictures, two rows each, in the bucket of 12; one call a step


def test_what_else_is_changed_takes_a_call_of_its_own(model: LoadedModel, shelf: VariantShelf) -> None:
    parts = counting(model.parts)
    names = [None, "attention", "keys-1", "attention", "rest", "all"]
    engines.run(engines.engine(model, parts=parts), [spec(shelf, i, name) for i, name in enumerate(names)])
    assert parts.calls == [4, 4, 2, 2] * 4


def test_the_model_is_its_own_again_afterwards(model: LoadedModel, shelf: VariantShelf) -> None:
    before = engines.final_latents(model, [engines.spec(0)])
    engines.final_latents(model, [spec(shelf, 0, "all"), spec(shelf, 1, "attention")])
    assert torch.equal(engines.final_latents(model, [engines.spec(0)])[0], before[0])


def test_a_result_tells_the_variant(model: LoadedModel, shelf: VariantShelf) -> None:
    [outcome] = engines.run(engines.engine(model), [spec(shelf, 0, "attention")])
    applied = outcome.applied["weights"]
    assert (applied["variant"], applied["recipe"], applied["changes"]) == ("attention", "uce", "attn2_only")
    assert len(applied["weights_sha256"]) == 64


@pytest.mark.parametrize("given", [None, "keys-2"])
def test_a_picture_without_the_weights_of_its_plan_is_not_made(
    model: LoadedModel, shelf: VariantShelf, given: str | None
) -> None:
    plan = SafetyPlan.from_short_form(["erased:keys-1", "filter"])
    wrong = engines.spec(0, plan=plan, weights=shelf.get(given) if given else None)
    [outcome, healthy] = engines.run(Engine(model.parts, model.methods), [wrong, engines.spec(1)])
    assert outcome.failure is not None
    assert outcome.failure.code == "row_failed"
    assert healthy.failure is None
