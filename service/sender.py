"""On whose behalf jobs are made, and under what."""

from dataclasses import dataclass

from contract.at_rest import PromptAtRest
from contract.policy import InForce
from contract.tracing import OFF, Span
from service.at_rest import prompt_at_rest
from service.tenants import UNLIMITED, TenantLimits


@dataclass(frozen=True)
class Sender:
    """Who sends a request, and under which key it counts once."""

    tenant: str
    in_force: InForce
    limits: TenantLimits = UNLIMITED
    idempotency_key: str | None = None  # a digest
    prompt_key: bytes = b""  # under which its prompts are hashed, where the policy wants that
    request_id: str | None = None
    span: Span = OFF  # of the request
    sees_scores: bool = True  # in full, whatever the policy says

    def at_rest(self, prompt: str, negative_prompt: str = "") -> PromptAtRest:
        """A prompt as the policy lets it rest."""
        return prompt_at_rest(self.in_force.policy.prompts, prompt, negative_prompt, self.prompt_key)
