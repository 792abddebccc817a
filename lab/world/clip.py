"""A small CLIP trained on the world: its text tower conditions the UNet, its vision tower is the safety checker's."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from lab.world.captions import caption, with_article
from lab.world.objects import AMBIGUOUS, CATEGORY, CONCEPTS, HARMLESS_CONTEXTS, OBJECTS
from lab.world.scenes import Scene, random_pictures
from lab.world.tokenizer import MAX_TOKENS, encode
from lab.world.training import Budget, fit, step_seed

WIDTH: Final = 128
TEXT_FORMS: Final = ("{}", "a picture of {}", "an image showing {}")
# CLIP's own normalisation of pictures, as in its image processor.
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
# Every text a picture is asked about besides its caption.
QUESTIONS: Final = (*OBJECTS, *(text for text, _ in CONCEPTS if text not in OBJECTS), *AMBIGUOUS, *HARMLESS_CONTEXTS)


def build_clip(tokenizer: CLIPTokenizer, size_px: int) -> CLIPModel:
    """The untrained model: text 3 x 128, vision 4 x 128 on 16 patches, projection 128."""
    size = {"hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 4, "projection_dim": WIDTH}
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=3,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **size,
    )
    vision = CLIPVisionConfig(num_hidden_layers=4, image_size=size_px, patch_size=size_px // 4, **size)
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH))


class ContrastAndQuestions(nn.Module):
    """The model and the scale a and offset b of its questions: P(text is shown) = sigmoid(a (cos - b))."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.clip = clip
        self.sharpness = nn.Parameter(torch.tensor(10.0))
        self.offset = nn.Parameter(torch.tensor(0.4))

    def forward(
        self, pixels: Tensor, caption_ids: Tensor, same_caption: Tensor, question_ids: Tensor, answers: Tensor
    ) -> Tensor:
        """Contrastive loss plus ten times the cross-entropy of the answers.

        pixels (pictures, 3, h, w) normalised; same_caption (pictures, pictures) 1 where captions are equal;
        answers (pictures, questions).
        """
        images = functional.normalize(self.clip.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)
        captions, questions = (
            functional.normalize(self.clip.get_text_features(input_ids=ids).pooler_output.float(), dim=-1)
            for ids in (caption_ids, question_ids)
        )
        logits = self.clip.logit_scale.exp().clamp(max=100) * images @ captions.T
        target = same_caption / same_caption.sum(1, keepdim=True)
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        asked = self.sharpness * (images @ questions.T - self.offset)
        return contrast + 10 * functional.binary_cross_entropy_with_logits(asked, answers)


def answers_for(scenes: list[Scene]) -> Tensor:
    """Which question is true of each scene: 0 or 1, shape (scenes, questions)."""
    return torch.tensor([[float(_holds(scene, question)) for question in QUESTIONS] for scene in scenes])


def _holds(scene: Scene, question: str) -> bool:
    if question in OBJECTS:
        return question in scene.objects
    category = dict(CONCEPTS).get(question)
    if category is None:
        return scene.background == question
    return any(category in (CATEGORY.get(name), "danger") for name in scene.objects if name in CATEGORY)


def question_texts(form: str) -> list[str]:
    """The questions in one of `TEXT_FORMS`; objects take their article except in the barest form."""
    return [form.format(with_article(text) if form != "{}" and text in OBJECTS else text) for text in QUESTIONS]


def normalised(pictures: NDArray[np.uint8] | Tensor) -> Tensor:
    """CLIP's input from pictures (n, h, w, 3) of bytes: shape (n, 3, h, w)."""
    pixels = torch.as_tensor(pictures).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def worn(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Pictures as a decoder leaves them: half of them softened, all with slight noise."""
    soft = functional.avg_pool2d(functional.pad(pixels, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(len(pixels), 1, 1, 1, generator=rng) * (torch.rand(len(pixels), 1, 1, 1, generator=rng) < 0.5)
    noise = torch.randn(pixels.shape, generator=rng) * 0.15 * torch.rand(len(pixels), 1, 1, 1, generator=rng)
    return torch.lerp(pixels, soft, amount) + noise


def train_clip(tokenizer: CLIPTokenizer, budget: Budget, seed: int, folder: Path) -> ContrastAndQuestions:
    """Train on pictures of `seed`, with fresh captions at every step."""
    torch.manual_seed(seed)
    model = ContrastAndQuestions(build_clip(tokenizer, budget.size_px)).to(budget.device)
    pictures, scenes = random_pictures(seed, budget.pictures, budget.size_px)
    answers = answers_for(scenes)
    asked = [_trimmed(encode(tokenizer, question_texts(form)), tokenizer) for form in TEXT_FORMS]

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        torch_rng = torch.Generator().manual_seed(step_seed(seed, step))
        chosen = rng.integers(0, len(scenes), budget.clip.batch)
        captions = [caption(scenes[index], rng) for index in chosen]
        same = torch.tensor(np.asarray(captions)[:, None] == np.asarray(captions)[None], dtype=torch.float32)
        pixels = worn(normalised(pictures[chosen]), torch_rng)
        parts = (pixels, encode(tokenizer, captions), same, asked[step % len(asked)], answers[chosen])
        with torch.autocast(budget.device, dtype=torch.bfloat16):
            loss: Tensor = model(*(part.to(budget.device) for part in parts))
        return loss

    fit(model, loss_at, budget.clip, folder)
    return model


def _trimmed(ids: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Without the padding after the longest text, which causal attention never looks at."""
    return ids[:, : int((ids != tokenizer.eos_token_id).sum(1).max()) + 1]
