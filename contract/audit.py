"""What is put on record, in the order in which it happened: the bodies of the entries of `contract.chain`.

An entry says everything that is needed to see later why a picture passed or not, and nothing that could show it: no
picture, no address of one, and of the prompt what the policy lets rest there.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from contract.at_rest import PromptAtRest
from contract.chain import digest_of
from contract.job import PolicyRef
from contract.plan import SafetyPlan
from contract.prompt_concepts import PromptScore, TextScore
from contract.rejudging import ShadowVerdict
from contract.request import RequestedPlan
from contract.result import AppliedSafety, Picture, Status
from contract.strict import Strict
from contract.verdict import ConceptScore, Verdict


class _Entry(Strict):
    tenant: str
    at: AwareDatetime


class Verdicts(_Entry):
    """The verdicts on a job's pictures. Written by the script that makes them visible, in the same moment."""

    kind: Literal["verdicts"] = "verdicts"
    job: str
    attempt: int
    status: Status
    prompt: PromptAtRest
    plans: Annotated[tuple[SafetyPlan, ...], Field(min_length=1)] = Field(
        description="The effective plan; of a compare, that of each picture."
    )
    safety: tuple[AppliedSafety, ...] = Field(
        description="What ran, with policy, model and hashes: one, or of a compare one for each picture."
    )
    images: tuple[Picture, ...] = Field(description="Without addresses, and without what happened step by step.")
    texts: tuple[TextScore, ...] = Field((), description="What the request's texts were scored for.")
    has_prompt: bool = Field(True, description="False: the pictures were uploaded.")
    shadow: tuple[ShadowVerdict, ...] = Field((), description="What a policy would have decided that is only watched.")

    def plan_of(self, picture: Picture) -> SafetyPlan:
        """The effective plan that a picture was judged by."""
        return self.plans[picture.index if len(self.plans) > 1 else 0]

    def requested_of(self, picture: Picture) -> RequestedPlan:
        """The plan that was asked for."""
        if not self.safety:  # nothing ran that could tell
            return self.plan_of(picture)
        return self.safety[picture.index if len(self.safety) > 1 else 0].requested


class JudgedText(_Entry):
    """The verdict on a text that no job tells of: one of a moderation, or of a request that was refused for it."""

    kind: Literal["text"] = "text"
    job: str | None = Field(None, description="Of the moderation's pictures; null without any.")
    request: str | None = Field(None, description="The request's id, as in the logs.")
    field: str = Field(description="Where it stood, as in `texts.0` or `prompt`.")
    text: PromptAtRest = Field(description="As the policy lets prompts rest.")
    verdict: Verdict
    lists: tuple[str, ...] = Field(description="The policy's block-lists of which a word was found.")
    concepts: tuple[PromptScore, ...] = ()
    policy: PolicyRef


class Appeal(_Entry):
    """Someone asked for another look at a blocked picture."""

    kind: Literal["appeal"] = "appeal"
    job: str
    index: int
    reason: str


class Look(_Entry):
    """Someone was shown a withheld picture."""

    kind: Literal["look"] = "look"
    job: str
    index: int
    by: str


class Decision(_Entry):
    """What a person said to a withheld picture. `verdict` is what it came to, the picture's from then on;
    null while another person is needed."""

    kind: Literal["decision"] = "decision"
    job: str
    index: int
    by: str
    decision: Literal["approve", "reject"]
    reason: str
    verdict: Verdict | None = None
    kept: bool = Field(True, description="Whether the picture's bytes were there to be looked at.")
    labels: dict[str, bool] = Field(description="Concept → whether the person says it is there.")
    concepts: tuple[ConceptScore, ...]
    model: str
    policy: PolicyRef


class Erased(_Entry):
    """What was deleted because its time was over: jobs' records by their ids, pictures by the names of their files,
    `<job>/<attempt>-<index>.<format>`. The entry with a picture's verdict has its SHA-256."""

    kind: Literal["erased"] = "erased"
    what: Literal["results", "pictures"]
    count: int
    names: tuple[str, ...]
    policy: PolicyRef | None = Field(None, description="Whose retention it was; null: the deployment's settings alone.")


class Deleted(_Entry):
    """Entries that were deleted because their time was over. `link` is the last one's, and stands for all of them."""

    kind: Literal["deleted"] = "deleted"
    first: int
    last: int
    link: str
    policy: PolicyRef | None = Field(None, description="Whose retention it was; null: the deployment's, or by hand.")


Entry = Annotated[Verdicts | JudgedText | Appeal | Look | Decision | Erased | Deleted, Field(discriminator="kind")]
ENTRY: TypeAdapter[Entry] = TypeAdapter(Entry)


def words_of(entry: Entry) -> list[str]:
    """An entry's body and the SHA-256 of it, as the scripts that append it want them."""
    body = entry.model_dump_json(exclude_none=True)
    return [body, digest_of(body)]
