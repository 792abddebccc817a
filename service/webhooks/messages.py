"""What a webhook is told, from the delivery's fields: links, no bytes, no prompt."""

import json
from collections.abc import Mapping

from contract.result import Status
from contract.verdict import Verdict
from contract.webhook import EventType, ToldJob, ToldPicture, WebhookMessage
from service.webhooks.outbox import moment


def message_of(fields: Mapping[str, str], public_url: str) -> WebhookMessage:
    """The message. It comes from what the delivery keeps alone, so it is the same at every attempt."""
    job = f"{public_url.rstrip('/')}/jobs/{fields['job']}"
    ended_at = moment(fields["created_at"])
    return WebhookMessage(
        type=EventType(fields["type"]),
        timestamp=ended_at,
        data=ToldJob(
            id=fields["job"],
            status=Status(fields["status"]),
            url=job,
            finished_at=ended_at,
            images=tuple(_told(picture["index"], Verdict(picture["verdict"]), job) for picture in _pictures(fields)),
            error_code=fields["error"] or None,
        ),
    )


def _pictures(fields: Mapping[str, str]) -> list[dict[str, int | str]]:
    return json.loads(fields["images"])  # type: ignore[no-any-return]  # written by `contract.outbox`


def _told(index: int | str, verdict: Verdict, job_url: str) -> ToldPicture:
    url = f"{job_url}/images/{index}" if verdict is Verdict.PASSED else None
    return ToldPicture(index=int(index), verdict=verdict, url=url)
