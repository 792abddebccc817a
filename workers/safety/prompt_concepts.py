"""Prompts in the space of concepts given as text: cos(prompt, concept), the highest over all that is read of a prompt.

| what | where |
|---|---|
| readings, the text as a reader may take it, folded | `contract.prompt_rules.readings` |
| clauses, from one comma, stop or bracket to the next, so that a list does not hide what stands in it | here |
| windows, pieces of what the text tower reads | `workers.safety.text_concepts` |
| thresholds and what follows | `contract.prompt_concepts`, by the policy |
"""

import re
from collections.abc import Sequence

import torch

from contract.model import DetectorInfo
from contract.prompt_concepts import PROMPT_CONCEPTS, TextScore
from contract.prompt_rules import readings
from workers.safety.protocol import DetectorError, ReadText
from workers.safety.text_concepts import TextConcepts

_STOPS = re.compile(r"[][(){}<>,.;:!?/\"\n]+")


class PromptConcepts:
    """Scores texts; `version` and `sha256` are of the CLIP behind it."""

    def __init__(self, texts: TextConcepts, version: str, sha256: str) -> None:
        self._texts = texts
        self.info = DetectorInfo(name=PROMPT_CONCEPTS, version=version, sha256=sha256)

    def score(self, texts: Sequence[ReadText], concepts: Sequence[str]) -> tuple[TextScore, ...]:
        """Every text's score for every concept.

        Raises:
            DetectorError: a score is not finite.
            UnreadableText: a concept is longer than the tower reads.
        """
        if not texts or not concepts:
            return ()
        wanted = torch.stack([self._texts.embed(concept) for concept in concepts])
        return tuple(score for text in texts for score in self._scored(text, concepts, wanted))

    def _scored(self, text: ReadText, concepts: Sequence[str], wanted: torch.Tensor) -> list[TextScore]:
        whole = readings(text.text)
        clauses = (clause for reading in whole for clause in _STOPS.split(reading))
        windows = self._texts.embed_windows([*whole, *clauses])
        cosines = windows @ wanted.T
        if not torch.isfinite(cosines).all():
            raise DetectorError(f"{PROMPT_CONCEPTS} gave a score that is not finite")
        return [
            TextScore(
                field=text.field,
                concept=concept,
                score=round(score, 6),
                detector_version=self.info.version,
                detector_sha256=self.info.sha256,
            )
            for concept, score in zip(concepts, cosines.amax(0).tolist(), strict=True)
        ]
