"""Variants promoted and retired over HTTP, by a worker that has no room for another picture."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import keys
from contract.job import Job, PolicyRef
from contract.model import VariantStatus
from contract.result import Status
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.service.conftest import running_gateway
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine
from tests.workers.variants.conftest import write
from workers.models import LoadedModel
from workers.variants.shelf import VariantShelf

WAITING = 3  # pictures, in a queue that takes no more
PROMPTLY_S = 2.0
QUEUE = keys.queue_name("tiny")


@dataclass(frozen=True)
class Stack:
    """A gateway and a worker whose one slot is taken for good."""

    http: httpx.Client
    folder: Path
    endless: Job
    waiting: list[str]

    def move(self, name: str, to: str, **body: Any) -> httpx.Response:
        """Promote or retire; it may not take long."""
        began = time.monotonic()
        answer = self.http.post(f"/variants/{name}/{to}", json=body)
        took_s = time.monotonic() - began
        print(f"{to} {name}: {answer.status_code} after {took_s:.2f} s")  # noqa: T201
        assert took_s < PROMPTLY_S
        return answer


@pytest.fixture
def busy(server: RedisServer, client: Client, tmp_path: Path, model: LoadedModel) -> Iterator[Stack]:
    folder = tmp_path / "variants"
    write(folder / "keys-1", model, status=VariantStatus.CANDIDATE)
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30)
    paced = replace(model, info=model.info.model_copy(update={"concepts": INFO.concepts}))
    fields = {"model": "tiny", "width": 32, "height": 32, "policy": PolicyRef(id="own", version=1)}
    endless, *waiting = [job("endless", **fields), *[job(f"a cat {number}", **fields) for number in range(WAITING)]]
    with (
        working(server, tmp_path, PacedEngine(0.02), paced, shelf, slots=1),
        running_gateway(server.url, tmp_path / "gateway", queue_limit=str(WAITING)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        client.accept(endless)
        client.wait_until_started(endless.id)
        for wanted in waiting:
            client.accept(wanted)
        assert eventually(lambda: http.get("/variants").json()["variants"])
        yield Stack(http, folder, endless, [wanted.id for wanted in waiting])
        client.cancel(endless.id)
        assert set(client.wait_for([wanted.id for wanted in waiting]).values()) == {Status.SUCCEEDED}


def test_a_busy_worker_moves_variants_at_once_and_the_answer_holds_at_once(busy: Stack, client: Client) -> None:
    def accepts() -> str:
        answer = busy.http.post("/generate", json={"prompt": "a cat", "safety": "erased:keys-1"})
        return str(answer.json()["code"] if answer.status_code == 503 else answer.json()["errors"][0]["message"])

    assert "candidate" in accepts()
    refused = busy.move("keys-1", "promote")
    assert (refused.status_code, refused.json()["code"]) == (409, "not_promoted")
    assert "held against no gate yet" in refused.json()["detail"]
    promoted = busy.move("keys-1", "promote", force="asked for")
    assert (promoted.status_code, promoted.json()["status"]) == (200, "available"), promoted.text
    assert accepts() == "queue_full"  # which is asked last
    retired = busy.move("keys-1", "retire", reason="a better one is there")
    assert (retired.status_code, retired.json()["status"]) == (200, "retired"), retired.text
    assert "is retired" in accepts()
    (busy.folder / "keys-1" / "card.json.part").mkdir()
    unwritable = busy.move("keys-1", "promote", force="asked for")
    assert (unwritable.status_code, unwritable.json()["code"]) == (503, "not_moved")
    assert "cannot be read or written: Is a directory" in unwritable.json()["detail"]
    # what waits has kept its order, and nothing is left of the others
    assert [one.decode() for one in client.redis.lrange(f"rq:queue:{QUEUE}", 0, -1)] == busy.waiting
    assert set(map(bytes.decode, client.redis.zrange(keys.ACCEPTED, 0, -1))) == {busy.endless.id, *busy.waiting}
    assert client.redis.llen(f"rq:queue:{QUEUE}:intermediate") == 0
    assert not client.redis.exists(keys.turns_key(QUEUE))
