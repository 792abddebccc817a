"""Texts that no job tells of, for the record: those of moderations, and prompts that were refused."""

from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field as column
from datetime import UTC, datetime

from contract.audit import JudgedText
from contract.prompt_concepts import PromptScore
from contract.verdict import Verdict
from service.sender import Sender


@dataclass(frozen=True)
class Screened:
    """A text, where it stood in the request, and what was found in it."""

    field: str
    text: str = column(repr=False)  # no log shows it
    verdict: Verdict
    lists: tuple[str, ...]
    concepts: tuple[PromptScore, ...] = ()


def entries_of(texts: Iterable[Screened], sender: Sender, job_id: str | None = None) -> tuple[JudgedText, ...]:
    """Their entries; each text as the policy lets prompts rest."""
    policy, now = sender.in_force.policy, datetime.now(UTC)
    return tuple(
        JudgedText(
            tenant=sender.tenant,
            at=now,
            job=job_id,
            request=sender.request_id,
            field=one.field,
            text=sender.at_rest(one.text),
            verdict=one.verdict,
            lists=one.lists,
            concepts=one.concepts,
            policy=policy.ref,
        )
        for one in texts
    )
