"""Webhooks: what is told, to whom, with which signature, and what can be seen of it."""

import json
import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.acceptance import Terms
from contract.outbox import DeliveryState
from contract.result import JobError, Result, Status
from contract.verdict import Verdict
from contract.webhook import EventType, WebhookMessage
from service.queue import JobQueue
from service.webhooks.messages import message_of
from service.webhooks.schedule import JITTER, LONGEST_S, PAUSES_S, next_attempt_at
from service.webhooks.sending import retry_after_s
from service.webhooks.signing import NoSuchSecret, SecretRing, signed_headers
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.receiver import Receiver, receiving
from tests.service.test_bad_input import problem
from tests.service.test_webhook_delivery import (
    JOBS,
    PROMPT,
    answering,
    are,
    delivering,
    ended,
    free_port,
    queue,
    ring,
)

__all__ = ["queue", "ring"]


@pytest.mark.parametrize(
    ("status", "verdicts", "event"),
    [
        (Status.SUCCEEDED, (Verdict.PASSED, Verdict.PASSED), EventType.SUCCEEDED),
        (Status.PARTIAL, (Verdict.PASSED, Verdict.BLOCKED), EventType.PARTIAL),
        (Status.BLOCKED, (Verdict.BLOCKED,), EventType.BLOCKED),
        (Status.PARTIAL, (Verdict.PASSED, Verdict.REVIEW), EventType.REVIEW),
        (Status.FAILED, (Verdict.ERROR,), EventType.FAILED),
    ],
)
def test_what_is_told_of_a_job(
    redis: "Redis",
    redis_server: RedisServer,
    ring: SecretRing,
    queue: JobQueue,
    status: Status,
    verdicts: tuple[Verdict, ...],
    event: EventType,
) -> None:
    message_id = ended(redis, queue, "https://app.example/", "local", *verdicts, status=status)
    fields = redis.hgetall(keys.delivery_key(message_id))
    message = message_of(fields, "https://pictures.example/")
    assert WebhookMessage.model_validate_json(message.model_dump_json()) == message
    assert (message.type, message.data.status) == (event, status)
    address = f"https://pictures.example/jobs/{message_id.removeprefix('msg_')}"
    assert message.data.url == address
    assert [picture.url for picture in message.data.images] == [
        f"{address}/images/{index}" if verdict is Verdict.PASSED else None for index, verdict in enumerate(verdicts)
    ]
    assert [picture.verdict for picture in message.data.images] == list(verdicts)
    assert PROMPT not in json.dumps(fields) + message.model_dump_json()


def test_every_other_end_is_told_once(redis: "Redis", queue: JobQueue) -> None:
    expired = Result(status=Status.EXPIRED, error=JobError(code="expired", message="too late"))
    canceled = Result(status=Status.CANCELED)
    for end, result in ((queue.end_queued, expired), (queue.cancel, canceled)):
        job = parts.some_job(id=f"{next(JOBS):032x}")
        queue.accept(job, Terms(queue_limit=10, webhook_url="https://app.example/"))
        assert redis.zcard(keys.due_deliveries_key("local")) == 0
        for _ in range(2):
            end(job, result, 60)
        told = redis.hgetall(keys.delivery_key(f"msg_{job.id}"))
        assert (told["type"], told["state"], told["images"]) == (f"job.{result.status}", "pending", "[]")
        assert told["error"] == (result.error.code if result.error else "")
        assert redis.zpopmin(keys.due_deliveries_key("local"), 2) == [(f"msg_{job.id}", float(told["due_at"]))]
    silent = parts.some_job(id=f"{next(JOBS):032x}")
    queue.accept(silent, Terms(queue_limit=10))
    queue.cancel(silent, canceled, 60)
    assert redis.exists(keys.delivery_key(f"msg_{silent.id}"), keys.due_deliveries_key("local")) == 0


def test_the_pauses_between_attempts_add_up_to_less_than_three_days() -> None:
    assert 2.9 * 86_400 < sum(PAUSES_S) < LONGEST_S
    first_at = now = 1_000_000.0
    for failures, pause_s in enumerate(PAUSES_S):
        due_at = next_attempt_at(now, first_at, failures, 0, PAUSES_S)
        assert due_at is not None
        assert pause_s * (1 - JITTER) <= due_at - now <= pause_s
        now = due_at
    assert next_attempt_at(now, first_at, len(PAUSES_S), 0, PAUSES_S) is None
    assert next_attempt_at(first_at, first_at, 0, 900, PAUSES_S) == first_at + 900
    assert next_attempt_at(first_at, first_at, 0, 1e9, PAUSES_S) == first_at + LONGEST_S  # and that is the last one
    assert next_attempt_at(first_at + LONGEST_S, first_at, 1, 0, PAUSES_S) is None


def test_retry_after_is_read_in_both_its_forms() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    for value, seconds in {
        b"120": 120, b"Sat, 31 Jan 2026 12:01:00 GMT": 60, b"Sat, 31 Jan 2026 11:00:00 GMT": 0, b"soon": 0, b"-1": 0,
        b"9" * 30: 0, b"": 0, b"\xff": 0, b"Sat, 99 Jan 2026 12:01:00 GMT": 0,
    }.items():  # fmt: skip
        assert retry_after_s({b"Retry-After": value}, now) == seconds


