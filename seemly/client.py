"""The typed client, for threads (`Client`) and for asyncio (`AsyncClient`): the same calls, the same errors.

    with Client("http://127.0.0.1:8000") as client:
        job = client.wait(client.generate("a cat at midnight").id)
        for picture in job.images:
            print(picture.verdict, picture.reasons)

Every call raises the tree in `seemly.errors`. Answers 429 and 503 are waited out as Retry-After asks, `retries` times;
`generate` and `compare` send an Idempotency-Key of their own and are repeated under it, so that no job is made twice.
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from contract.compare import CompareRequest
from contract.request import GenerateRequest
from contract.result import JobView
from seemly.errors import Busy, TimedOut
from seemly.events import Event, Subscription
from seemly.exchange import Exchange, Exchanges, Pause, problem_of

TIMEOUT_S = 30.0
RETRIES = 5
NO_MORE_EVENTS = 204  # a stream resumed after its last event

Value = TypeVar("Value")
OnEvent = Callable[[Event], None]


def _ignore(event: Event) -> None:
    """What `wait` does with events nobody asked for."""


def _headers(api_key: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


def _is_loopback(url: str) -> bool:
    """Whether the service is on this machine, where no proxy of the environment's would find it."""
    host = httpx.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _deadline(timeout_s: float | None) -> float:
    return time.monotonic() + timeout_s if timeout_s is not None else float("inf")


def _time_left(deadline: float, job_id: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut(f"job {job_id} did not finish in time; it goes on and can be waited for again")
    return left


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
        self._http = httpx.Client(
            base_url=url,
            headers=_headers(api_key),
            timeout=timeout_s,
            transport=transport,
            trust_env=not _is_loopback(url),
        )
        self._exchanges = Exchanges(self._http.build_request, retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def generate(self, request: GenerateRequest | str) -> JobView:
        """Hand in a job, or a prompt with everything else left to the service; returns as soon as it is accepted."""
        return self._run(self._exchanges.generate(request))

    def compare(self, request: CompareRequest) -> JobView:
        """Hand in a compare of safety plans; returns as soon as it is accepted."""
        return self._run(self._exchanges.compare(request))

    def job(self, job_id: str) -> JobView:
        """A job as it stands now."""
        return self._run(self._exchanges.job(job_id))

    def cancel(self, job_id: str) -> JobView:
        """Cancel a job, also while it runs."""
        return self._run(self._exchanges.cancel(job_id))

    def image(self, job_id: str, index: int) -> bytes:
        """The file of a passed picture. A withheld one raises: its bytes were never kept."""
        return self._run(self._exchanges.image(job_id, index))

    def explanation(self, job_id: str) -> bytes:
        """A finished job's scores over the steps, drawn; a PNG that shows none of its pictures."""
        return self._run(self._exchanges.explanation(job_id))

    def contact_sheet(self, job_id: str) -> bytes:
        """A finished job's pictures on one sheet, as PNG; withheld ones are empty tiles."""
        return self._run(self._exchanges.contact_sheet(job_id))

    def models(self) -> Any:
        """The models served, with their bounds and defaults."""
        return self._run(self._exchanges.listing("/models"))

    def methods(self) -> Any:
        """The safety methods, with their parameters."""
        return self._run(self._exchanges.listing("/safety/methods"))

    def wait(self, job_id: str, *, timeout_s: float | None = None, on_event: OnEvent = _ignore) -> JobView:
        """Wait until a job is over, telling its events on the way.

        Raises:
            TimedOut: when it is not over after `timeout_s`.
        """
        for event in self.events(job_id, timeout_s=timeout_s):
            on_event(event)
        return self.job(job_id)

    def events(self, job_id: str, *, timeout_s: float | None = None) -> Iterator[Event]:
        """A job's events until it is over, over as many connections as it takes."""
        deadline = _deadline(timeout_s)
        subscription = Subscription(self._http.build_request, job_id)
        while True:
            error: Exception | None = None
            request = subscription.request(read_timeout_s=_time_left(deadline, job_id))
            try:
                response = self._http.send(request, stream=True)
                try:
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
                        _time_left(deadline, job_id)
                finally:
                    response.close()
            except (httpx.TransportError, Busy) as broken:
                error = broken
            time.sleep(min(subscription.pause_s(error), _time_left(deadline, job_id)))

    def _run(self, exchange: Exchange[Value]) -> Value:
        try:
            step = next(exchange)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(exchange)
                    continue
                try:
                    response = self._http.send(step)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            value: Value = end.value
            return value


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
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=_headers(api_key),
            timeout=timeout_s,
            transport=transport,
            trust_env=not _is_loopback(url),
        )
        self._exchanges = Exchanges(self._http.build_request, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def generate(self, request: GenerateRequest | str) -> JobView:
        """Hand in a job, or a prompt with everything else left to the service; returns as soon as it is accepted."""
        return await self._run(self._exchanges.generate(request))

    async def compare(self, request: CompareRequest) -> JobView:
        """Hand in a compare of safety plans; returns as soon as it is accepted."""
        return await self._run(self._exchanges.compare(request))

    async def job(self, job_id: str) -> JobView:
        """A job as it stands now."""
        return await self._run(self._exchanges.job(job_id))

    async def cancel(self, job_id: str) -> JobView:
        """Cancel a job, also while it runs."""
        return await self._run(self._exchanges.cancel(job_id))

    async def image(self, job_id: str, index: int) -> bytes:
        """The file of a passed picture. A withheld one raises: its bytes were never kept."""
        return await self._run(self._exchanges.image(job_id, index))

    async def explanation(self, job_id: str) -> bytes:
        """A finished job's scores over the steps, drawn; a PNG that shows none of its pictures."""
        return await self._run(self._exchanges.explanation(job_id))

    async def contact_sheet(self, job_id: str) -> bytes:
        """A finished job's pictures on one sheet, as PNG; withheld ones are empty tiles."""
        return await self._run(self._exchanges.contact_sheet(job_id))

    async def models(self) -> Any:
        """The models served, with their bounds and defaults."""
        return await self._run(self._exchanges.listing("/models"))

    async def methods(self) -> Any:
        """The safety methods, with their parameters."""
        return await self._run(self._exchanges.listing("/safety/methods"))

    async def wait(self, job_id: str, *, timeout_s: float | None = None, on_event: OnEvent = _ignore) -> JobView:
        """Wait until a job is over, telling its events on the way.

        Raises:
            TimedOut: when it is not over after `timeout_s`.
        """
        async for event in self.events(job_id, timeout_s=timeout_s):
            on_event(event)
        return await self.job(job_id)

    async def events(self, job_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Event]:
        """A job's events until it is over, over as many connections as it takes."""
        deadline = _deadline(timeout_s)
        subscription = Subscription(self._http.build_request, job_id)
        while True:
            error: Exception | None = None
            request = subscription.request(read_timeout_s=_time_left(deadline, job_id))
            try:
                response = await self._http.send(request, stream=True)
                try:
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
                        _time_left(deadline, job_id)
                finally:
                    await response.aclose()
            except (httpx.TransportError, Busy) as broken:
                error = broken
            await asyncio.sleep(min(subscription.pause_s(error), _time_left(deadline, job_id)))

    async def _run(self, exchange: Exchange[Value]) -> Value:
        try:
            step = next(exchange)
            while True:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    step = next(exchange)
                    continue
                try:
                    response = await self._http.send(step)
                except httpx.TransportError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(response)
        except StopIteration as end:
            value: Value = end.value
            return value
