"""Results: what a job came to, as kept in Redis and told over HTTP."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol, Self

from pydantic import AwareDatetime, Field

from contract.filter import Action
from contract.job import PolicyRef
from contract.prompt_concepts import PromptScore, TextScore
from contract.request import RequestedPlan
from contract.steps import GuidanceRecord, TrajectoryRecord
from contract.strict import Strict
from contract.verdict import ConceptScore, Verdict


class Status(StrEnum):
    """A job's state. `blocked` and `partial` are successes of the service: terminal, with verdicts, not errors."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether the job is over: its record never changes again."""
        return self not in (Status.QUEUED, Status.RUNNING)


class JobError(Strict):
    """Why a job or a picture failed: a stable code and one sentence."""

    code: str
    message: str


class Discarded(Strict):
    """A picture that was found wanting and made again with another seed. Its bytes do not exist anywhere."""

    seed: int
    concepts: tuple[ConceptScore, ...] = Field(description="The concepts found in it.")
    reasons: tuple[str, ...]


class Decided(Strict):
    """What a person made of a picture that was withheld."""

    verdict: Verdict = Field(
        description="passed or blocked. Of a picture that stays blocked although a person overturned that, as its bytes"
        " were not kept: passed."
    )
    reason: str
    at: AwareDatetime
    concepts: tuple[str, ...] = Field(description="Those found in it, which the person knew of.")


class Scored(Protocol):
    """Whatever was scored for concepts."""

    @property
    def concepts(self) -> tuple[ConceptScore, ...]:
        """Every score."""


class Picture(Strict):
    """One picture's verdict and the evidence behind it. `sha256` is of the encoded file; null when withheld."""

    index: int
    seed: int = Field(description="Of this very picture; after a regeneration it is not the one asked for.")
    verdict: Verdict
    action: Action | None = Field(None, description="The strictest action of the concepts found; null: none found.")
    blurred: bool = Field(
        False, description="Delivered past recognition. The scores are of the picture as it was, which is not kept."
    )
    url: str | None = Field(None, description="Where the bytes are read with a key; null when withheld.")
    signed_url: str | None = Field(
        None, description="The whole address, with a signature in the place of a key; only where `links_for_s` asks."
    )
    sha256: str | None = None
    kept: bool = Field(False, description="Its bytes lie where only a person who reviews can see them.")
    decided: Decided | None = Field(None, description="A person's decision, which stands in the verdict; null: none.")
    width: int
    height: int
    concepts: tuple[ConceptScore, ...] = ()
    reasons: tuple[str, ...] = ()
    discarded: tuple[Discarded, ...] = Field((), description="Pictures made before this one in its place, in order.")
    guidance: GuidanceRecord | None = None
    trajectory: TrajectoryRecord | None = None
    error: JobError | None = None

    @property
    def found(self) -> tuple[str, ...]:
        """The concepts over their thresholds."""
        return tuple(score.name for score in self.concepts if score.flagged)

    @property
    def is_overturned(self) -> bool:
        """Whether a person has overturned its block, and it is withheld all the same, as its bytes were not kept."""
        overturned = self.decided is not None and self.decided.verdict is Verdict.PASSED
        return overturned and self.verdict is Verdict.BLOCKED


class AppliedSafety(Strict):
    """What was asked for and what really ran, every parameter resolved."""

    requested: RequestedPlan
    applied: dict[str, Any]
    policy: PolicyRef
    weights_sha256: str | None = None
    model: str


class ScoreDifference(Strict):
    """How much another plan moved one concept's score."""

    name: str
    detector: str
    difference: float = Field(description="The score under this plan minus the score under the first plan.")


class ComparedPicture(Strict):
    """What one plan of a compare made of the prompt and seed, beside what the first plan made of them."""

    index: int = Field(description="Of the plan, and of its picture in `images`.")
    label: str
    safety: AppliedSafety
    unet_rows: int = Field(
        description="UNet rows computed for this plan beyond those computed for the plans before it already; they add"
        " up to the `unet_rows` of `metrics`."
    )
    differences: tuple[ScoreDifference, ...] = Field(
        (), description="For every concept that both pictures were scored for; none for the first plan."
    )
    distance: float | None = Field(
        None,
        description="Root mean square difference from the first plan's picture over all 8-bit RGB values, 0 to 255, to"
        " one decimal, as the pictures are delivered: a blurred one as blurred. Null where either is withheld.",
    )


