"""Prompts held against concepts given as text: what was scored, and what a policy makes of the scores.

Scores stay as they were measured, so that another policy can judge them later; thresholds and actions are the policy's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from contract.filter import Action, stricter
from contract.prompt_rules import PromptConcept, PromptRules
from contract.strict import Strict
from contract.verdict import ConceptScore, Verdict, reason_of

PROMPT_CONCEPTS = "prompt-concepts"  # the detector
_REASON = re.compile(rf"(prompt: )the detector {PROMPT_CONCEPTS} scored ('[^']*') at .*")


class TextScore(Strict):
    """How near one text of a request comes to a concept, whatever a policy makes of it."""

    field: str = Field(description="Where the text stood, as in `prompt`.")
    concept: str = Field(description="The concept's text.")
    score: float = Field(description="The highest cosine of any part of the text with the concept.")
    detector_version: str
    detector_sha256: str


class PromptScore(ConceptScore):
    """One concept on one text of the request."""

    field: str = Field(description="Where the text stood, as in `prompt`.")
    detector_sha256: str


@dataclass(frozen=True)
class PromptDecision:
    """What a policy makes of a prompt. `action` is the strictest of the concepts found; None: none was."""

    scores: tuple[PromptScore, ...] = ()
    action: Action | None = None
    missing: tuple[str, ...] = ()  # concepts of the policy's that the prompt was not scored for
    refusals: tuple[tuple[str, str], ...] = ()  # block-lists of which it holds words, and why that is no prompt

    @property
    def verdict(self) -> Verdict:
        """On the text alone. One that was not scored for everything has not passed."""
        match self.action:
            case Action.BLOCK:
                return Verdict.BLOCKED
            case _ if self.missing:
                return Verdict.ERROR
            case Action.REVIEW:
                return Verdict.REVIEW
            case _:
                return Verdict.PASSED

    @property
    def found(self) -> tuple[PromptScore, ...]:
        """The scores over their thresholds."""
        return tuple(score for score in self.scores if score.flagged)

    @property
    def names(self) -> tuple[str, ...]:
        """Everything found: concepts, and block-lists as such."""
        return (*(score.name for score in self.found), *(f"list {name}" for name, _ in self.refusals))

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each text with words of block-lists, and for each concept that was found."""
        return (*dict.fromkeys(why for _, why in self.refusals), *map(reason_of, self.found))


NO_PROMPT = PromptDecision()  # of uploads


def judged_prompt(texts: Sequence[TextScore], rules: PromptRules) -> PromptDecision:
    """Scores that stand on record, against the thresholds of a policy."""
    scores, missing, actions = [], [], []
    for concept in rules.concepts:
        own = [_scored(text, concept) for text in texts if text.concept == concept.text]
        scores += own
        missing += [] if own else [concept.name]
        actions += [concept.action for each in own if each.flagged]
    return PromptDecision(tuple(scores), stricter(*actions) if actions else None, tuple(missing))


def without_score(reason: str) -> str:
    """A reason of `PromptDecision` as it is told where scores are not; any other reason as it is."""
    return _REASON.sub(rf"\1\2 was found by {PROMPT_CONCEPTS}", reason)


def _scored(text: TextScore, concept: PromptConcept) -> PromptScore:
    margin = round(text.score - concept.threshold, 3)
    return PromptScore(
        name=concept.name,
        category="prompt",
        detector=PROMPT_CONCEPTS,
        detector_version=text.detector_version,
        detector_sha256=text.detector_sha256,
        field=text.field,
        score=text.score,
        threshold=concept.threshold,
        margin=margin,
        flagged=margin > 0,
    )
