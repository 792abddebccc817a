"""Withheld pictures before a person: listed, looked at, decided on, appealed."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from contract import audit as entries
from contract import keys, review
from contract.audit import words_of
from contract.result import Picture
from contract.retention import Lifetimes
from contract.review import (
    Appealed,
    AppealRequest,
    Cause,
    DecisionRequest,
    Review,
    ReviewPage,
    ReviewState,
    review_id,
)
from contract.verdict import Verdict
from service.audit.reading import Audit
from service.callers import Caller
from service.deciding import AGAIN, Case, decision_of
from service.jobs import JobRecord
from service.kept import KeptJobs
from service.listing import LOOKED_AT_MOST, READ_AT_ONCE, Place, places_of
from service.policies import Policies
from service.problems import (
    JobNotFound,
    NotAppealable,
    PictureNotFound,
    RecordDamaged,
    ResultExpired,
    ReviewNotFound,
    Unavailable,
)
from service.silence import Silence

_ID = re.compile(r"([0-9a-f]{32})-(\d{1,3})")
_NOT_KEPT = "The picture's bytes were not kept; the review's scores and reasons are the evidence."
_TRIES = 8  # against other people's decisions on pictures of the same job


@dataclass(frozen=True)
class WantedReviews:
    """Which reviews are listed; empty: any."""

    states: frozenset[ReviewState] = frozenset()
    cause: Cause | None = None
    concept: str | None = None
    since: datetime | None = None

    def holds(self, one: Review) -> bool:
        """Whether a review is one of them."""
        found = {score.name for score in one.concepts if score.flagged}
        return (
            (not self.states or one.state in self.states)
            and self.cause in (None, one.cause)
            and (self.concept is None or self.concept in found)
        )


class Reviews:
    """Reads reviews and decides them. `redis` decodes its answers."""

    def __init__(
        self,
        redis: "Redis",
        silence: Silence,
        jobs: KeptJobs[JobRecord],
        audit: Audit,
        policies: Policies,
        keep_s: int,
        result_ttl_s: int,
    ) -> None:
        self._redis = redis
        self._silence = silence
        self._jobs = jobs
        self._audit = audit
        self._policies = policies
        self._keep_s = keep_s
        self._result_ttl_s = result_ttl_s
        self._appeal = redis.register_script(review.APPEAL)
        self._decide = redis.register_script(review.DECIDE)

    async def page(self, tenant: str, wanted: WantedReviews, limit: int, after: Place | None) -> ReviewPage:
        """At most `limit` reviews from a place on. Those whose job is not kept any more are passed over."""
        found: list[Review] = []
        for _ in range(LOOKED_AT_MOST // READ_AT_ONCE):
            async with self._silence.noticed_in_turn():
                places = await places_of(self._redis, keys.tenant_reviews_key(tenant), wanted.since, after)
            for place, case in zip(places, await self._cases(tenant, [place.job_id for place in places]), strict=True):
                after = place
                if case is not None and wanted.holds(told := case.told):
                    found.append(told)
                if len(found) == limit:
                    return ReviewPage(reviews=tuple(found), next_cursor=after.cursor())
            if len(places) < READ_AT_ONCE:
                return ReviewPage(reviews=tuple(found), next_cursor=None)
        return ReviewPage(reviews=tuple(found), next_cursor=after.cursor() if after else None)

    async def one(self, review_id: str, tenant: str) -> Review:
        """A review of this tenant's.

        Raises:
            ReviewNotFound: also for another tenant's.
        """
        return (await self._case(review_id, tenant)).told

    async def shown(self, review_id: str, caller: Caller) -> tuple[JobRecord, Picture]:
        """The picture that a review is about, to be shown; that it is, is put on record first.

        Raises:
            ReviewNotFound: also for another tenant's.
            PictureNotFound: its bytes were not kept.
        """
        case = await self._case(review_id, caller.tenant)
        if not case.is_there:
            raise PictureNotFound(_NOT_KEPT)
        look = entries.Look(
            tenant=caller.tenant,
            at=datetime.now(UTC),
            job=case.record.job.id,
            index=case.picture.index,
            by=caller.person,
        )
        async with self._silence.noticed_in_turn():
            await self._audit.append(look)
        return case.record, case.picture

    async def thumbnail_of(self, review_id: str, tenant: str) -> tuple[JobRecord, Picture]:
        """The picture that a review is about, of which only the thumbnail is to be shown.

        Raises:
            ReviewNotFound: also for another tenant's.
            PictureNotFound: its bytes were not kept.
        """
        case = await self._case(review_id, tenant)
        if not case.picture.kept:
            raise PictureNotFound(_NOT_KEPT)
        return case.record, case.picture

    async def decide(self, review_id: str, caller: Caller, request: DecisionRequest) -> Review:
        """Put a person's decision on record; once enough people agree, it holds.

        Raises:
            ReviewNotFound: also for another tenant's.
            AlreadyDecided: someone was first.
            AnotherPersonNeeded: this one has approved it before.
            InvalidRequest: for concepts that the picture was not scored for.
        """
        for _ in range(_TRIES):
            job = keys.job_key(review_id.partition("-")[0])
            async with self._silence.noticed_in_turn():
                version: Any = await self._redis.hget(job, "version")  # before the result that it is the version of
            case = await self._case(review_id, caller.tenant)
            arguments = decision_of(case, caller, request, version or "0", int(self._kept(case.record).results_s))
            async with self._silence.noticed_in_turn():
                is_done = await self._decide(keys=[keys.review_key(review_id), job], args=arguments)
            if is_done:
                return await self.one(review_id, caller.tenant)
        raise Unavailable("Others are deciding on this job's pictures; send the decision again.", 1)

    async def appeal(self, job_id: str, caller: Caller, request: AppealRequest) -> Appealed:
        """Put a picture that is blocked, also by a policy tightened since, before a person; without its bytes, where
        these were not kept.

        Raises:
            JobNotFound: also for another tenant's.
            PictureNotFound: the job has none of this index.
            NotAppealable: it is not blocked, or was before a person.
        """
        record = await self._jobs.read(job_id, caller.tenant)
        picture = next((one for one in record.released if one.index == request.index), None)  # withdrawn by now, too
        if picture is None:
            raise PictureNotFound("The job has no such picture.")
        if picture.verdict not in (Verdict.BLOCKED, Verdict.REVIEW):
            raise NotAppealable(f"Only a withheld picture can be appealed; this one's verdict is {picture.verdict}.")
        if picture.decided is not None:
            since = f" The way on: {AGAIN}." if picture.decided.verdict is Verdict.PASSED else ""
            raise NotAppealable(f"A person has decided on this picture; that is final.{since}")
        entry = entries.Appeal(
            tenant=caller.tenant, at=datetime.now(UTC), job=job_id, index=picture.index, reason=request.reason
        )
        now = repr(datetime.now(UTC).timestamp())
        named = review_id(job_id, picture.index)
        held_s = int(self._kept(record).held_s)
        async with self._silence.noticed_in_turn():
            is_put_up = await self._appeal(
                keys=[keys.review_key(named), keys.job_key(job_id)],
                args=[caller.tenant, job_id, picture.index, request.reason, now, held_s, *words_of(entry)],
            )
        if not is_put_up:
            raise NotAppealable("This picture is before a person, or was.")
        return Appealed(
            review_id=named,
            job_id=job_id,
            index=picture.index,
            state=ReviewState.WAITING,
            job_status=record.view.status,
        )

    def _kept(self, record: JobRecord) -> Lifetimes:
        """How long the job is kept under the policy of now."""
        return record.in_force.policy.retention.within(Lifetimes(self._result_ttl_s, self._keep_s, math.inf))

    async def _case(self, review_id: str, tenant: str) -> Case:
        [case] = await self._cases(tenant, [review_id])
        if case is None:
            raise ReviewNotFound("There is no such review. Ids come from GET /reviews; they are kept for some days.")
        return case

    async def _cases(self, tenant: str, ids: Sequence[str]) -> list[Case | None]:
        """The reviews of these ids; None for what is not there, or not this tenant's."""
        async with self._silence.noticed_in_turn(), self._redis.pipeline(transaction=False) as pipe:
            for one in ids:
                pipe.hgetall(keys.review_key(one if _ID.fullmatch(one) else ""))
            found: list[dict[str, str]] = await pipe.execute()
        return [await self._case_of(fields, tenant) for fields in found]

    async def _case_of(self, fields: dict[str, str], tenant: str) -> Case | None:
        if not fields or fields["tenant"] != tenant:
            return None
        try:
            record = await self._jobs.read(fields["job"], tenant)
        except (JobNotFound, ResultExpired, RecordDamaged):
            return None
        images = record.result.images if record.result else ()
        if not any(picture.index == int(fields["index"]) for picture in images):
            return None
        return Case(fields, record, (await self._policies.in_force(tenant)).policy.reviewers)