def test_secrets_are_shown_again_and_lie_nowhere_in_redis(redis: "Redis", ring: SecretRing) -> None:
    with pytest.raises(NoSuchSecret, match="secret create acme"):
        ring.shown("acme")
    with pytest.raises(NoSuchSecret, match="secret create acme"):
        ring.rotate("acme", timedelta())
    first, made = ring.create("acme")
    assert ring.shown("acme") == [(first, made)]
    with pytest.raises(NoSuchSecret, match="already"):
        ring.create("acme")
    second, _ = ring.rotate("acme", timedelta(hours=1))
    assert [whsec for whsec, _ in ring.shown("acme")] == [first, second]
    third, _ = ring.rotate("acme", timedelta())
    assert [whsec for whsec, _ in ring.shown("acme")] == [third]
    assert len({first, second, third}) == 3
    assert [one.tenant for one in ring.all()] == ["acme"] * 3
    kept = redis.hget(keys.SIGNING_SECRETS, "acme") or ""
    assert not any(whsec.removeprefix("whsec_") in str(kept) for whsec in (first, second, third))
    assert SecretRing(redis, "another pepper, which is long enough", Path()).shown("acme")[0][0] != third


def test_a_webhook_needs_a_signing_secret(http: httpx.Client, redis: "Redis", ring: SecretRing) -> None:
    body = {"prompt": "a harbour", "webhook_url": "https://app.example/seemly"}
    answer = http.post("/generate", json=body)
    assert (answer.status_code, problem(answer)["errors"][0]["field"]) == (422, "webhook_url")
    assert "seemly webhooks secret create local" in answer.json()["errors"][0]["message"]
    ring.create("local")
    for path, more in (("/generate", {}), ("/compare", {"plans": ["none", "filter"]})):
        job_id = http.post(path, json=body | more).json()["id"]
        assert redis.hget(keys.job_key(job_id), "webhook_url") == body["webhook_url"]
        assert "app.example" not in str(redis.hget(keys.job_key(job_id), "job"))  # workers need not know
    http.delete(f"/jobs/{job_id}")
    page = http.get("/webhooks/deliveries").json()
    assert [(one["id"], one["type"], one["target"]) for one in page["deliveries"]] == [
        (f"msg_{job_id}", "job.canceled", body["webhook_url"])
    ]


def test_deliveries_are_listed_page_by_page_and_sent_again(
    http: httpx.Client, redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    ring.create("local")
    is_failing = True

    def heal(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        answering(500 if is_failing else 200)(receiver, request)

    def listed(**query: Any) -> Any:
        return http.get("/webhooks/deliveries", params=query).json()

    with receiving(heal) as receiver, delivering(redis_server.url, webhook_pauses_s="0.01"):
        sent = [ended(redis, queue, receiver.url) for _ in range(5)]
        assert eventually(are(redis, DeliveryState.DEAD, *sent))
        assert b"seemly_webhooks_dead 5.0" in http.get("/metrics").content
        first = listed(limit=3, state="dead")
        rest = listed(limit=3, state="dead", cursor=first["next_cursor"])
        assert rest["next_cursor"] is None
        assert [one["id"] for one in first["deliveries"] + rest["deliveries"]] == sent[::-1]
        assert listed(state=["delivered", "pending"]) == {"deliveries": [], "next_cursor": None}
        one = http.get(f"/webhooks/deliveries/{sent[0]}").json()
        assert one == rest["deliveries"][-1]
        assert (one["attempts"], one["last_status"], one["next_attempt_at"]) == (2, 500, None)
        is_failing = False
        answer = http.post(f"/webhooks/deliveries/{sent[0]}/replay")
        assert (answer.status_code, answer.json()["state"]) == (202, "pending")
        assert eventually(are(redis, DeliveryState.DELIVERED, sent[0]))
        assert receiver.times(sent[0]) == 3
        assert http.get(f"/webhooks/deliveries/{sent[0]}").json()["last_error"] is None
        assert redis.zscore(keys.DEAD_DELIVERIES, sent[0]) is None
    for query, field in (
        ("cursor=x", "cursor"),
        ("limit=0", "limit"),
        ("state=lost", "state.0"),
        ("sate=dead", "sate"),
    ):
        answer = http.get(f"/webhooks/deliveries?{query}")
        assert (answer.status_code, problem(answer)["errors"][0]["field"]) == (422, field)


def test_settings_that_cannot_be_are_told() -> None:
    for name, value, told in (
        ("LEASE_S", "3", "raise SEEMLY_WEBHOOK_LEASE_S"),
        ("NETWORKS", "10.0.0.1/8", "SEEMLY_WEBHOOK_NETWORKS"),
    ):
        command = [sys.executable, "-m", "service.webhooks.main"]
        done = subprocess.run(
            command, env=os.environ | {f"SEEMLY_WEBHOOK_{name}": value}, capture_output=True, text=True, check=False
        )
        assert done.returncode == os.EX_CONFIG
        assert told in done.stderr


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_receiver_in_the_documentation_verifies_and_tells_duplicates(ring: SecretRing) -> None:
    document = Path(__file__).parents[2] / "docs" / "webhooks.md"
    [example] = re.findall(r"```python\n(.*?)```", document.read_text(), re.DOTALL)
    whsec, _ = ring.create("local")
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "WEBHOOK_SECRET": whsec}
    body = '{"type": "job.succeeded", "data": {"url": "/jobs/1"}}'
    process = subprocess.Popen(
        [sys.executable, "-c", example], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert eventually(lambda: answers(port))
        headers = signed_headers("msg_1", body, [whsec], datetime.now(UTC))
        for sent, status in ((body, 204), (body, 204), (body.replace("1", "2"), 400)):
            assert httpx.post(f"http://127.0.0.1:{port}/", content=sent, headers=headers).status_code == status
    finally:
        process.terminate()
        told, _ = process.communicate(timeout=20)
    assert told == b"job.succeeded /jobs/1\n"
