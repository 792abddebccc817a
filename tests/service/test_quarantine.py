"""Quarantine: while 200 jobs are blocked or held, nothing in reach has a byte of their pictures, or a prompt.

The bytes lie in one place, the private store; the prompts in one, the field `job` of each job's own record. Both are
found there, so the search is known to find them.
"""

import hashlib
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client import generate_latest
from redis import Redis

from contract import keys
from contract.request import OutputFormat
from contract.result import Result, Status
from contract.review import review_id
from service.api_keys import KeyRing, Scope
from service.webhooks.signing import SecretRing
from tests.redis_server import running_redis
from tests.service import parts
from tests.service.conftest import KeyedGateway, running_gateway
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine, pixels_of
from workers.encode import encode

JOBS = 200
CANARY = "quillzanzibar"  # in every prompt
WORDS = 8  # bytes that are looked for: 2^64 of them do not meet by chance


def needles_of(seed: int) -> list[bytes]:
    """What would give away a picture: pixels as they are and as a file, in bytes, base64 and hexadecimal."""
    pixels = pixels_of(seed, INFO.native_width_px, INFO.native_height_px)
    file = encode(pixels, OutputFormat.PNG)
    middle = len(file) // 2
    inside = file[middle : middle + 60]
    forms = [pixels.tobytes()[:WORDS], pixels[10, 10:].tobytes()[:WORDS], inside[:WORDS], inside.hex().encode()[:WORDS]]
    return forms + [b64encode(inside[shift:])[4 : 4 + WORDS] for shift in range(3)]


