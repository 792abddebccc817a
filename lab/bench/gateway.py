"""The gateway against a bare FastAPI app on the same Redis (`lab.bench.bare`), and many event streams on one process.

Both are processes of their own, asked over kept-alive connections by a client that does little else. Rounds are
interleaved; Redis is emptied before each, so that every round finds the same.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch
import uvloop
from redis import Redis

from contract import keys, record
from contract.job import PolicyRef
from contract.model import ModelInfo
from contract.result import AppliedSafety, Picture, Result, Status
from contract.verdict import ConceptScore, Verdict
from lab.bench.interleaved import Timing, time_interleaved
from seemly.embedded import EmbeddedStack
from seemly.settings import Settings
from workers import models
from workers.announce import Announcement

BODY = json.dumps({"prompt": "a pirate scene", "safety": "filter", "seed": 7}).encode()
UP_WITHIN_S = 60.0
STREAMED_WITHIN_S = 30.0


@dataclass(frozen=True)
class Pair:
    """The same number of requests to both, in every round."""

    requests: int
    gateway: Timing
    bare: Timing
    gateway_cpu_us: float  # of the server's process, a request
    bare_cpu_us: float

    @property
    def ratio(self) -> float:
        """What part of the bare endpoint's throughput the gateway has."""
        return self.bare.median / self.gateway.median


@dataclass(frozen=True)
class Streams:
    """Event streams open at once on one gateway process; memory in MB (10^6 bytes) resident."""

    count: int
    told: int  # streams that were told their job's end
    before_mb: float
    open_mb: float


@dataclass(frozen=True)
class GatewayComparison:
    """What `seemly bench gateway` measures."""

    generate: Pair
    queued: Pair  # GET of a job that waits
    finished: Pair  # GET of a job with a picture's scores
    streams: Streams


@dataclass(frozen=True)
class _Process:
    address: tuple[str, int]
    pid: int

    def cpu_s(self) -> float:
        """CPU time used so far, seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        """Resident memory, MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def compare_gateway(
    source: str, data: Path, *, requests: int, connections: int, repeats: int, streams: int
) -> GatewayComparison:
    """Start Redis, a gateway and the bare app on `data`, and measure.

    Args:
        source: folder or hub id of the model that is announced; no worker runs
        requests, connections: of a round, over so many connections at a time
        repeats: rounds of each arm
        streams: event streams to open

    Raises:
        RuntimeError: when a request is not answered as it should be.
    """
    model = models.load(source, name="bench", device=torch.device("cpu"))
    stack = EmbeddedStack(Settings(data=data))
    stack.start_redis()
    try:
        with (
            Redis.from_url(stack.redis_url, decode_responses=True) as redis,
            _running("service.main", data, stack.redis_url) as gateway,
            _running("lab.bench.bare", data, stack.redis_url) as bare,
        ):
            announcement = Announcement(redis, model.info, model.tokenizer_json, "bench", lease_s=3600)
            bench = _Bench(redis, announcement, gateway, bare, requests, connections, repeats)
            return GatewayComparison(
                bench.generate(), bench.read(None), bench.read(_passed(model.info)), bench.streams(streams)
            )
    finally:
        stack.stop()


