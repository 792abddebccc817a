"""What the client says and understands, without the sending: one exchange per call, driven by Client and AsyncClient.

An exchange is a generator. It yields a request, and is sent the response or httpx's error; or it yields a Pause, and is
resumed when that is over. Retries, problems and parsing are therefore written once.
"""

import random
import uuid
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from contract.compare import CompareRequest
from contract.listing import JobPage, Models, SafetyMethods, Variant, Variants
from contract.moderation import ModerateRequest, Moderation
from contract.outbox import DeliveryState
from contract.request import GenerateRequest
from contract.result import JobView, Status
from contract.review import Appealed, AppealRequest
from contract.standing import PromoteRequest, RetireRequest
from contract.webhook import Delivery, DeliveryPage
from seemly.errors import Busy, FieldError, Invalid, NotFound, Refused, Unintelligible, Unreachable

MAX_PAUSE_S = 30.0
_BUSY = (429, 503)

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Pause:
    """Wait this long before the next step."""

    seconds: float


Step = httpx.Request | Pause
Answer = httpx.Response | httpx.TransportError | None  # None to a pause
Exchange = Generator[Step, Answer, Value]


class Exchanges:
    """One method per call of the service."""

    def __init__(self, build_request: Callable[..., httpx.Request], retries: int) -> None:
        self._build = build_request
        self._retries = retries

    def generate(self, request: GenerateRequest | str, *, idempotency_key: str | None = None) -> Exchange[JobView]:
        """Hand in a job, or a prompt with everything else left to the service; returns as soon as it is accepted."""
        body = GenerateRequest(prompt=request) if isinstance(request, str) else request
        return (yield from self._post_once(JobView, "/generate", body, idempotency_key))

    def compare(self, request: CompareRequest, *, idempotency_key: str | None = None) -> Exchange[JobView]:
        """Hand in a compare of safety plans; returns as soon as it is accepted."""
        return (yield from self._post_once(JobView, "/compare", request, idempotency_key))

    def moderate(self, request: ModerateRequest, *, idempotency_key: str | None = None) -> Exchange[Moderation]:
        """Have pictures and texts judged; returns with the verdicts."""
        return (yield from self._post_once(Moderation, "/moderate", request, idempotency_key))

    def moderation(self, moderation_id: str) -> Exchange[Moderation]:
        """What uploads came to, with what people have decided since."""
        return (yield from self._read(Moderation, f"/moderate/{moderation_id}"))

    def appeal_moderation(self, moderation_id: str, reason: str, index: int = 0) -> Exchange[Appealed]:
        """Have a person look at a blocked upload."""
        body = AppealRequest(index=index, reason=reason)
        return (yield from self._post(Appealed, f"/moderate/{moderation_id}/appeal", body))

    def job(self, job_id: str, links_for_s: int | None = None) -> Exchange[JobView]:
        """A job as it stands now; where asked, with a `signed_url` at every passed picture, good for so long."""
        return (yield from self._read(JobView, f"/jobs/{job_id}", links_for_s=links_for_s))

    def job_page(
        self,
        status: Status | Collection[Status] = (),
        model: str | None = None,
        since: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Exchange[JobPage]:
        """Some of your jobs, newest first: of these statuses (none: any), this model, accepted since then."""
        statuses = [status] if isinstance(status, Status) else [*status]
        accepted = None if since is None else since.astimezone().isoformat()
        wanted = {"status": statuses, "model": model, "since": accepted, "cursor": cursor, "limit": limit}
        return (yield from self._read(JobPage, "/jobs", **wanted))

    def cancel(self, job_id: str) -> Exchange[JobView]:
        """Cancel a job, also while it runs."""
        return (yield from self._post(JobView, f"/jobs/{job_id}/cancel"))

    def reproduce(self, job_id: str, *, idempotency_key: str | None = None) -> Exchange[JobView]:
        """Have a finished job's pictures made again; the new job's `reproduction` states the difference."""
        return (yield from self._post_once(JobView, f"/jobs/{job_id}/reproduce", None, idempotency_key))

    def appeal(self, job_id: str, reason: str, index: int = 0) -> Exchange[Appealed]:
        """Have a person look at a blocked picture; `reason` says why it should not have been blocked."""
        return (yield from self._post(Appealed, f"/jobs/{job_id}/appeal", AppealRequest(index=index, reason=reason)))

    def image(self, job_id: str, index: int) -> Exchange[bytes]:
        """The file of a passed picture. A withheld one raises: its bytes were never kept."""
        response = yield from self._send(self._build("GET", f"/jobs/{job_id}/images/{index}"))
        return response.content

    def explanation(self, job_id: str) -> Exchange[bytes]:
        """A finished job's scores over the steps, drawn; a PNG that shows none of its pictures."""
        response = yield from self._send(self._build("GET", f"/jobs/{job_id}/explanation.png"))
        return response.content

    def contact_sheet(self, job_id: str) -> Exchange[bytes]:
        """A finished job's pictures on one sheet, as PNG; withheld ones are empty tiles."""
        response = yield from self._send(self._build("GET", f"/jobs/{job_id}/contact-sheet.png"))
        return response.content

    def delivery_page(
        self, state: DeliveryState | Collection[DeliveryState] = (), cursor: str | None = None, limit: int = 100
    ) -> Exchange[DeliveryPage]:
        """Some of your webhooks, newest first: in these states, or in any."""
        states = [state] if isinstance(state, DeliveryState) else [*state]
        return (yield from self._read(DeliveryPage, "/webhooks/deliveries", state=states, cursor=cursor, limit=limit))

    def delivery(self, delivery_id: str) -> Exchange[Delivery]:
        """What became of a webhook; its id is the message's `webhook-id`."""
        return (yield from self._read(Delivery, f"/webhooks/deliveries/{delivery_id}"))

    def replay(self, delivery_id: str) -> Exchange[Delivery]:
        """Have a webhook sent again, whatever became of it, under the id that it had."""
        return (yield from self._post(Delivery, f"/webhooks/deliveries/{delivery_id}/replay"))

    def models(self) -> Exchange[Models]:
        """The models served, with their bounds and defaults."""
        return (yield from self._read(Models, "/models"))

    def variants(self) -> Exchange[Variants]:
        """The erased weights served, each with its model."""
        return (yield from self._read(Variants, "/variants"))

    def promote(self, variant: str, model: str | None = None, *, force: str | None = None) -> Exchange[Variant]:
        """Let requests ask for erased weights that have passed their gate, or by `force`, which says why."""
        return (
            yield from self._post(Variant, f"/variants/{variant}/promote", PromoteRequest(model=model, force=force))
        )

    def retire(self, variant: str, reason: str, model: str | None = None) -> Exchange[Variant]:
        """Take erased weights out of service."""
        return (
            yield from self._post(Variant, f"/variants/{variant}/retire", RetireRequest(model=model, reason=reason))
        )

    def methods(self) -> Exchange[SafetyMethods]:
        """The safety methods, with their parameters."""
        return (yield from self._read(SafetyMethods, "/safety/methods"))

    def _read(self, kind: type[Model], path: str, /, **query: Any) -> Exchange[Model]:
        asked = {name: value for name, value in query.items() if value is not None}
        response = yield from self._send(self._build("GET", path, params=asked))
        return parsed(kind, response)

    def _post(self, kind: type[Model], path: str, body: BaseModel | None = None) -> Exchange[Model]:
        response = yield from self._send(self._build("POST", path, json=_as_json(body)))
        return parsed(kind, response)

    def _post_once(
        self, kind: type[Model], path: str, body: BaseModel | None, idempotency_key: str | None
    ) -> Exchange[Model]:
        """The same under a key, so that it may be sent again."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        response = yield from self._send(
            self._build("POST", path, json=_as_json(body), headers=headers), counts_once=True
        )
        return parsed(kind, response)

    def _send(self, request: httpx.Request, *, counts_once: bool = False) -> Exchange[httpx.Response]:
        failures = 0
        while True:
            answer = yield request
            if isinstance(answer, httpx.UnsupportedProtocol):
                raise Unreachable(f"{request.url} is no address of a service; it begins with http:// or https://")
            if isinstance(answer, httpx.Response):
                if answer.is_success:
                    return answer
                if answer.status_code not in _BUSY or failures >= self._retries:
                    raise problem_of(answer)
                wait_s = retry_after_s(answer) or backoff_s(failures)
                if wait_s > MAX_PAUSE_S:
                    raise problem_of(answer)
            else:
                # What may have arrived is sent again only where it counts once.
                is_unsent = isinstance(answer, httpx.ConnectError | httpx.ConnectTimeout)
                if failures >= self._retries or not (is_unsent or counts_once):
                    raise Unreachable(f"no answer from {request.url}: {answer or type(answer).__name__}")
                wait_s = backoff_s(failures)
            failures += 1
            yield Pause(wait_s)


def _as_json(body: BaseModel | None) -> Any:
    return None if body is None else body.model_dump(mode="json")


def backoff_s(failures: int) -> float:
    """0.25 s, doubled with every failure, at most 8 s, with jitter so that clients do not return as one."""
    return min(0.25 * 2.0**failures, 8.0) * (0.75 + random.random() / 2)  # noqa: S311 - spreads load, guards nothing


def retry_after_s(response: httpx.Response) -> float | None:
    """Seconds that the service asks to wait, if it says."""
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):
        return None


def parsed(model: type[Model], response: httpx.Response) -> Model:
    """The response's body as the contract has it.

    Raises:
        Unintelligible: when it is not that.
    """
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise _unintelligible(response) from None


def problem_of(response: httpx.Response) -> Refused | Unintelligible:
    """The error of the tree that an unsuccessful response stands for."""
    try:
        body = response.json()
        code, detail = str(body["code"]), str(body.get("detail") or body["title"])
        errors = tuple(FieldError(str(entry["field"]), str(entry["message"])) for entry in body.get("errors", ()))
    except (ValueError, KeyError, TypeError):
        return _unintelligible(response)
    kinds: dict[int, type[Refused]] = {404: NotFound, 422: Invalid, 429: Busy, 503: Busy}
    return kinds.get(response.status_code, Refused)(
        response.status_code,
        code,
        detail,
        request_id=body.get("request_id"),
        retry_after_s=retry_after_s(response),
        errors=errors,
    )


def _unintelligible(response: httpx.Response) -> Unintelligible:
    kind = response.headers.get("content-type", "no content type")
    return Unintelligible(
        f"{response.request.url} answered {response.status_code} with {kind}, which is not this service's way:"
        " is the URL right?"
    )