def numbers_in(text: bytes) -> Any:
    """Every 8 bytes in a row, as numbers."""
    views = [np.frombuffer(text[at : at + (len(text) - at) // 8 * 8], np.uint64) for at in range(8) if len(text) >= at]
    return np.concatenate(views)


@dataclass
class Search:
    """All that was reached, once each, by where it was."""

    seen: dict[bytes, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, where: str, text: bytes) -> None:
        with self.lock:
            self.seen.setdefault(text, where)

    def finds(self, needles: list[bytes]) -> set[str]:
        """Where any of these is."""
        wanted = np.sort(np.frombuffer(b"".join(needles), np.uint64))
        return {where for text, where in self.seen.items() if np.isin(numbers_in(text), wanted).any()}

    def holds(self, text: str) -> set[str]:
        return {where for seen, where in self.seen.items() if text.encode() in seen}


def flat(value: Any) -> bytes:
    """Everything in an answer of Redis, as it is."""
    if isinstance(value, dict):
        return b"\n".join(flat(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple | set):
        return b"\n".join(map(flat, value))
    return value if isinstance(value, bytes) else repr(value).encode()


def read_redis(url: str, search: Search) -> None:
    """Every key; of the jobs' records all but what the job is."""
    with Redis.from_url(url, protocol=2) as redis:
        read: dict[bytes, Any] = {
            b"hash": redis.hgetall,
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"set": redis.smembers,
            b"zset": lambda key: redis.zrange(key, 0, -1),
            b"stream": redis.xrange,
            b"string": redis.get,
        }
        for key in redis.keys("*"):
            kind = redis.type(key)
            value = read[kind](key) if kind in read else b""
            if key.startswith(keys.job_key("").encode()):
                value.pop(b"job", None)
            search.note(f"redis {key.decode()}", flat(value))


@dataclass
class Scene:
    keyed: KeyedGateway
    url: str
    folder: Path
    worker: RunningWorker
    search: Search
    jobs: list[str] = field(default_factory=list)

    def get(self, client: httpx.Client, path: str) -> None:
        answer = client.get(path)
        self.search.note(path, answer.content + str(answer.headers).encode())

    def look(self, app: httpx.Client, reviewer: httpx.Client) -> None:
        """Everything but each single job's addresses."""
        for path in ("/jobs?limit=100", "/webhooks/deliveries?limit=100", "/metrics", "/models"):
            self.get(app, path)
        for path in ("/reviews?limit=100", "/metrics"):
            self.get(reviewer, path)
        self.search.note("the worker's metrics", generate_latest(self.worker.metrics.registry))
        read_redis(self.url, self.search)
        for path in self.folder.rglob("*"):
            if path.is_file() and ".withheld" not in path.parts and "appendonly" not in str(path):
                self.search.note(str(path.relative_to(self.folder)), path.read_bytes())

    def look_at(self, app: httpx.Client, reviewer: httpx.Client, job_id: str) -> None:
        for path in ("", "/images/0", "?links_for_s=60", "/events"):
            self.get(app, f"/jobs/{job_id}{path}")
        for path in ("", "/thumbnail"):
            self.get(reviewer, f"/reviews/{review_id(job_id, 0)}{path}")
        for path in ("", "/thumbnail", "/picture"):
            self.get(app, f"/reviews/{review_id(job_id, 0)}{path}")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    info = INFO.model_copy(update={"tokenizer_sha256": hashlib.sha256(parts.TOKENIZER).hexdigest()})
    (tmp_path / "redis").mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(running_redis(tmp_path / "redis"))
        client = stack.enter_context(parts.client(server.url))
        ring = KeyRing(client, None, tmp_path / "data" / "pepper")
        ring.create("watched", [Scope.GENERATE])
        SecretRing(client, None, tmp_path / "data" / "pepper").create("watched")
        limits = {"redis_timeout_s": "20", "limit_requests": "100000/minute"}
        gateway = stack.enter_context(running_gateway(server.url, tmp_path / "data", **limits))
        model: Any = SimpleNamespace(info=info, tokenizer_json=parts.TOKENIZER)
        worker = stack.enter_context(working(server, tmp_path / "data", PacedEngine(0.002), model))
        yield Scene(KeyedGateway(gateway, client, ring), server.url, tmp_path, worker, Search())


def test_no_byte_of_a_withheld_picture_and_no_prompt_is_anywhere_else(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    is_over = threading.Event()
    with scene.keyed.http("watched", Scope.GENERATE) as app, scene.keyed.http("watched", Scope.REVIEW) as reviewer:

        def poll() -> None:
            turn = 0
            while not is_over.is_set():
                scene.look(app, reviewer)
                for job_id in scene.jobs[turn::10]:
                    scene.look_at(app, reviewer, job_id)
                turn = (turn + 1) % 10

        poller = threading.Thread(target=poll)
        poller.start()
        for number in range(JOBS):
            body = {"prompt": f"a weapon {CANARY} {number}", "safety": "filter:review" if number % 2 else "filter"}
            posted = app.post("/generate", json={**body, "steps": 2, "webhook_url": "https://app.example/"})
            scene.jobs.append(posted.raise_for_status().json()["id"])
        results = {job_id: awaited(scene.keyed.redis, job_id) for job_id in scene.jobs}
        is_over.set()
        poller.join()
        for job_id in scene.jobs[::5]:
            scene.look_at(app, reviewer, job_id)
        scene.look(app, reviewer)
    scene.search.note("the worker's log", caplog.text.encode())

    assert {result.status for result in results.values()} == {Status.BLOCKED}
    seeds = {job_id: result.images[0].seed for job_id, result in results.items()}
    everything = [needle for seed in seeds.values() for needle in needles_of(seed)]
    assert scene.search.finds(everything) == set()
    assert scene.search.holds(CANARY) == set()
    assert len(scene.search.seen) > 2 * JOBS

    journal = Search()  # Redis' own copy on disk: of prompts it has what the records have, of pictures nothing
    for path in (scene.folder / "redis").rglob("*.aof"):
        journal.note(path.name, path.read_bytes())
    assert journal.holds(CANARY)
    assert journal.finds(everything) == set()

    private = Search()  # what was looked for can be found where it is
    for path in (scene.keyed.gateway.pictures / ".withheld").rglob("*"):
        if path.is_file():
            private.note(path.name if "thumbnail" in path.name else path.parent.name, path.read_bytes())
    assert private.finds(everything) == set(scene.jobs[1::2])
    assert not [path for path in scene.keyed.gateway.pictures.rglob("*.png") if ".withheld" not in path.parts]
    assert CANARY in str(scene.keyed.redis.hget(keys.job_key(scene.jobs[0]), "job"))


def awaited(redis: "Redis", job_id: str) -> Result:
    for _ in range(6000):
        if (found := redis.hget(keys.job_key(job_id), "result")) is not None:
            return Result.model_validate_json(str(found))
        threading.Event().wait(0.01)
    raise AssertionError(f"{job_id} did not end")
