"""Prompts that a policy's rules refuse: a problem of their own, and what is counted of them."""

from contract.job import Job
from contract.policy import InForce, screened_texts
from contract.verdict import Verdict
from service.audit.texts import Screened
from service.problems import FieldError, ForbiddenByPolicy, Refusal

FIELDS = ("prompt", "negative_prompt", "safety")  # where a refused text stood: labels of a metric


class PromptRefused(Refusal, status=403, code="prompt_refused"):
    """A text of the request holds what the policy's prompt rules refuse."""

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...], texts: tuple[Screened, ...]) -> None:
        super().__init__(detail, errors=errors)
        self.texts = texts

    @property
    def field(self) -> str:
        """The first field concerned, one of `FIELDS`."""
        return next((name for name in FIELDS if self.errors and self.errors[0].field.startswith(name)), FIELDS[-1])


def check_policy(job: Job, in_force: InForce) -> None:
    """See that a job may run under a policy.

    Raises:
        ForbiddenByPolicy: when it may not, whatever its texts say.
        PromptRefused: when it may not because of its texts alone.
    """
    faults = tuple(FieldError(field=field, message=why) for field, why in in_force.faults(job))
    if not faults:
        return
    texts = tuple(FieldError(field=field, message=why) for field, why in in_force.policy.faults_of_texts(job))
    told = f"The request is not within the policy: {'; '.join(f'{each.field} {each.message}' for each in faults)}."
    if faults != texts:
        raise ForbiddenByPolicy(told, errors=faults)
    found = ((field, text, in_force.policy.prompt_rules.found_in(text)) for field, text in screened_texts(job))
    refused = tuple(Screened(field, text, Verdict.BLOCKED, lists) for field, text, lists in found if lists)
    raise PromptRefused(told, errors=faults, texts=refused)
