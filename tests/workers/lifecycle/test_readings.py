"""Texts of moderations are scored for concepts by a worker, at once, or not at all."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from contract import keys
from contract.job import MAX_ATTEMPTS
from contract.prompt_concepts import PROMPT_CONCEPTS
from contract.reading import ReadingJob, ReadingResult
from contract.result import Status
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import PacedEngine
from workers.models import LoadedModel
from workers.safety.detectors.panel import Panel

TEXTS = ("a quiet street", "a knife " * 60)


def reading(**changes: Any) -> ReadingJob:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": uuid4().hex,
        "tenant": "someone",
        "created_at": now,
        "deadline_at": now + timedelta(seconds=60),
        "model": "paced",
        "texts": tuple(hashlib.sha256(text.encode()).hexdigest() for text in TEXTS),
        "concepts": ("a knife", "a hat"),
    }
    return ReadingJob(**(fields | changes))


def test_texts_are_scored_in_full_or_not_at_all(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    there, gone, other, late = reading(), reading(), reading(), reading(deadline_at=datetime.now(UTC))
    blind = reading()
    for job in (there, other, late, blind):
        for index, text in enumerate(TEXTS):
            client.redis.set(keys.upload_key(job.id, index), text)
    client.redis.set(keys.upload_key(other.id, 1), "another")
    panel = Panel(tiny_model.detector)
    with working(server, tmp_path, PacedEngine(), detectors=panel):
        client.accept_any(there, gone, other, late)
        client.wait_for([there.id, gone.id, other.id, late.id])
    with working(server, tmp_path, PacedEngine()):
        client.accept_any(blind)
        client.wait_for([blind.id])

    def result(job: ReadingJob) -> ReadingResult:
        return ReadingResult.model_validate_json(client.redis.hget(keys.job_key(job.id), "result") or b"")

    scores = result(there).texts
    assert result(there).status is Status.SUCCEEDED
    assert [(one.field, one.concept) for one in scores] == [
        (field, concept) for field in ("texts.0", "texts.1") for concept in there.concepts
    ]
    assert {one.detector_sha256 for one in scores} == {i.sha256 for i in panel.infos if i.name == PROMPT_CONCEPTS}
    failures = {name: result(job).error for name, job in (("gone", gone), ("other", other), ("blind", blind))}
    assert {name: error and error.code for name, error in failures.items()} == {
        **{"gone": "upload_gone", "other": "upload_gone"},
        "blind": "detector_error",
    }
    assert result(late).status is Status.EXPIRED
    assert not any(result(job).texts for job in (gone, other, late, blind))
    record = repr(client.redis.hgetall(keys.job_key(there.id)))
    assert "quiet street" not in record


def test_texts_that_ended_their_workers_are_not_tried_again(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    poison = reading()
    for index, text in enumerate(TEXTS):
        client.redis.set(keys.upload_key(poison.id, index), text)
    client.accept_any(poison)
    client.redis.hset(keys.job_key(poison.id), "attempt", MAX_ATTEMPTS)
    with working(server, tmp_path, PacedEngine(), detectors=Panel(tiny_model.detector)):
        client.wait_for([poison.id])
    error = client.result(poison.id).error
    assert error is not None
    assert error.code == "poison_job"
