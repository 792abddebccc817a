"""Jobs: one request each, validated, with every default filled in. What they have in common, and those for pictures."""

from typing import Annotated, ClassVar, Self

from pydantic import AwareDatetime, Field, model_validator

from contract import keys
from contract.at_rest import PromptAtRest
from contract.plan import SafetyPlan
from contract.request import OutputFormat, RequestedPlan, Scheduler
from contract.steering import Sega, Sld
from contract.strict import Number, Strict
from contract.verdict import Verdict

MAX_ATTEMPTS = 3


class PolicyRef(Strict):
    """Which policy decided, and in which version."""

    id: str
    version: Annotated[int, Number]


class ComparedPlan(Strict):
    """One plan of a compare: what it is called, as the caller wrote it, and as it is in effect."""

    label: str
    requested: RequestedPlan
    plan: SafetyPlan


class Upload(Strict):
    """A picture that is to be judged, by its header."""

    sha256: str
    format: OutputFormat
    width: int  # as stored, before any rotation that its EXIF asks for
    height: int


class Original(Strict):
    """A finished job that is made again, to see whether the same comes out."""

    job: str
    attempt: int
    weights_sha256: str | None
    verdicts: tuple[Verdict, ...]
    overturned: tuple[int, ...] = Field(
        (), description="Blocked pictures whose bytes were not kept and whose block a person has overturned since."
    )


class AnyJob(Strict):
    """What jobs of every kind have in common: all that accepting, leasing, fencing and finding them again takes."""

    kind: ClassVar[str]
    most_attempts: ClassVar[int] = MAX_ATTEMPTS
    goes_first: ClassVar[bool] = False  # before all that waits, since it takes nothing of the engine

    id: str
    tenant: str
    created_at: AwareDatetime
    deadline_at: AwareDatetime | None
    model: str

    @property
    def queue(self) -> str:
        """RQ's name of the queue it waits in."""
        return keys.queue_name(self.model)

    @property
    def function(self) -> str:
        """What is to be done, by its name in a worker's handler table."""
        return self.kind

    @property
    def cost(self) -> int:
        """What it takes of its queue's workers, for fairness among tenants."""
        return 1


class Job(AnyJob):
    """Everything a worker needs for pictures; nothing in it is left to a default of the worker's."""

    kind = keys.PICTURES

    prompt: str
    negative_prompt: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: Scheduler
    output_format: OutputFormat
    requested: RequestedPlan = Field(description="The plan as the caller wrote it.")
    plan: SafetyPlan = Field(description="The effective plan: the stricter of request, policy and global floor.")
    policy: PolicyRef
    prompt_at_rest: PromptAtRest = Field(PromptAtRest(), description="What outlives the job of its prompt.")
    keep_blocked: bool = Field(False, description="Whether a blocked picture is kept for a person to look at.")
    compared: tuple[ComparedPlan, ...] = Field(
        (), description="Of a compare: each picture's own plan; `requested` and `plan` are then the first one's."
    )
    request_id: str | None = Field(None, description="Of the request that it came with, as in the logs.")
    traceparent: str | None = Field(None, description="The span that accepted it; null without tracing.")

    uploads: tuple[Upload, ...] = Field(
        (), description="Of a moderation: the pictures that are judged; none is made, and only the filter acts."
    )
    has_flagged_texts: bool = Field(
        False, description="Of a moderation: whether any of its texts, which are not kept, did not pass."
    )

    original: Original | None = Field(None, description="The job that this one makes again; null: none.")

    @model_validator(mode="after")
    def _every_picture_has_its_plan(self) -> Self:
        if self.compared and len(self.compared) != len(self.seeds):
            raise ValueError(f"{len(self.compared)} plans cannot be compared on {len(self.seeds)} pictures")
        if self.uploads and len(self.uploads) != len(self.seeds):
            raise ValueError(f"{len(self.uploads)} uploads are not {len(self.seeds)} pictures")
        if any(each.plan.output is not None and each.plan.output.most_regenerations for each in self.compared):
            raise ValueError("a compare keeps to one seed, so none of its plans can act by 'regenerate'")
        return self

    @property
    def plans(self) -> "tuple[ComparedPlan | Job, ...]":
        """Where its plans stand: one, or of a compare, each picture's."""
        return self.compared or (self,)

    @property
    def function(self) -> str:
        """One handler does them all: the job itself tells its pictures' plans, and what is to be judged only."""
        return keys.MODERATE if self.uploads else keys.COMPARE if self.compared else keys.GENERATE

    @property
    def cost(self) -> int:
        """The most UNet work it can take, in pixel-steps: pixels × steps × branches, summed over its pictures.
        Branches that turn out alike are computed once."""
        pictures = (self.of_picture(index) for index in range(len(self.seeds)))
        return self.width * self.height * self.steps * sum(map(_branches, pictures))

    def of_picture(self, index: int) -> "Job":
        """The job as it is for one of its pictures: itself, or, of a compare, under that picture's own plan."""
        if not self.compared:
            return self
        own = self.compared[index]
        return self.model_copy(update={"requested": own.requested, "plan": own.plan})


def _branches(job: Job) -> int:
    """How often one step of one picture calls the UNet."""
    if job.guidance_scale <= 1:
        return 1
    match job.plan.guidance:
        case Sld():
            return 3
        case Sega(concepts=concepts):
            return 2 + len(concepts or (None,))
    return 2


def picture_key(job_id: str, tenant: str, attempt: int, index: int, output_format: OutputFormat) -> str:
    """Where a picture lies in its store. The attempt is part of it, so a late worker overwrites nothing."""
    return f"{tenant}/{job_id}/{attempt}-{index}.{output_format.value}"


def thumbnail_key(key: str) -> str:
    """Where the thumbnail of a withheld picture lies, beside the picture."""
    return f"{key.rpartition('.')[0]}.thumbnail.png"
