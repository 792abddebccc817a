"""Tiny random checkpoints in Stable Diffusion's shape, made on the fly: for claims about arithmetic, not pictures."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
)

DIM = 32


def tokenizer() -> CLIPTokenizer:
    """Every byte is a token; no merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def pipeline(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """32×32 pixels, 16×16 latents, random weights."""
    torch.manual_seed(seed)
    words = tokenizer()
    text_config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=DIM,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=DIM,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    vision_config = CLIPVisionConfig(
        hidden_size=DIM, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(
            text_config=text_config.to_dict(),
            vision_config=vision_config.to_dict(),
            projection_dim=DIM,
            logit_scale_init_value=1.0,
        )
    )
    with torch.no_grad():
        for name in ("concept_embeds", "special_care_embeds"):
            getattr(checker, name).copy_(torch.randn_like(getattr(checker, name)))
    return StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            latent_channels=4,
            sample_size=32,
        ),
        text_encoder=CLIPTextModel(text_config),
        tokenizer=words,
        unet=UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32),
            layers_per_block=1,
            cross_attention_dim=DIM,
            norm_num_groups=8,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=checker,
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )


def save(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """A checkpoint folder as `workers.models.load` takes it, text tower included."""
    built = pipeline(prediction_type, seed)
    built.save_pretrained(folder, safe_serialization=True)
    torch.manual_seed(seed + 1)
    CLIPTextModelWithProjection(built.text_encoder.config).save_pretrained(folder / "clip_text")
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP's folder as transformers reads it, random weights, 16 dimensions."""
    words = tokenizer()
    small = {"hidden_size": DIM, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = CLIPTextConfig(vocab_size=len(words), **small, **ids)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    torch.manual_seed(3)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
