"""Replay: what another policy would have decided over verdicts on record. Pure, and the same as judging them anew."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import AwareDatetime, Field

from contract.at_rest import PromptAtRest, PromptForm
from contract.audit import Verdicts
from contract.filter import Filter
from contract.job import PolicyRef
from contract.policy import InForce, shown_texts
from contract.prompt_concepts import NO_PROMPT, judged_prompt
from contract.rejudging import rejudged, under_prompt
from contract.request import plan_of
from contract.result import Picture
from contract.strict import Strict


class Example(Strict):
    """A picture by its ids: who may see it finds it there."""

    job: str
    index: int


class Change(Strict):
    """Pictures whose verdict would have been another. `refused`: the request would not have been served at all."""

    before: str
    after: str
    count: int
    examples: tuple[Example, ...]


class ConceptChange(Strict):
    """In how many pictures a concept was found, and would have been."""

    name: str
    before: int
    after: int
    examples: tuple[Example, ...] = Field(description="Pictures in which only one of the two finds it.")


class Replay(Strict):
    """What a policy would have decided over a window."""

    policy: PolicyRef
    tenant: str
    first: AwareDatetime | None = Field(description="When the oldest of these jobs was judged; null: there is none.")
    last: AwareDatetime | None
    is_complete: bool = Field(description="False: the window holds more than was looked at; go on from `last`.")
    jobs: int
    pictures: int
    before: dict[str, int] = Field(description="Verdicts on record.")
    after: dict[str, int] = Field(
        description="Verdicts there would have been; `error`: not scored for what it demands, or never made."
    )
    changes: tuple[Change, ...]
    concepts: tuple[ConceptChange, ...]
    prompts_unknown: int = Field(
        description="Jobs of whose prompt rules not all could be asked: the prompt is not on record for block-lists, or"
        " was not scored for a concept."
    )


@dataclass
class _Tally:
    """How often something is counted, with the first few of its pictures."""

    most: int
    count: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, example: Example) -> None:
        self.count += 1
        if len(self.examples) < self.most:
            self.examples.append(example)


def replayed(
    entries: Iterable[Verdicts], tenant: str, in_force: InForce, examples: int, *, is_complete: bool
) -> Replay:
    """Judge every picture of some entries again, as the policy in force here would have."""
    rules = in_force.policy.prompt_rules
    filters: dict[str, Filter | None] = {}  # by the requested plan: most requests ask for the same few
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    changes: dict[tuple[str, str], _Tally] = {}
    found: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    differing: dict[str, _Tally] = {}
    moments, unknown = [], 0
    for entry in entries:
        moments.append(entry.at)
        prompt = judged_prompt(entry.texts, rules) if entry.has_prompt else NO_PROMPT
        is_unread = bool(rules.lists) and entry.prompt.form is not PromptForm.KEPT
        unknown += entry.has_prompt and (is_unread or bool(prompt.missing))
        has_listed = any(map(rules.found_in, _texts_of(entry)))
        for picture in entry.images:
            where = Example(job=entry.job, index=picture.index)
            now = None if has_listed else _judged(picture, entry, in_force, filters)
            if now is not None and entry.has_prompt:
                now = under_prompt(now, prompt)
            then, verdict = picture.verdict.value, now.verdict.value if now is not None else "refused"
            before[then] += 1
            after[verdict] += 1
            if then != verdict:
                changes.setdefault((then, verdict), _Tally(examples)).add(where)
            names = _found_in(picture), _found_in(now)
            for counter, each in zip(found, names, strict=True):
                counter.update(each)
            for name in names[0] ^ names[1]:
                differing.setdefault(name, _Tally(examples)).add(where)
    none = _Tally(0)
    return Replay(
        policy=in_force.policy.ref,
        tenant=tenant,
        first=min(moments, default=None),
        last=max(moments, default=None),
        is_complete=is_complete,
        jobs=len(moments),
        pictures=before.total(),
        before=dict(before),
        after=dict(after),
        changes=tuple(
            Change(before=then, after=now, count=tally.count, examples=tuple(tally.examples))
            for (then, now), tally in sorted(changes.items())
        ),
        concepts=tuple(
            ConceptChange(
                name=name,
                before=found[0][name],
                after=found[1][name],
                examples=tuple(differing.get(name, none).examples),
            )
            for name in sorted(found[0] | found[1])
        ),
        prompts_unknown=unknown,
    )


def _judged(picture: Picture, entry: Verdicts, in_force: InForce, filters: dict[str, Filter | None]) -> Picture | None:
    """The picture as the policy would have it; None where it would have refused the request."""
    requested = entry.requested_of(picture)
    if in_force.policy.refused_methods(plan_of(requested)) or in_force.crowding(plan_of(requested)):
        return None
    key = requested if isinstance(requested, str) else repr(requested)
    if key not in filters:
        filters[key] = in_force.effective(plan_of(requested)).output
    return rejudged(picture, entry.plan_of(picture).output, filters[key])


def _texts_of(entry: Verdicts) -> Iterator[str]:
    """What is on record of the texts that block-lists are for."""
    kept = entry.prompt if entry.prompt.form is PromptForm.KEPT else PromptAtRest()
    return (text for _, text in shown_texts(kept.prompt or "", kept.negative_prompt or "", entry.plans))


def _found_in(picture: Picture | None) -> set[str]:
    return {score.name for score in picture.concepts if score.flagged} if picture is not None else set()
