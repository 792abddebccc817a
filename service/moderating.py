"""Moderations: uploads checked, put into the queue as a job, awaited, and told; the bytes are gone with the answer."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.job import Job, Upload
from contract.moderation import ModeratedPicture, ModeratedText, ModerateRequest, Moderation, bytes_of
from contract.policy import Policy
from contract.prompt_concepts import TextScore, judged_prompt
from contract.reading import field_of
from contract.result import Picture
from contract.review import review_id
from contract.upload import UnusablePicture, decoded, look_at
from contract.verdict import Verdict
from service.audit.texts import Screened, entries_of
from service.idempotency import fingerprint_of
from service.jobs import JobRecord
from service.problems import (
    AlreadyFinished,
    FieldError,
    InvalidRequest,
    ModerationBusy,
    NotJudged,
    PictureNotFound,
)
from service.sender import Sender
from service.submission import Submission
from service.uploads import moderation_job

CHECKED_AT_ONCE = 2  # uploads decoded to see whether they can be: up to 370 MB each


@dataclass(frozen=True)
class Moderator:
    """How many moderations one process has at once, and how many uploads it decodes at once."""

    wait_s: float
    places: asyncio.Semaphore
    checking: asyncio.Semaphore

    @classmethod
    def of(cls, wait_s: float, at_once: int) -> "Moderator":
        """One for a process."""
        return cls(wait_s, asyncio.Semaphore(at_once), asyncio.Semaphore(CHECKED_AT_ONCE))

    async def moderate(self, request: ModerateRequest, submission: Submission) -> Moderation:
        """The verdicts on everything that a request sends.

        Raises:
            InvalidRequest: a picture is none that can be judged.
            ModerationBusy: as many are in hand as may be.
            NotJudged: the job came to nothing, or did not end in time.
            IdempotencyKeyReused: the key came with another request.
        """
        gateway, sender = submission.gateway, await submission.sender()
        in_force, policy = sender.in_force, sender.in_force.policy
        ends = submission.gone, gateway.leaving.wait  # also under a key, with which texts are scored anew
        scores = await gateway.readings.scores(
            request.texts, policy, request.model, sender.tenant, sender.limits, *ends
        )
        texts = await run_in_threadpool(_screened, request.texts, scores, policy)
        job_id: str | None = None
        pictures: tuple[ModeratedPicture, ...] = ()
        if request.images:
            if self.places.locked():
                raise ModerationBusy("As many moderations are in hand here as may be; try again soon.", 1)
            async with self.places:
                record = await self._judged(request, submission, sender, has_flagged_texts=_are_flagged(texts))
            job_id, model = record.job.id, record.job.model
            pictures = _told(record)
        else:
            await run_in_threadpool(_remember, request, submission)
            model = (await run_in_threadpool(gateway.catalogue.model, request.model)).name
        flagged = _are_flagged((*pictures, *texts))
        await _put_on_record(request, texts, submission, sender, job_id)
        return Moderation(
            id=job_id, model=model, policy=in_force.policy.ref, flagged=flagged, images=pictures, texts=texts
        )

    async def _judged(
        self, request: ModerateRequest, submission: Submission, sender: Sender, *, has_flagged_texts: bool
    ) -> JobRecord:
        tenant, key, intake = submission.caller.tenant, submission.idempotency_key, submission.gateway.intake
        if earlier := await run_in_threadpool(intake.earlier, tenant, key, fingerprint_of(request)):
            return await self._verdicts(earlier.id, submission)
        contents = await run_in_threadpool(list, map(bytes_of, request.images))
        uploads = [await self._checked(index, content) for index, content in enumerate(contents)]
        async with self._kept(submission, sender, uploads, contents, request, has_flagged_texts) as job_id:
            return await self._verdicts(job_id, submission)

    async def _verdicts(self, job_id: str, submission: Submission) -> JobRecord:
        """The job with its verdicts. Without them its idempotency key stands for nothing again."""
        gateway, tenant, key = submission.gateway, submission.caller.tenant, submission.idempotency_key
        # Who has a key can ask again, so that hanging up ends nothing.
        record = await submission.awaited(job_id, self.wait_s, *([submission.gone] if key is None else []))
        if record.status.is_terminal and record.result is not None and record.result.images:
            return record
        if not record.status.is_terminal:
            with suppress(AlreadyFinished, RedisError):
                await gateway.jobs.cancel(job_id, tenant)
        if key is not None:
            with suppress(RedisError):  # it ends by itself
                await run_in_threadpool(gateway.queue.forget, tenant, key, job_id)
        if not record.status.is_terminal:
            raise NotJudged(f"The pictures were not judged within {self.wait_s:g} s; send them again.", 5)
        error = record.view.error
        raise NotJudged(f"The pictures could not be judged{f': {error.message}' if error else ''}.", 5)

    async def _checked(self, index: int, content: bytes) -> Upload:
        """An upload that was decoded once, within its bounds."""
        async with self.checking:
            try:
                upload = await run_in_threadpool(look_at, content)
                await run_in_threadpool(decoded, content)
            except UnusablePicture as error:
                raise InvalidRequest(FieldError(field=f"images.{index}", message=str(error))) from None
        return upload

    @asynccontextmanager
    async def _kept(
        self,
        submission: Submission,
        sender: Sender,
        uploads: Sequence[Upload],
        contents: Sequence[bytes],
        request: ModerateRequest,
        has_flagged_texts: bool,
    ) -> AsyncIterator[str]:
        """The id of the job that judges them; the uploads lie in Redis for as long as this is entered."""
        gateway = submission.gateway
        await run_in_threadpool(gateway.intake.check_webhook, request.webhook_url, sender.tenant)
        job = await run_in_threadpool(moderation_job, request, uploads, sender, gateway.catalogue)
        job = job.model_copy(update={"has_flagged_texts": has_flagged_texts})
        names = [keys.upload_key(job.id, index) for index in range(len(contents))]
        ends_in_s = int(self.wait_s) + 60
        async with gateway.silence.noticed_in_turn(), gateway.redis.pipeline(transaction=False) as pipe:
            for name, content in zip(names, contents, strict=True):
                pipe.set(name, content, ex=ends_in_s)
            await pipe.execute()
        try:
            accepted, _ = await run_in_threadpool(
                gateway.intake.enqueue, job, sender, fingerprint_of(request), request.webhook_url
            )
            submission.note(accepted)
            yield accepted.id  # another's, when the same request came twice at once
        finally:
            with suppress(RedisError):  # they end by themselves
                await gateway.redis.delete(*names)


def _screened(texts: Sequence[str], scores: Sequence[TextScore], policy: Policy) -> tuple[ModeratedText, ...]:
    """Each text by the policy's prompt rules, as a prompt would be; `scores` are those of all texts."""
    by_text: dict[str, list[TextScore]] = {}
    for score in scores:
        by_text.setdefault(score.field, []).append(score)
    return tuple(_text(index, text, by_text, policy) for index, text in enumerate(texts))