class _Bench:
    def __init__(
        self,
        redis: "Redis",
        announcement: Announcement,
        gateway: _Process,
        bare: _Process,
        requests: int,
        connections: int,
        repeats: int,
    ) -> None:
        self._redis = redis
        self._announcement = announcement
        self._gateway = gateway
        self._bare = bare
        self._requests = requests
        self._connections = connections
        self._repeats = repeats

    def generate(self) -> Pair:
        """Jobs handed in."""
        return self._pair(_request("POST", "/generate", BODY), _request("POST", "/enqueue", BODY), 202, empty=True)

    def read(self, finished: Result | None) -> Pair:
        """One job's state, read again and again."""
        self._empty()
        asked = _request("GET", f"/jobs/{self._job(finished)}")
        return self._pair(asked, asked, 200, empty=False)

    def streams(self, count: int) -> Streams:
        """As many jobs as streams; every stream must tell its job's end."""
        self._empty()
        before = self._gateway.rss_mb()
        ids = [self._job(None) for _ in range(count)]
        open_mb, told = _run(self._follow(ids))
        return Streams(count, told, before, open_mb)

    async def _follow(self, ids: list[str]) -> tuple[float, int]:
        opened = await asyncio.gather(*(_opened(self._gateway.address, job_id) for job_id in ids))
        open_mb = self._gateway.rss_mb()
        for job_id in ids:
            self._finish(job_id, Result(status=Status.CANCELED))
        async with asyncio.timeout(STREAMED_WITHIN_S):
            ends = await asyncio.gather(*(reader.read() for reader, _ in opened))
        for _, writer in opened:
            writer.close()
        return max(open_mb, self._gateway.rss_mb()), sum(b"event: finished" in end for end in ends)

    def _pair(self, ours: bytes, bares: bytes, status: int, *, empty: bool) -> Pair:
        def asking(process: _Process, request: bytes) -> Any:
            def run() -> None:
                if empty:
                    self._empty()
                _run(_ask(process.address, request, status, self._requests, self._connections))

            return run

        arms = {"gateway": asking(self._gateway, ours), "bare": asking(self._bare, bares)}
        before = [process.cpu_s() for process in (self._gateway, self._bare)]
        timings = time_interleaved(arms, self._repeats)
        asked = self._requests * (self._repeats + 1)
        used = [process.cpu_s() for process in (self._gateway, self._bare)]
        cpu_us = [1e6 * (now - then) / asked for now, then in zip(used, before, strict=True)]
        return Pair(self._requests, timings["gateway"], timings["bare"], *cpu_us)

    def _empty(self) -> None:
        self._redis.flushdb()
        self._announcement.publish()
        self._announcement.renew()

    def _job(self, finished: Result | None) -> str:
        """A job's id, accepted by the gateway; where asked, ended as a worker ends it."""
        host, port = self._gateway.address
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"http://{host}:{port}/generate", content=BODY, headers=headers, trust_env=False)
        job_id = str(answer.raise_for_status().json()["id"])
        if finished is not None:
            self._finish(job_id, finished)
        return job_id

    def _finish(self, job_id: str, result: Result) -> None:
        touched = [keys.job_key(job_id), keys.ACCEPTED, keys.events_key(job_id)]
        attempt, *_ = self._redis.eval(record.START, len(touched), *touched, repr(time.time()))
        self._redis.eval(
            record.COMMIT,
            len(touched),
            *touched,
            *(attempt, result.status.value, result.model_dump_json(), repr(time.time()), 3600, "{}"),
        )


def _passed(info: ModelInfo) -> Result:
    """What one picture comes to that was scored for every concept of a model and passed."""
    scored = [
        ConceptScore(
            name=name,
            category="bench",
            detector="clip-checker",
            detector_version="1",
            score=0.1,
            threshold=0.2,
            margin=-0.1,
            flagged=False,
        )
        for name in info.concepts
    ]
    picture = Picture(
        index=0,
        seed=7,
        verdict=Verdict.PASSED,
        sha256="0" * 64,
        width=info.native_width_px,
        height=info.native_height_px,
        concepts=tuple(scored),
    )
    safety = AppliedSafety(requested="filter", applied={}, policy=PolicyRef(id="default", version=1), model=info.name)
    return Result(status=Status.SUCCEEDED, safety=safety, images=(picture,))


@contextmanager
def _running(module: str, data: Path, redis_url: str) -> Iterator[_Process]:
    """A server's process on a free port of loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {"REDIS_URL": redis_url, "PORT": str(port), "SEEMLY_PORT": str(port), "SEEMLY_DATA": str(data)}
    limits = {"SEEMLY_QUEUE_LIMIT": "1000000", "SEEMLY_HOST": "127.0.0.1", "SEEMLY_LOG_LEVEL": "warning"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEEMLY_")} | own | limits
    process = subprocess.Popen([sys.executable, "-m", module], env=environment)  # noqa: S603 - our own modules
    try:
        _wait_until_up(process, port)
        yield _Process(("127.0.0.1", port), process.pid)
    finally:
        process.terminate()
        process.wait(15)


def _wait_until_up(process: "subprocess.Popen[bytes]", port: int) -> None:
    ends = time.monotonic() + UP_WITHIN_S
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("a server that is to be measured does not listen")


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\n"
    if body:
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


async def _ask(address: tuple[str, int], request: bytes, status: int, requests: int, connections: int) -> None:
    """The same request so often, over so many connections at a time."""
    shares = [len(range(start, requests, connections)) for start in range(connections)]
    await asyncio.gather(*(_ask_on_one(address, request, status, share) for share in shares))


async def _ask_on_one(address: tuple[str, int], request: bytes, status: int, requests: int) -> None:
    reader, writer = await asyncio.open_connection(*address)
    expected = f"HTTP/1.1 {status} ".encode()
    for _ in range(requests):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(_length(head))
        if not head.startswith(expected):
            raise RuntimeError(f"answered otherwise than {status}: {head!r} {body!r}")
    writer.close()


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0])


async def _opened(address: tuple[str, int], job_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A job's event stream, its snapshot read."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(_request("GET", f"/jobs/{job_id}/events"))
    async with asyncio.timeout(STREAMED_WITHIN_S):
        await reader.readuntil(b"event: queued")
    return reader, writer
