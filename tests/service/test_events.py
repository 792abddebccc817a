"""Server-sent events: a snapshot, then everything that happens, once and in order, for many listeners."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.result import Status
from service.events import is_newer
from tests.service import parts
from tests.service.conftest import GatewayProcess
from tests.service.test_jobs import finished, posted


@dataclass(frozen=True)
class Told:
    """One event as it came over HTTP."""

    event: str
    id: str | None
    data: Any


def told(lines: Iterator[str]) -> Iterator[Told]:
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Told(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}


def follow(http: httpx.Client, job_id: str, after: str | None = None) -> list[Told]:
    headers = {"Last-Event-ID": after} if after else {}
    with http.stream("GET", f"/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        return list(told(answer.iter_lines()))


def test_a_stream_tells_a_jobs_life_as_it_happens(http: httpx.Client, redis: "Redis") -> None:
    job_id = posted(http)
    with http.stream("GET", f"/jobs/{job_id}/events") as answer:
        events = told(answer.iter_lines())
        snapshot, queued = next(events), next(events)
        assert (snapshot.event, snapshot.id, snapshot.data["status"]) == ("snapshot", None, "queued")
        assert (queued.event, queued.data["position"]) == ("queued", 1)
        assert queued.data["eta_s"] > 0
        attempt, job = parts.take(redis, job_id)
        started = next(events)
        assert (started.event, started.data) == ("started", {"attempt": 1})
        began = time.monotonic()
        parts.report_progress(redis, job_id, 5, 25)
        progress = next(events)
        assert time.monotonic() - began < 0.5
        assert (progress.event, progress.data) == ("progress", {"step": 5, "steps": 25})
        parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
        last = next(events)
        assert (last.event, last.data) == ("finished", {"status": "succeeded"})
        assert list(events) == []
    ids = [event.id for event in (queued, started, progress, last)]
    assert ids == [entry_id for entry_id, _ in redis.xrange(keys.events_key(job_id))]


def test_a_finished_jobs_stream_is_told_whole_and_ends(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id, _ = finished(http, redis, gateway)
    events = follow(http, job_id)
    assert [event.event for event in events] == ["snapshot", "queued", "started", "finished"]
    assert events[0].data["status"] == "succeeded"


def test_a_stream_resumes_after_the_last_event_seen(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id, _ = finished(http, redis, gateway)
    _, queued, started, last = follow(http, job_id)
    resumed = follow(http, job_id, queued.id)
    assert [event.id for event in resumed] == [None, started.id, last.id]
    answer = http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": str(last.id)})
    assert answer.status_code == 204


def test_a_last_event_id_that_is_none_is_refused(http: httpx.Client) -> None:
    job_id = posted(http)
    answer = http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "yesterday"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_a_stream_whose_events_were_trimmed_away_still_ends(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id, _ = finished(http, redis, gateway)
    redis.delete(keys.events_key(job_id))
    assert [event.event for event in follow(http, job_id)] == ["snapshot", "finished"]


def test_a_waiting_jobs_stream_ends_when_its_deadline_passes(http: httpx.Client, redis: "Redis") -> None:
    job_id = posted(http, deadline_s=3)
    events = follow(http, job_id)
    assert [event.event for event in events] == ["snapshot", "queued", "finished"]
    assert events[-1].data == {"status": "expired"}


def test_a_listener_who_joins_late_hears_everything_once(http: httpx.Client, redis: "Redis") -> None:
    job_id = posted(http)
    with http.stream("GET", f"/jobs/{job_id}/events") as early:
        early_events = told(early.iter_lines())
        next(early_events)
        attempt, job = parts.take(redis, job_id)
        sent = [parts.report_progress(redis, job_id, step, 25) for step in range(10)]
        with http.stream("GET", f"/jobs/{job_id}/events") as late:
            late_events = told(late.iter_lines())
            next(late_events)
            sent += [parts.report_progress(redis, job_id, step, 25) for step in range(10, 20)]
            parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
            both = [
                [event.id for event in events if event.event == "progress"] for events in (early_events, late_events)
            ]
    assert both == [sent, sent]


def test_hundreds_of_listeners_share_one_blocking_read(
    gateway: GatewayProcess, http: httpx.Client, redis: "Redis"
) -> None:
    streams = 300
    job_ids = [posted(http) for _ in range(streams)]
    connections_before = redis.info("clients")["connected_clients"]

    async def listen(client: httpx.AsyncClient, job_id: str, opened: asyncio.Event) -> float:
        async with client.stream("GET", f"/jobs/{job_id}/events") as answer:
            async for line in answer.aiter_lines():
                if line == "event: queued":
                    opened.set()
                if line == "event: finished":
                    return time.monotonic()
        raise AssertionError("the stream ended early")

    async def run() -> tuple[float, int, int]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=limits) as client:
            opened = [asyncio.Event() for _ in job_ids]
            listeners = [asyncio.create_task(listen(client, *pair)) for pair in zip(job_ids, opened, strict=True)]
            await asyncio.gather(*(event.wait() for event in opened))
            blocked = redis.info("clients")["blocked_clients"]
            connections = redis.info("clients")["connected_clients"] - connections_before
            began = time.monotonic()
            await asyncio.to_thread(end_all)
            return max(await asyncio.gather(*listeners)) - began, blocked, connections

    def end_all() -> None:
        for job_id in job_ids:
            attempt, job = parts.take(redis, job_id)
            parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))

    took_s, blocked, connections = asyncio.run(run())
    print(f"{streams} streams: all told {took_s:.2f} s after the first end, {connections} more connections")  # noqa: T201
    assert blocked == 1
    assert took_s < 15
    assert connections < streams / 2


@pytest.mark.parametrize(
    ("event_id", "than", "newer"),
    [("5-0", "4-9", True), ("5-10", "5-9", True), ("5-0", "5-0", False), ("9-0", "10-0", False)],
)
def test_ids_are_compared_as_numbers(event_id: str, than: str, newer: bool) -> None:
    assert is_newer(event_id, than) is newer
