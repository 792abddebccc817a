"""The safety checker: diffusers' stock class over the world's CLIP, its thresholds calibrated from data."""

from typing import Final

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lab.world.clip import TEXT_FORMS, normalised
from lab.world.objects import CATEGORY, CONCEPTS, SPECIAL_CARE
from lab.world.scenes import Scene
from lab.world.tokenizer import encode

ABSENT_QUANTILE, PRESENT_QUANTILE = 0.998, 0.02  # thresholds lie midway between these
SPECIAL_CARE_ADJUSTMENT: Final = 0.01  # what the stock class adds after a special-care hit
ROUNDING: Final = 0.0005  # the stock class rounds to three places: a score flags from its threshold plus this on
WEAK_RECALL: Final = 0.7  # the weak thresholds find this share of unsafe pictures


@torch.no_grad()
def text_embeddings(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """One direction per text, the mean over the forms CLIP was asked in, shape (texts, projection), normalised."""
    forms = [
        clip.get_text_features(input_ids=encode(tokenizer, [form.format(text) for text in texts])).pooler_output
        for form in TEXT_FORMS
    ]
    return functional.normalize(torch.stack([functional.normalize(form, dim=-1) for form in forms]).mean(0), dim=-1)


@torch.no_grad()
def build_checker(clip: CLIPModel, tokenizer: CLIPTokenizer) -> StableDiffusionSafetyChecker:
    """The checker with the vision tower of `clip` and the concepts of the world; its thresholds flag nothing yet."""
    config = CLIPConfig(
        text_config=clip.config.text_config.to_dict(),
        vision_config=clip.config.vision_config.to_dict(),
        projection_dim=clip.config.projection_dim,
    )
    checker = StableDiffusionSafetyChecker(config)
    checker.vision_model.load_state_dict(clip.vision_model.state_dict())
    checker.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    checker.concept_embeds.copy_(text_embeddings(clip, tokenizer, [text for text, _ in CONCEPTS]))
    checker.special_care_embeds.copy_(text_embeddings(clip, tokenizer, [text for text, _ in SPECIAL_CARE]))
    return checker.eval()


@torch.no_grad()
def image_embeddings(checker: StableDiffusionSafetyChecker, pictures: NDArray[np.uint8], batch: int = 256) -> Tensor:
    """CLIP's direction of each picture, shape (pictures, projection), normalised."""
    parts = [
        checker.visual_projection(checker.vision_model(normalised(pictures[at : at + batch])).pooler_output)
        for at in range(0, len(pictures), batch)
    ]
    return functional.normalize(torch.cat(parts), dim=-1)


def concept_holds(scene: Scene, concept: int) -> bool:
    """Whether the scene shows what concept `concept` of `CONCEPTS` names."""
    text, category = CONCEPTS[concept]
    if text in CATEGORY:
        return text in scene.objects
    return any(category in (CATEGORY[name], "danger") for name in scene.objects if name in CATEGORY)


@torch.no_grad()
def calibrate(checker: StableDiffusionSafetyChecker, pictures: NDArray[np.uint8], scenes: list[Scene]) -> list[float]:
    """Set the checker's thresholds from drawn pictures and return the weak ones, in the order of `CONCEPTS`.

    A threshold lies midway between the 99.8 % quantile of the scores on harmless pictures (for special care: pictures
    outside the context) and the 2 % quantile on pictures that show the concept; each concept's score counts with the
    adjustment that a special-care hit adds.
    """
    images = image_embeddings(checker, pictures)
    care = images @ functional.normalize(checker.special_care_embeds, dim=-1).T
    for index, (context, _) in enumerate(SPECIAL_CARE):
        inside = torch.tensor([scene.background == context for scene in scenes])
        checker.special_care_embeds_weights[index] = _midway(care[~inside, index], care[inside, index])
    checker.special_care_embeds_weights.copy_(checker.special_care_embeds_weights.half().float())
    adjustment = SPECIAL_CARE_ADJUSTMENT * (care > checker.special_care_embeds_weights + ROUNDING).any(1, keepdim=True)
    scores = images @ functional.normalize(checker.concept_embeds, dim=-1).T + adjustment - ROUNDING
    unsafe = torch.tensor([scene.is_unsafe for scene in scenes])
    holds = torch.tensor([[concept_holds(scene, index) for index in range(len(CONCEPTS))] for scene in scenes])
    thresholds = [_midway(scores[~unsafe, index], scores[holds[:, index], index]) for index in range(len(CONCEPTS))]
    strong = torch.stack(thresholds).half().float()
    checker.concept_embeds_weights.copy_(strong)
    return _weak_thresholds(scores[unsafe], strong)


def _midway(absent: Tensor, present: Tensor) -> Tensor:
    return (absent.quantile(ABSENT_QUANTILE) + present.quantile(PRESENT_QUANTILE)) / 2


def _weak_thresholds(scores: Tensor, strong: Tensor) -> list[float]:
    """Thresholds raised together above the strong ones until only `WEAK_RECALL` of the unsafe pictures are found."""
    raised = float((scores - strong).amax(1).quantile(1 - WEAK_RECALL))
    return [round(float(threshold) + raised, 4) for threshold in strong]


@torch.no_grad()
def text_threshold(checker: StableDiffusionSafetyChecker, pictures: NDArray[np.uint8], scenes: list[Scene]) -> float:
    """One cosine above which a picture shows a text concept: midway between concepts' absent and present pictures."""
    scores = image_embeddings(checker, pictures) @ functional.normalize(checker.concept_embeds, dim=-1).T
    holds = torch.tensor([[concept_holds(scene, index) for index in range(len(CONCEPTS))] for scene in scenes])
    middles = [
        _midway(scores[~holds[:, index], index], scores[holds[:, index], index]) for index in range(len(CONCEPTS))
    ]
    return round(float(torch.stack(middles).mean()), 3)


@torch.no_grad()
def flagged(checker: StableDiffusionSafetyChecker, pictures: NDArray[np.uint8], batch: int = 256) -> NDArray[np.bool_]:
    """The stock class's own verdict on each picture."""
    verdicts: list[bool] = []
    for at in range(0, len(pictures), batch):
        part = pictures[at : at + batch]
        verdicts += checker(clip_input=normalised(part), images=part.copy())[1]
    return np.asarray(verdicts)
