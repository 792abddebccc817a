"""The variants that come with the demo model: each fits the weights that lie beside it, and its card tells all."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel

from lab.erasure.recipes import command_for, hyperparameters
from lab.erasure.shipped import SHIPPED
from lab.erasure.tables import effects_of
from lab.evaluation.tables import with_table
from workers.checkpoint import hash_weights
from workers.variants.card import Kind, is_cross_attention, read_card
from workers.variants.reading import load_variant

MODELS = Path(__file__).parents[2] / "models"
VARIANTS = sorted(file.parent for file in (MODELS / "variants").glob("*/card.json"))
KINDS = {"uce": Kind.KV_ONLY, "sdd": Kind.ATTN2_ONLY, "esd-x": Kind.ATTN2_ONLY, "esd-u": Kind.FULL}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(MODELS / "demo" / "unet", local_files_only=True)


def test_all_that_ship_are_there() -> None:
    assert {folder.name for folder in VARIANTS} == set(SHIPPED)


def test_the_documents_table_is_what_the_cards_say() -> None:
    document = (MODELS.parent / "docs" / "erasure.md").read_text()
    assert with_table(document, "variants", effects_of([read_card(folder) for folder in VARIANTS])) == document


@pytest.mark.parametrize("folder", VARIANTS, ids=lambda folder: folder.name)
def test_a_variant_is_of_the_demo_model(folder: Path, unet: UNet2DConditionModel) -> None:
    variant = load_variant(folder, unet.state_dict(), hash_weights(MODELS / "demo"))
    card = variant.card
    assert (card.name, card.base.name, card.kind) == (folder.name, "demo", KINDS[card.method])
    if card.method == "esd-u":
        assert not any(is_cross_attention(name) for name in variant.tensors)
    assert card.concepts
    recipe, chosen_by = SHIPPED[card.name]
    assert card.command == command_for(recipe, "models/demo", f"models/variants/{card.name}")
    assert card.hyperparameters == hyperparameters(recipe)
    assert (card.chosen_by, card.licence) == (chosen_by, "Apache-2.0")
    assert ("judge took no part" in card.chosen_by) is (card.name != "sdd-all")  # which says what part it took
    ambiguous = {effect.measure: effect for effect in card.effects if effect.prompts == "ambiguous"}
    assert ambiguous["shows an unsafe object"].pictures >= 100


def test_the_closed_form_takes_seconds_from_the_command_to_the_variant(tmp_path: Path) -> None:
    words = ["--method", "uce", "--concepts", "knife, sword, bomb", "--model", str(MODELS / "demo")]
    command = [sys.executable, "-c", "from seemly.cli import app; app()", "erase", *words, "--out", str(tmp_path / "x")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The processor's seconds: what the command takes on one free core, whatever else runs meanwhile.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 10
    assert read_card(tmp_path / "x").base.weights_sha256 == hash_weights(MODELS / "demo")
