"""What a webhook is told, from the delivery's fields: links, no bytes, no prompt."""

from collections.abc import Mapping

from pydantic import TypeAdapter

from contract import keys
from contract.result import Status
from contract.strict import Strict
from contract.verdict import Verdict
from contract.webhook import EventType, ToldJob, ToldPicture, WebhookMessage
from service.webhooks.outbox import moment


class _Kept(Strict):
    index: int
    verdict: Verdict
    reasons: tuple[str, ...] = ()


_PICTURES = TypeAdapter(tuple[_Kept, ...])


def message_of(fields: Mapping[str, str], public_url: str | None) -> WebhookMessage:
    """The message. It comes from what the delivery keeps alone, so it is the same at every attempt."""
    kind = fields.get("kind", keys.PICTURES)
    job = f"{(public_url or '').rstrip('/')}/{kind}/{fields['job']}"
    ended_at = moment(fields["created_at"])
    pictures = tuple(
        ToldPicture(
            index=kept.index,
            verdict=kept.verdict,
            url=f"{job}/images/{kept.index}" if kept.verdict is Verdict.PASSED and kind == keys.PICTURES else None,
            reasons=kept.reasons,
        )
        for kept in _PICTURES.validate_json(fields["images"])
    )
    return WebhookMessage(
        type=EventType(fields["type"]),
        timestamp=ended_at,
        data=ToldJob(
            id=fields["job"],
            status=Status(fields["status"]),
            url=job,
            finished_at=ended_at,
            images=pictures,
            error_code=fields["error"] or None,
        ),
    )