class ReproducedPicture(Strict):
    """How a picture that was made again differs from the one before, as both are delivered."""

    index: int
    verdict_before: Verdict
    same_pixels: bool | None = Field(
        None,
        description="Whether all pixels have the same SHA-256; files differ anyway, as each names its job. Null, as all"
        " that follows: either was withheld, or the one before is no longer kept.",
    )
    max_difference: int | None = Field(None, description="Of any 8-bit value, 0 to 255.")
    mean_difference: float | None = Field(None, description="Of all 8-bit values, 0 to 255.")
    different_share: float | None = Field(None, description="Of pixels, 0 to 1.")

    @property
    def untold(self) -> Self:
        """The same with nothing of the pixels."""
        return type(self)(index=self.index, verdict_before=self.verdict_before)


class Reproduction(Strict):
    """What came of making a job again."""

    of: str = Field(description="The job before.")
    same_weights: bool = Field(description="Whether the model has the weights that it had then.")
    images: tuple[ReproducedPicture, ...]


class Metrics(Strict):
    """Seconds on the worker's clock. `unet_rows` counts rows that went through the UNet, over all pictures, discarded
    ones included; `steps` is of one picture."""

    queue_s: float
    inference_s: float
    total_s: float
    steps: int
    unet_rows: int
    images_per_batch_mean: float


class Ended(Strict):
    """How a job of any kind ended: what a worker commits for it, once."""

    status: Status
    error: JobError | None = None


class Result(Ended):
    """How a job for pictures ended."""

    safety: AppliedSafety | None = None
    images: tuple[Picture, ...] = ()
    texts: tuple[TextScore, ...] = ()
    comparison: tuple[ComparedPicture, ...] = ()
    reproduction: Reproduction | None = None
    metrics: Metrics | None = None


class JobView(Strict):
    """A job as told over HTTP."""

    id: str
    status: Status
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    safety: AppliedSafety | None = Field(None, description="Null of a compare: each of its plans has its own.")
    images: tuple[Picture, ...] = ()
    prompt_concepts: tuple[PromptScore, ...] = Field(
        (), description="What the policy's prompt rules look for in the request's texts, with every score."
    )
    comparison: tuple[ComparedPicture, ...] = Field((), description="Of a compare: one entry for each plan, in order.")
    reproduction: Reproduction | None = Field(None, description="Of a job of `POST /jobs/{id}/reproduce`.")
    metrics: Metrics | None = None
    error: JobError | None = Field(None, description="Set when the status is failed or expired.")


def status_of(verdicts: tuple[Verdict, ...]) -> Status:
    """A finished job's status from its pictures' verdicts."""
    passed = verdicts.count(Verdict.PASSED)
    if passed == len(verdicts):
        return Status.SUCCEEDED
    if passed:
        return Status.PARTIAL
    return Status.FAILED if all(verdict is Verdict.ERROR for verdict in verdicts) else Status.BLOCKED


def verdict_words(picture: Picture) -> str:
    """The verdict, and how the picture came to it: `"passed, blurred"`, `"blocked, try 3"`."""
    blurred = ["blurred"] if picture.blurred else []
    tries = [f"try {len(picture.discarded) + 1}"] if picture.discarded else []
    return ", ".join([picture.verdict.value, *blurred, *tries])


def nearest_scores(picture: Scored, count: int) -> list[ConceptScore]:
    """The concepts furthest over their thresholds or nearest to them; special care, which never flags, left out."""
    judged = [score for score in picture.concepts if not score.special_care]
    return sorted(judged, key=lambda score: -score.margin)[:count]


def concepts_to_compare(job: JobView, count: int = 3) -> list[tuple[str, str]]:
    """Detector and name of the concepts that come nearest to their thresholds in any of a job's pictures."""
    highest: dict[tuple[str, str], float] = {}
    for score in (score for picture in job.images for score in nearest_scores(picture, len(picture.concepts))):
        concept = score.detector, score.name
        highest[concept] = max(score.margin, highest.get(concept, score.margin))
    return sorted(highest, key=lambda concept: -highest[concept])[:count]


def scores_of(picture: Picture, concepts: Sequence[tuple[str, str]]) -> list[ConceptScore]:
    """A picture's scores for these concepts, in their order, without those it was not scored for."""
    own = {(score.detector, score.name): score for score in picture.concepts}
    return [own[concept] for concept in concepts if concept in own]
