"""Quarantine: while 200 jobs are blocked or held, nothing in reach has a byte of their pictures, or a prompt.

A tenth are compares, a tenth uploads with a text. The bytes lie in one place, the private store, and those of uploads
in their own keys until they are judged; the prompts in one, the field `job` of each job's own record. All are found
there, so the search is known to find them.
"""

import hashlib
import logging
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
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
UPLOADS = f"{keys.PREFIX}upload:"
SEEDS = 1 << 40  # of uploads, which no job has by chance
WORDS = 8  # bytes that are looked for: 2^64 of them do not meet by chance
COLOURS = 2000  # a drawing has fewer, the noise that stands for pictures here has more, also in a thumbnail
FOUND = {"rules": [{"name": "weapon", "threshold": 0.05}]}  # the filter, for uploads: they score 0.1


def drawn_of(seed: int) -> np.ndarray:
    return pixels_of(seed, INFO.native_width_px, INFO.native_height_px)


def colours_in(file: bytes) -> int:
    """How many colours a picture has."""
    with Image.open(BytesIO(file)) as opened:
        return len(np.unique(np.asarray(opened.convert("RGB")).reshape(-1, 3), axis=0))


def needles_of(seed: int) -> list[bytes]:
    """What would give away a picture: pixels as they are and as a file, in bytes, base64 and hexadecimal."""
    pixels = drawn_of(seed)
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
    """Every key but uploads that are being judged; of the jobs' records all but what the job is."""
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
            if key.startswith(UPLOADS.encode()):
                continue
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
    drawings: list[bytes] = field(default_factory=list)

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
        self.get(reviewer, f"/moderate/{job_id}")

    def draw(self, app: httpx.Client, job_id: str) -> None:
        """What is drawn of a job."""
        for path in ("contact-sheet.png", "explanation.png"):
            answer = app.get(f"/jobs/{job_id}/{path}")
            if answer.is_success:
                self.search.note(path, answer.content)
                self.drawings.append(answer.content)

    def send(self, app: httpx.Client, moderator: httpx.Client, number: int) -> tuple[str, int | None]:
        """The next job, which is blocked or held. Its id, and the seed of its picture where the test knows it."""
        prompt, held = f"a weapon {CANARY} {number}", bool(number % 2)
        common = {"prompt": prompt, "steps": 2, "webhook_url": "https://app.example/"}
        if number % 20 < 2:
            file = encode(drawn_of(SEEDS + number), OutputFormat.PNG)
            output = FOUND | {"action": "review" if held else "block"}
            sent = {"images": [b64encode(file).decode()], "texts": [prompt], "output": output}
            answer = moderator.post("/moderate", json=sent).raise_for_status()
            self.search.note("the answer of /moderate", answer.content)
            return answer.json()["id"], SEEDS + number
        if number % 20 < 4:
            plans = ["filter", "filter:review" if held else {"output": FOUND}]
            return app.post("/compare", json={**common, "plans": plans}).raise_for_status().json()["id"], None
        body = common | {"safety": "filter:review" if held else "filter"}
        return app.post("/generate", json=body).raise_for_status().json()["id"], None


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
    uploaded: dict[str, int] = {}
    with (
        scene.keyed.http("watched", Scope.GENERATE) as app,
        scene.keyed.http("watched", Scope.REVIEW, Scope.MODERATE) as reviewer,
    ):

        def poll() -> None:
            turn = 0
            while not is_over.is_set():
                scene.look(app, reviewer)
                for job_id in scene.jobs[turn::10]:
                    scene.look_at(app, reviewer, job_id)
                for job_id in scene.jobs[-1:]:
                    scene.draw(app, job_id)
                turn = (turn + 1) % 10

        poller = threading.Thread(target=poll)
        poller.start()
        for number in range(JOBS):
            job_id, seed = scene.send(app, reviewer, number)
            scene.jobs.append(job_id)
            if seed is not None:
                uploaded[job_id] = seed
        results = {job_id: awaited(scene.keyed.redis, job_id) for job_id in scene.jobs}
        is_over.set()
        poller.join()
        for job_id in scene.jobs[::5]:
            scene.look_at(app, reviewer, job_id)
        for job_id in scene.jobs[-20:-14]:  # of every kind
            scene.draw(app, job_id)
        scene.look(app, reviewer)
    scene.search.note("the worker's log", caplog.text.encode())

    assert {result.status for result in results.values()} == {Status.BLOCKED}
    made = [needle for job, result in results.items() if job not in uploaded for needle in needles_of(seed_of(result))]
    everything = made + [needle for seed in uploaded.values() for needle in needles_of(seed)]
    assert scene.search.finds(everything) == set()
    assert scene.search.holds(CANARY) == set()
    assert len(scene.search.seen) > 2 * JOBS
    assert len(scene.drawings) >= 8
    assert max(map(colours_in, scene.drawings)) < COLOURS < colours_in(encode(drawn_of(SEEDS), OutputFormat.PNG))
    assert scene.keyed.redis.keys(f"{UPLOADS}*") == []

    journal = (
        Search()
    )  # Redis' own copy on disk: of prompts what the records have, of pictures uploads that were judged
    for path in (scene.folder / "redis").rglob("*.aof"):
        journal.note(path.name, path.read_bytes())
    assert journal.holds(CANARY)
    assert journal.finds(made) == set()

    private = Search()  # what was looked for can be found where it is
    for path in (scene.keyed.gateway.pictures / ".withheld").rglob("*"):
        if path.is_file():
            private.note(path.name if "thumbnail" in path.name else path.parent.name, path.read_bytes())
    assert private.finds(everything) == set(scene.jobs[1::2])
    assert not [path for path in scene.keyed.gateway.pictures.rglob("*.png") if ".withheld" not in path.parts]
    assert CANARY in str(scene.keyed.redis.hget(keys.job_key(scene.jobs[-1]), "job"))


def seed_of(result: Result) -> int:
    return result.images[0].seed


def awaited(redis: "Redis", job_id: str) -> Result:
    for _ in range(6000):
        if (found := redis.hget(keys.job_key(job_id), "result")) is not None:
            return Result.model_validate_json(str(found))
        threading.Event().wait(0.01)
    raise AssertionError(f"{job_id} did not end")
