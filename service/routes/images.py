"""`POST /v1/images/generations`: pictures for OpenAI's clients, unchanged."""

import logging
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Response
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Message

from contract.result import Picture, Status
from contract.verdict import Verdict
from service.compatible.answer import PICTURE_MADE, Image, ImagesAnswer, PictureMade, Withheld
from service.compatible.errors import NOT_AGAIN, JobCanceled, JobFailed, NotInTime, PicturesBlocked, error_of
from service.compatible.request import ImagesRequest
from service.events import event_schema
from service.following import PING_S
from service.jobs import JobRecord
from service.json_only import require_json
from service.problem_json import documented
from service.problems import AlreadyFinished, Refusal, StoreAway
from service.routes.jobs import stored
from service.routes.submitted import REFUSALS, Submitted
from service.submission import Submission

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1", tags=["compatible"])

LINKS_FOR_S = 3600

_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "A prompt and nothing else", "value": {"prompt": "a midnight harbour"}},
    "chosen": {
        "summary": "With fields of ours beside OpenAI's",
        "value": {"prompt": "a quiet street", "n": 2, "size": "64x64", "seed": 41, "safety": ["sld:strong", "filter"]},
    },
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ImagesAnswer,
        "description": "The pictures that passed. With `stream`: an `image_generation.completed` event for each of"
        " them, or an `error` event.",
        "content": {"text/event-stream": {"schema": event_schema(PICTURE_MADE, "error")}},
        "headers": {"Location": {"description": "The job's address.", "schema": {"type": "string"}}},
    },
    **documented(*REFUSALS, StoreAway, PicturesBlocked, JobCanceled, JobFailed, NotInTime),
}


@dataclass(frozen=True)
class _Waiting:
    """A request that waits for its job."""

    job_id: str
    submission: Submission

    @property
    def headers(self) -> dict[str, str]:
        return {"Location": f"/jobs/{self.job_id}"}

    async def outcome(self, wait_s: float) -> JobRecord:
        """The job, once some of its pictures have passed.

        Raises:
            Refusal: when none has, or not within the time.
        """
        request = self.submission.request
        try:
            record = await self.submission.awaited(self.job_id, wait_s, self.submission.gone)
        except RedisError as error:  # an answer without the job's id would be sent again
            log.warning("job %s: Redis failed after it was accepted: %s", self.job_id, type(error).__name__)
            raise NotInTime(self.job_id) from error
        match record.view.status:
            case Status.SUCCEEDED | Status.PARTIAL:
                return record
            case Status.BLOCKED:
                raise PicturesBlocked(record)
            case Status.FAILED | Status.EXPIRED:
                raise JobFailed(record)
            case Status.CANCELED:
                raise JobCanceled(self.job_id)
        if await request.is_disconnected():
            await self.abandon()
        raise NotInTime(self.job_id)

    async def abandon(self, _: Message | None = None) -> None:
        """Cancel what nobody can ask for any more: the client has hung up, and never learnt the job's id."""
        if self.submission.idempotency_key is None:
            with suppress(AlreadyFinished, RedisError):
                await self.submission.gateway.jobs.cancel(self.job_id, self.submission.caller.tenant)

    async def base64(self, record: JobRecord, picture: Picture) -> str:
        """A passed picture's bytes.

        Raises:
            StoreAway: they cannot be had now, though the job has made them.
        """
        try:
            return b64encode(await stored(self.submission.gateway, record, picture)).decode()
        except StoreAway as away:
            away.headers |= NOT_AGAIN | self.headers
            raise

    async def urls(self, record: JobRecord) -> dict[int, str]:
        """Addresses of the passed pictures, by index; for a time they need no key."""
        view = await self.submission.signed(record.view, LINKS_FOR_S)
        return {picture.index: picture.signed_url for picture in view.images if picture.signed_url}


@router.post(
    "/images/generations",
    operation_id="create_images",
    summary="Make pictures, as OpenAI's clients ask for them",
    response_model=ImagesAnswer,
    responses=_ANSWERS,
    dependencies=[Depends(require_json)],
)
async def create_images(
    body: Annotated[ImagesRequest, Body(openapi_examples=_EXAMPLES)], submission: Submitted
) -> Response:
    """Make pictures and answer with them; the job behind them is one as of `POST /generate`, under the same limits.

    The answer waits for the job, for as long as the deployment's `SEEMLY_IMAGES_WAIT_S` says; then it is 504 with the
    job's id, and the job goes on. A client that hangs up has its job canceled, unless it sent an `Idempotency-Key`
    under which it can ask again. When no picture passes, the answer is 400 `moderation_blocked`. Errors have
    OpenAI's shape.
    """
    job, _ = await submission.accept(body.wanted)
    waiting, wait_s = _Waiting(job.id, submission), submission.gateway.settings.images_wait_s
    if body.stream:
        events = _events(waiting, wait_s)
        return EventSourceResponse(
            events, headers=waiting.headers, ping=PING_S, client_close_handler_callable=waiting.abandon
        )
    record = await waiting.outcome(wait_s)
    urls = await waiting.urls(record) if body.response_format == "url" else {}
    answer = ImagesAnswer(
        created=_finished_at(record),
        data=[
            Image(
                index=picture.index,
                seed=picture.seed,
                url=urls.get(picture.index),
                b64_json=None if urls else await waiting.base64(record, picture),
            )
            for picture in _passed(record)
        ],
        output_format=record.job.output_format,
        size=f"{record.job.width}x{record.job.height}",
        job_id=record.job.id,
        withheld=[
            Withheld(index=picture.index, verdict=picture.verdict, reasons=picture.reasons)
            for picture in record.pictures
            if picture.verdict is not Verdict.PASSED
        ],
    )
    return Response(answer.model_dump_json(exclude_none=True), headers=waiting.headers, media_type="application/json")


async def _events(waiting: _Waiting, wait_s: float) -> AsyncIterator[ServerSentEvent]:
    try:
        record = await waiting.outcome(wait_s)
        for picture in _passed(record):
            made = PictureMade(
                b64_json=await waiting.base64(record, picture),
                created_at=_finished_at(record),
                output_format=record.job.output_format,
                size=f"{record.job.width}x{record.job.height}",
                index=picture.index,
                seed=picture.seed,
                job_id=record.job.id,
            )
            yield ServerSentEvent(event=PICTURE_MADE, data=made.model_dump_json())
    except Refusal as refusal:
        told = error_of(refusal.status, refusal.code, refusal.detail, refusal.errors)
        yield ServerSentEvent(event="error", data=told.model_dump_json())


def _passed(record: JobRecord) -> list[Picture]:
    return [picture for picture in record.pictures if picture.verdict is Verdict.PASSED]


def _finished_at(record: JobRecord) -> int:
    return int((record.finished_at or record.job.created_at).timestamp())
