"""The typed client, for threads (`Client`) and for asyncio (`AsyncClient`): the same calls, the same errors.

    with Client("http://127.0.0.1:8000") as client:
        job = client.wait(client.generate("a cat at midnight").id)
        for picture in job.images:
            print(picture.verdict, picture.reasons)

Every call raises the tree in `seemly.errors`. Answers 429 and 503 are waited out as Retry-After asks, `retries` times;
`generate`, `compare`, `reproduce` and `moderate` send an Idempotency-Key of their own and are repeated under it, so
that no job is made twice.
What the calls say and understand stands once, in `seemly.exchange`.
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import aclosing, closing
from datetime import datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from contract.listing import JobSummary
from contract.result import JobView, Status
from seemly.errors import Busy
from seemly.events import Event, Subscription
from seemly.exchange import Answer, Exchange, Exchanges, Pause, Step, problem_of

TIMEOUT_S = 30.0
RETRIES = 5
NO_MORE_EVENTS = 204  # a stream resumed after its last event

Words = ParamSpec("Words")
Value = TypeVar("Value")
OnEvent = Callable[[Event], None]


def _connection(url: str, api_key: str | None, timeout_s: float) -> dict[str, Any]:
    """How httpx is to reach the service. No proxy of the environment's would find one on this machine."""
    host = httpx.URL(url).host
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    return {"base_url": url, "headers": headers, "timeout": timeout_s, "trust_env": not is_loopback}


def _blocking(
    call: Callable[Concatenate[Exchanges, Words], Exchange[Value]],
) -> Callable[Concatenate["Client", Words], Value]:
    """An exchange as a method of `Client`."""

    @wraps(call)
    def method(self: "Client", /, *args: Words.args, **kwargs: Words.kwargs) -> Value:
        return self._run(call(self._exchanges, *args, **kwargs))

    return method


def _awaited(
    call: Callable[Concatenate[Exchanges, Words], Exchange[Value]],
) -> Callable[Concatenate["AsyncClient", Words], Coroutine[Any, Any, Value]]:
    """An exchange as a method of `AsyncClient`."""

    @wraps(call)
    async def method(self: "AsyncClient", /, *args: Words.args, **kwargs: Words.kwargs) -> Value:
        return await self._run(call(self._exchanges, *args, **kwargs))

    return method


class Client:
    """Talks to a service from threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(transport=transport, **_connection(url, api_key, timeout_s))
        self._exchanges = Exchanges(self._http.build_request, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    generate = _blocking(Exchanges.generate)
    compare = _blocking(Exchanges.compare)
    moderate = _blocking(Exchanges.moderate)
    moderation = _blocking(Exchanges.moderation)
    appeal_moderation = _blocking(Exchanges.appeal_moderation)
    job = _blocking(Exchanges.job)
    job_page = _blocking(Exchanges.job_page)
    cancel = _blocking(Exchanges.cancel)
    reproduce = _blocking(Exchanges.reproduce)
    appeal = _blocking(Exchanges.appeal)
    image = _blocking(Exchanges.image)
    explanation = _blocking(Exchanges.explanation)
    contact_sheet = _blocking(Exchanges.contact_sheet)
    delivery_page = _blocking(Exchanges.delivery_page)
    delivery = _blocking(Exchanges.delivery)
    replay = _blocking(Exchanges.replay)
    models = _blocking(Exchanges.models)
    variants = _blocking(Exchanges.variants)
    promote = _blocking(Exchanges.promote)
    retire = _blocking(Exchanges.retire)
    methods = _blocking(Exchanges.methods)

    def jobs(
        self,
        status: Status | Collection[Status] = (),
        model: str | None = None,
        since: datetime | None = None,
        *,
        page_size: int = 100,
    ) -> Iterator[JobSummary]:
        """Your jobs whose records are still kept, newest first, read page by page as they are taken."""
        cursor = None
        while True:
            page = self.job_page(status, model, since, cursor, page_size)
            yield from page.jobs
            if (cursor := page.next_cursor) is None:
                return

    def wait(self, job_id: str, *, timeout_s: float | None = None, on_event: OnEvent = lambda _: None) -> JobView:
        """Wait until a job is over, telling its events on the way.

        Raises:
            TimedOut: when it is not over after `timeout_s`.
        """
        for event in self.events(job_id, timeout_s=timeout_s):
            on_event(event)
        return self.job(job_id)

    def events(self, job_id: str, *, timeout_s: float | None = None) -> Iterator[Event]:
        """A job's events until it is over, over as many connections as it takes."""
        subscription = Subscription(self._http.build_request, job_id, timeout_s)
        while True:
            error: Exception | None = None
            try:
                with closing(self._http.send(subscription.request(), stream=True)) as response:
                    if not response.is_success:
                        response.read()
                        raise problem_of(response)
                    if response.status_code == NO_MORE_EVENTS:
                        return
                    for line in response.iter_lines():
                        if event := subscription.feed(line):
                            yield event
                            if event.is_last:
                                return
                        subscription.time_left_s()
            except (httpx.TransportError, Busy) as broken:
                error = broken
            time.sleep(subscription.pause_s(error))

    def _run(self, exchange: Exchange[Value]) -> Value:
        answer: Answer = None
        try:
            while True:
                answer = self._answer_to(exchange.send(answer))
        except StopIteration as end:
            value: Value = end.value
            return value

    def _answer_to(self, step: Step) -> Answer:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.send(step)
        except httpx.TransportError as error:
            return error


