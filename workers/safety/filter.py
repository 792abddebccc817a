"""The filter: Stable Diffusion's safety checker with every score told, and concepts given as text.

From the checker's reference code (diffusers `StableDiffusionSafetyChecker`; thresholds in the checkpoint):

    adj = 0
    for each special-care concept, in order:   margin = round(cos(e, c) − w + adj, 3);  if margin > 0: adj = 0.01
    for each concept:                          margin = round(cos(e, c) − w + adj, 3);  flagged if margin > 0

| symbol | variable |
|---|---|
| e, the picture's CLIP embedding, projected | embeddings |
| c, a concept's embedding | concept_embeds, special_care_embeds |
| w, a concept's threshold | concept_embeds_weights, special_care_embeds_weights |
| adj | adjustment |

Computed in float32 whatever the UNet runs in: float16 cosines err by more than the rounding band. Rounding makes the
effective threshold w + 0.0005 (w − 0.0095 after a special-care hit); `threshold` reports w − adj and `margin` is exact.
Text concepts have no adjustment: margin = round(cos(e, t) − threshold, 3).

The filter reports; what follows from a flag is decided by `contract.verdict.decide`. Nothing is ever blackened.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor

from contract.filter import Filter
from contract.model import DetectorInfo
from contract.verdict import ConceptScore
from workers.safety.checker_concepts import CheckerConcept, CheckerConcepts
from workers.safety.prompt_concepts import PromptConcepts
from workers.safety.protocol import DetectorError, Pictures
from workers.safety.text_concepts import TextConcepts

CHECKER = "clip-checker"
TEXT = "clip-concepts"
SPECIAL_CARE_ADJUSTMENT = np.float32(0.01)
Cosines = NDArray[np.float32]


class ConceptFilter:
    """The checkpoint's own concepts and the request's text concepts, over one CLIP embedding of the picture.

    Raises:
        ValueError: when the names do not fit the checker's embeddings, or the text tower's space is another.
    """

    def __init__(
        self,
        checker: StableDiffusionSafetyChecker,
        image_processor: CLIPImageProcessor,
        concepts: CheckerConcepts,
        version: str,
        sha256: str,
        text_concepts: TextConcepts | None = None,
    ) -> None:
        counts = len(checker.concept_embeds), len(checker.special_care_embeds)
        named = len(concepts.concepts), len(concepts.special_care)
        if counts != named:
            raise ValueError(f"the checker has {counts} concepts and special-care concepts, but {named} are named")
        if text_concepts is not None and text_concepts.projection_dim != checker.config.projection_dim:
            raise ValueError("the text tower does not share the checker's embedding space; load the CLIP it came from")
        self._checker = checker.float().eval()
        self._image_processor = image_processor
        self._concepts = concepts
        self._version = version
        self._sha256 = sha256
        self._text_concepts = text_concepts
        self.prompts = PromptConcepts(text_concepts, version, sha256) if text_concepts is not None else None
        self._concept_thresholds = checker.concept_embeds_weights.detach().float().cpu().numpy()
        self._special_thresholds = checker.special_care_embeds_weights.detach().float().cpu().numpy()

    @property
    def infos(self) -> tuple[DetectorInfo, ...]:
        """The checker and, where there is a text tower, concepts given as text. They share one CLIP and its hash."""
        checker = DetectorInfo(
            name=CHECKER, version=self._version, sha256=self._sha256, concepts=self._names(self._concepts.concepts)
        )
        texts = DetectorInfo(name=TEXT, version=self._version, sha256=self._sha256)
        return (checker, texts) if self.scores_text_concepts else (checker,)

    def names(self, output: Filter | None) -> tuple[str, ...]:
        """What a picture under this filter is scored for, in order; special-care concepts first."""
        own = self._names((*self._concepts.special_care, *self._concepts.concepts))
        return (*own, *(concept.name for concept in (output.concepts if output else ())))

    @staticmethod
    def _names(concepts: Iterable[CheckerConcept]) -> tuple[str, ...]:
        return tuple(concept.name for concept in concepts)

    @property
    def dimension(self) -> int:
        """Of the space that pictures are embedded in."""
        return int(self._checker.config.projection_dim)

    @property
    def concept_names(self) -> tuple[str, ...]:
        """The checker's own concepts, special care excluded."""
        return self._names(self._concepts.concepts)

    @property
    def scores_text_concepts(self) -> bool:
        """Whether concepts given as text can be scored."""
        return self._text_concepts is not None

    @property
    def concept_embeddings(self) -> Tensor:
        """(concepts, projection_dim), of unit length, in the order of `concept_names`."""
        return normalize(self._checker.concept_embeds.detach())

    def embed_normalised(self, pictures: Tensor) -> Tensor:
        """Pictures as the image processor gives them, (pictures, 3, size, size) → (pictures, projection_dim)."""
        embeddings: Tensor = self._checker.visual_projection(self._checker.vision_model(pictures.float())[1])
        return embeddings

    def describe(self, output: Filter | None) -> dict[str, Any]:
        """Detectors that ran, and the action a flag has."""
        own = {"version": self._version, "sha256": self._sha256}
        detectors = [{"name": CHECKER, **own, "concepts": len(self._concepts.concepts)}]
        if output is None:
            return {"method": None, "detectors": detectors}
        texts = [concept.model_dump(mode="json") for concept in output.concepts]
        if texts:
            detectors.append({"name": TEXT, **own, "concepts": len(texts)})
        rules = [rule.model_dump(mode="json") for rule in output.rules]
        told = {"method": "filter", "action": output.action.value, "concepts": texts, "detectors": detectors}
        told |= {"rules": rules} if rules else {}
        return told | ({"regenerations": output.most_regenerations} if output.most_regenerations else {})

    @torch.no_grad()
    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures and each picture's own filter → each picture's scores.

        Raises:
            DetectorError: when a score is not finite, or a text concept cannot be scored.
        """
        embeddings = self.embed(pixels)  # (pictures, projection_dim)
        special = self._cosines(embeddings, self._checker.special_care_embeds)
        concepts = self._cosines(embeddings, self._checker.concept_embeds)
        return [
            self._checker_scores(special[i], concepts[i]) + self._text_scores(embeddings[i], output)
            for i, output in enumerate(outputs)
        ]

    def embed(self, pixels: Iterable[NDArray[np.uint8]]) -> Tensor:
        """Pictures of (height, width, 3), RGB → (pictures, projection_dim), of unit length, float32."""
        pictures = [Image.fromarray(picture) for picture in pixels]
        clip_input = self._image_processor(pictures, return_tensors="pt").pixel_values
        return normalize(self.embed_normalised(clip_input.to(self._checker.device)))

    @staticmethod
    def _cosines(embeddings: Tensor, concepts: Tensor) -> Cosines:
        cosines: Cosines = (embeddings @ normalize(concepts).T).cpu().numpy()
        return cosines

    def _checker_scores(self, special: Cosines, concepts: Cosines) -> tuple[ConceptScore, ...]:
        if not (np.isfinite(special).all() and np.isfinite(concepts).all()):
            raise DetectorError(f"{CHECKER} gave a score that is not finite")
        adjustment = np.float32(0)
        scores = []
        for concept, cosine, threshold in zip(
            self._concepts.special_care, special, self._special_thresholds, strict=True
        ):
            margin = round(cosine - threshold + adjustment, 3)
            scores.append(
                self._score(concept.name, concept.category, CHECKER, cosine, threshold - adjustment, margin, True)
            )
            if margin > 0:
                adjustment = SPECIAL_CARE_ADJUSTMENT
        for concept, cosine, threshold in zip(self._concepts.concepts, concepts, self._concept_thresholds, strict=True):
            margin = round(cosine - threshold + adjustment, 3)
            scores.append(self._score(concept.name, concept.category, CHECKER, cosine, threshold - adjustment, margin))
        return tuple(scores)

    def _text_scores(self, embedding: Tensor, output: Filter | None) -> tuple[ConceptScore, ...]:
        if output is None or not output.concepts:
            return ()
        if self._text_concepts is None:
            raise DetectorError("this model has no text tower, so concepts given as text cannot be scored")
        texts = torch.stack([self._text_concepts.embed(concept.text) for concept in output.concepts])
        cosines: Cosines = (texts @ embedding).cpu().numpy()
        if not np.isfinite(cosines).all():
            raise DetectorError(f"{TEXT} gave a score that is not finite")
        return tuple(
            self._score(
                concept.name, "requested", TEXT, cosine, concept.threshold, round(float(cosine) - concept.threshold, 3)
            )
            for concept, cosine in zip(output.concepts, cosines, strict=True)
        )

    def _score(
        self,
        name: str,
        category: str,
        detector: str,
        score: float,
        threshold: float,
        margin: float,
        special: bool = False,
    ) -> ConceptScore:
        return ConceptScore(
            name=name,
            category=category,
            detector=detector,
            detector_version=self._version,
            score=round(float(score), 6),
            threshold=round(float(threshold), 6),
            margin=round(float(margin), 3),
            flagged=bool(margin > 0) and not special,
            special_care=special,
        )
