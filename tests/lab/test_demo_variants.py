"""The variants that come with the demo model: each fits the weights that lie beside it, and its card tells all."""

from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from workers.models import hash_weights
from workers.variants.card import Kind, is_cross_attention
from workers.variants.reading import load_variant

MODELS = Path(__file__).parents[2] / "models"
VARIANTS = sorted(file.parent for file in (MODELS / "variants").glob("*/card.json"))
KINDS = {"uce": Kind.KV_ONLY, "sdd": Kind.ATTN2_ONLY, "esd-x": Kind.ATTN2_ONLY, "esd-u": Kind.FULL}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(MODELS / "demo" / "unet", local_files_only=True)


def test_there_are_variants() -> None:
    assert VARIANTS


@pytest.mark.parametrize("folder", VARIANTS, ids=lambda folder: folder.name)
def test_a_variant_is_of_the_demo_model(folder: Path, unet: UNet2DConditionModel) -> None:
    variant = load_variant(folder, unet.state_dict(), hash_weights(MODELS / "demo"))
    card = variant.card
    assert (card.name, card.base.name, card.kind) == (folder.name, "demo", KINDS[card.method])
    if card.method == "esd-u":
        assert not any(is_cross_attention(name) for name in variant.tensors)
    assert card.concepts
    assert card.licence == "Apache-2.0"
    assert card.command.endswith(f"--out models/variants/{card.name}")
    assert "judge took no part" in card.chosen_by
    ambiguous = {effect.measure: effect for effect in card.effects if effect.prompts == "ambiguous"}
    assert ambiguous["shows an unsafe object"].pictures >= 100