def _text(index: int, text: str, scores: Mapping[str, Sequence[TextScore]], policy: Policy) -> ModeratedText:
    lists = policy.prompt_rules.found_in(text)
    decision = judged_prompt(scores.get(field_of(index), ()), policy.prompt_rules)
    named = (f"holds words that the policy {policy.id!r} lists as {name}" for name in lists)
    missing = (f"was not scored for what the policy demands: {name}" for name in decision.missing)
    return ModeratedText(
        index=index,
        verdict=Verdict.BLOCKED if lists else decision.verdict,
        lists=lists,
        concepts=decision.scores,
        reasons=(*named, *decision.reasons, *missing),
    )


async def _put_on_record(
    request: ModerateRequest, texts: Sequence[ModeratedText], submission: Submission, sender: Sender, job_id: str | None
) -> None:
    """Before the answer: what nobody was told needs no record."""
    screened = [
        Screened(field_of(one.index), request.texts[one.index], one.verdict, one.lists, one.concepts) for one in texts
    ]
    if screened:
        gateway = submission.gateway
        async with gateway.silence.noticed_in_turn():
            await gateway.audit.append(*entries_of(screened, sender, job_id))


def _remember(request: ModerateRequest, submission: Submission) -> None:
    """Texts make no job; their key stands for the request alone, whose answer is the same whenever it is made."""
    if (key := submission.idempotency_key) is not None:
        ttl_s = submission.gateway.settings.idempotency_ttl_s
        submission.gateway.queue.remember(submission.caller.tenant, key, fingerprint_of(request), ttl_s)


def moderation_of(record: JobRecord) -> Moderation:
    """What a moderation has come to by now. Of its texts only one thing is kept: whether any did not pass.

    Raises:
        NotJudged: not yet.
        PictureNotFound: it came to nothing.
    """
    if not record.status.is_terminal:
        raise NotJudged("The pictures are not judged yet.", 1)
    if not (pictures := _told(record)):
        raise PictureNotFound("The pictures of this request came to no verdicts; send them again.")
    job = record.job
    flagged = job.has_flagged_texts or _are_flagged(pictures)
    return Moderation(id=job.id, model=job.model, policy=job.policy, flagged=flagged, images=pictures, texts=())


def _are_flagged(judged: Sequence[ModeratedPicture | ModeratedText]) -> bool:
    return any(one.verdict is not Verdict.PASSED for one in judged)


def _told(record: JobRecord) -> tuple[ModeratedPicture, ...]:
    return tuple(_as_told(picture, record.job) for picture in record.pictures)


def _as_told(picture: Picture, job: Job) -> ModeratedPicture:
    upload = job.uploads[picture.index]
    return ModeratedPicture(
        index=picture.index,
        verdict=picture.verdict,
        action=picture.action,
        sha256=upload.sha256,
        width=upload.width,
        height=upload.height,
        concepts=picture.concepts,
        reasons=picture.reasons,
        review_id=review_id(job.id, picture.index) if picture.verdict is Verdict.REVIEW and picture.kept else None,
        decided=picture.decided,
        error=picture.error,
    )


def is_judged(moderation: Moderation) -> bool:
    """Whether every picture has a verdict."""
    return all(picture.verdict is not Verdict.ERROR for picture in moderation.images)
