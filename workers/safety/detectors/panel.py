"""The panel: all detectors are asked about every picture at once; one that does not answer withholds the picture."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any

from contract.filter import Filter, FilterConcept
from contract.model import DetectorInfo, ModelInfo
from contract.prompt_concepts import PROMPT_CONCEPTS, TextScore
from contract.verdict import ConceptScore
from workers.safety.detectors.detector import NamedDetector, UnusableDetector
from workers.safety.detectors.watched import Watched
from workers.safety.filter import ConceptFilter
from workers.safety.protocol import DetectorError, Pictures, ReadText

FIRST_ANSWER_S = 120.0  # loading kernels, tuning convolutions


class Panel:
    """The checkpoint's own concepts and text concepts first, then the other detectors, in order.

    Raises:
        UnusableDetector: one of them cannot score a plain picture.
    """

    def __init__(self, own: ConceptFilter, others: Sequence[NamedDetector] = (), limit_s: float = 30.0) -> None:
        proof = Filter(concepts=(FilterConcept(name="proof", text="a picture", threshold=1.0),))
        self._own = own
        self._others = tuple(others)
        self._limit_s = limit_s
        self._watched = (
            Watched(own, limit_s, proof if own.scores_text_concepts else None, self._proved_on_texts),
            *(Watched(detector, limit_s) for detector in others),
        )
        for each in self._watched:
            try:
                each.prove().result(FIRST_ANSWER_S)
            except Exception as error:
                raise UnusableDetector(f"the detector {each.name} cannot be used: {error}") from error

    @property
    def infos(self) -> tuple[DetectorInfo, ...]:
        """All detectors, as workers announce them."""
        of_prompts = (self._own.prompts.info,) if self._own.prompts is not None else ()
        return (*(info for each in self._watched for info in each.detector.infos), *of_prompts)

    @property
    def troubles(self) -> Mapping[str, str]:
        """The detectors that are out of order, and why; empty when all are sound."""
        return {each.name: each.trouble for each in self._watched if each.trouble is not None}

    def mend(self) -> None:
        """Have those that are out of order proved again."""
        for each in self._watched:
            if each.trouble is not None:
                each.prove()

    def announced(self, info: ModelInfo) -> ModelInfo:
        """What a worker says of its model, with what these detectors score every picture for."""
        concepts = (*info.concepts, *(name for each in self._others for name in each.names(None)))
        return info.model_copy(update={"concepts": concepts, "detectors": self.infos})

    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures and each picture's own filter → each picture's scores by all detectors.

        Raises:
            DetectorError: a detector did not score every picture, in time.
            torch.AcceleratorError: the device is lost.
        """
        until = monotonic() + self._limit_s
        asked = [each.ask(pixels, outputs) for each in self._watched]
        answers, failures = [], []
        for each, future in zip(self._watched, asked, strict=True):
            try:
                answers.append(each.answer(future, until))
            except DetectorError as error:
                failures.append(str(error))
        if failures:
            raise DetectorError("; ".join(failures))
        return [tuple(score for scores in of_picture for score in scores) for of_picture in zip(*answers, strict=True)]

    def read(self, texts: Sequence[ReadText], concepts: Sequence[str]) -> tuple[TextScore, ...]:
        """Texts of a request → every text's score for every concept, by the text tower of the first detector.

        Raises:
            DetectorError: there is none, or it did not score every text, in time.
        """
        if self._own.prompts is None:
            raise DetectorError("this model has no text tower, so prompts cannot be scored for concepts")
        first = self._watched[0]
        scores = first.answer(
            first.call(partial(self._own.prompts.score, texts, concepts)), monotonic() + self._limit_s
        )
        if {(score.field, score.concept) for score in scores} != {(t.field, c) for t in texts for c in concepts}:
            raise DetectorError(f"{PROMPT_CONCEPTS} left out texts or concepts")
        return scores

    def _proved_on_texts(self) -> None:
        if self._own.prompts is not None:
            self._own.prompts.score([ReadText("proof", "a plain text")], ["a picture"])

    def describe(self, output: Filter | None) -> dict[str, Any]:
        """Detectors that ran, and the action a flag has."""
        told = self._own.describe(output)
        others = [
            {"name": info.name, "version": info.version, "sha256": info.sha256, "concepts": len(info.concepts)}
            for each in self._others
            for info in each.infos
        ]
        return told | {"detectors": [*told["detectors"], *others]}