class AsyncClient:
    """Talks to a service from asyncio; the calls are those of `Client`."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(transport=transport, **_connection(url, api_key, timeout_s))
        self._exchanges = Exchanges(self._http.build_request, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    generate = _awaited(Exchanges.generate)
    compare = _awaited(Exchanges.compare)
    moderate = _awaited(Exchanges.moderate)
    moderation = _awaited(Exchanges.moderation)
    appeal_moderation = _awaited(Exchanges.appeal_moderation)
    job = _awaited(Exchanges.job)
    job_page = _awaited(Exchanges.job_page)
    cancel = _awaited(Exchanges.cancel)
    reproduce = _awaited(Exchanges.reproduce)
    appeal = _awaited(Exchanges.appeal)
    image = _awaited(Exchanges.image)
    explanation = _awaited(Exchanges.explanation)
    contact_sheet = _awaited(Exchanges.contact_sheet)
    delivery_page = _awaited(Exchanges.delivery_page)
    delivery = _awaited(Exchanges.delivery)
    replay = _awaited(Exchanges.replay)
    models = _awaited(Exchanges.models)
    variants = _awaited(Exchanges.variants)
    promote = _awaited(Exchanges.promote)
    retire = _awaited(Exchanges.retire)
    methods = _awaited(Exchanges.methods)

    async def jobs(
        self,
        status: Status | Collection[Status] = (),
        model: str | None = None,
        since: datetime | None = None,
        *,
        page_size: int = 100,
    ) -> AsyncIterator[JobSummary]:
        """Your jobs whose records are still kept, newest first, read page by page as they are taken."""
        cursor = None
        while True:
            page = await self.job_page(status, model, since, cursor, page_size)
            for job in page.jobs:
                yield job
            if (cursor := page.next_cursor) is None:
                return

    async def wait(self, job_id: str, *, timeout_s: float | None = None, on_event: OnEvent = lambda _: None) -> JobView:
        """Wait until a job is over, telling its events on the way.

        Raises:
            TimedOut: when it is not over after `timeout_s`.
        """
        async for event in self.events(job_id, timeout_s=timeout_s):
            on_event(event)
        return await self.job(job_id)

    async def events(self, job_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """A job's events until it is over, over as many connections as it takes."""
        subscription = Subscription(self._http.build_request, job_id, timeout_s)
        while True:
            error: Exception | None = None
            try:
                async with aclosing(await self._http.send(subscription.request(), stream=True)) as response:
                    if not response.is_success:
                        await response.aread()
                        raise problem_of(response)
                    if response.status_code == NO_MORE_EVENTS:
                        return
                    async for line in response.aiter_lines():
                        if event := subscription.feed(line):
                            yield event
                            if event.is_last:
                                return
                        subscription.time_left_s()
            except (httpx.TransportError, Busy) as broken:
                error = broken
            await asyncio.sleep(subscription.pause_s(error))

    async def _run(self, exchange: Exchange[Value]) -> Value:
        answer: Answer = None
        try:
            while True:
                answer = await self._answer_to(exchange.send(answer))
        except StopIteration as end:
            value: Value = end.value
            return value

    async def _answer_to(self, step: Step) -> Answer:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.send(step)
        except httpx.TransportError as error:
            return error
