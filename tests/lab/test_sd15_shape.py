"""Stable Diffusion 1.5's UNet, VAE and text encoder, every layer at its size, with random weights: erased from,
measured, served.

Smaller than the model's own are the pictures, on which the time of a step hangs, and the checker's eye.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig
from typer import Typer
from typer.testing import CliRunner

from contract.plan import SafetyPlan
from lab.erasure.commands import app as erase_app
from lab.evaluation.commands import app as evaluate_app
from tests import engines, tiny
from workers.variants.card import Kind, is_cross_attention, read_card
from workers.variants.shelf import VariantShelf

LATENT_PX, SIZE_PX = 16, 128
ATTENTIONS = 16  # of the UNet with text; of each five tensors: three projections, one out with its bias
PARAMETERS = 859_520_964  # of the published UNet

TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
EYE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 2 GB in float16, as such models are published."""
    torch.manual_seed(0)
    words = tiny.tokenizer()
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(vocab_size=49408, projection_dim=768, **TEXT, **ids)
    vision = CLIPVisionConfig(projection_dim=768, image_size=224, patch_size=14, **EYE)
    unet = UNet2DConditionModel(
        sample_size=LATENT_PX,
        block_out_channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            sample_size=SIZE_PX,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=words,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=StableDiffusionSafetyChecker(
            CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=768)
        ),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}),
    )
    folder = tmp_path_factory.mktemp("sd15") / "random"
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    return folder


def run(app: Typer, *words: str | Path) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_as_big_as_stable_diffusion_is_erased_from_measured_and_served(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "variants" / "esd-x"
    made = ("--method", "esd-x", "--concepts", "knife", "--iterations", "2", "--sampling-steps", "2")
    kept = ("--work", tmp_path / "work", "--preview-every", "0", "--learning-rate", "0.001", "--store", "float32")
    run(erase_app, *made, *kept, "--model", model, "--out", folder)
    card = read_card(folder)
    assert card.kind is Kind.ATTN2_ONLY
    assert len(card.tensors) == 5 * ATTENTIONS
    assert all(is_cross_attention(name) for name in card.tensors)

    (tmp_path / "two.txt").write_text("a cat\na knife\n")
    asked = ("--prompts", tmp_path / "two.txt", "--plan", "none", "--plan", "erased:esd-x", "--steps", "2")
    where = ("--variants", folder.parent, "--out", tmp_path / "run.jsonl")
    run(evaluate_app, "run", "--model", model, *asked, *where)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    pictures = [line for line in lines if "plan" in line]
    assert sorted(picture["plan"] for picture in pictures) == ["erased:esd-x"] * 2 + ["none"] * 2
    assert not any("failure" in picture for picture in pictures)
    assert all((picture["distance"] > 0) is (picture["plan"] != "none") for picture in pictures)

    loaded = engines.load(model, torch.float32)
    shelf = VariantShelf(folder.parent, loaded.parts, loaded.info.weights_sha256, most_bytes=1 << 30)
    plan = SafetyPlan.from_short_form(["erased:esd-x", "filter"])
    size = {"steps": 2, "width": SIZE_PX, "height": SIZE_PX}
    specs = [engines.spec(0, **size), engines.spec(1, plan=plan, weights=shelf.get("esd-x"), **size)]
    outcomes = engines.run(engines.engine(loaded), specs)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert outcomes[1].applied["weights"]["weights_sha256"] == card.weights_sha256
    assert all(outcome.pixels.shape == (SIZE_PX, SIZE_PX, 3) for outcome in outcomes)
