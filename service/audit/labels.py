"""The labelled set: what people said of concepts in withheld pictures, beside what the detectors scored."""

from collections.abc import Iterator

from pydantic import AwareDatetime

from contract.audit import Decision
from contract.strict import Strict


class Label(Strict):
    """One concept in one picture. `label` is the person's word, `flagged` the detector's at `threshold`."""

    job: str
    index: int
    at: AwareDatetime
    model: str
    policy: str
    detector: str
    concept: str
    score: float
    threshold: float
    flagged: bool
    label: bool


def labels_of(decision: Decision) -> Iterator[Label]:
    """The labels that a decision gives; none while another person is needed."""
    if decision.verdict is None:
        return
    for score in decision.concepts:
        if score.name in decision.labels:
            yield Label(
                job=decision.job,
                index=decision.index,
                at=decision.at,
                model=decision.model,
                policy=f"{decision.policy.id}@{decision.policy.version}",
                detector=score.detector,
                concept=score.name,
                score=score.score,
                threshold=score.threshold,
                flagged=score.flagged,
                label=decision.labels[score.name],
            )
