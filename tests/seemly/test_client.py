"""The client against a real gateway; the test itself does a worker's writes."""

import asyncio
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.compare import CompareRequest
from contract.listing import Models
from contract.moderation import ModerateRequest
from contract.request import GenerateRequest
from contract.result import Status
from contract.verdict import Verdict
from seemly.client import AsyncClient, Client
from seemly.errors import Busy, Invalid, NotFound, Refused, TimedOut, Unintelligible, Unreachable
from seemly.events import Event, EventReader
from seemly.exchange import Exchanges
from tests.service import parts
from tests.service.conftest import GatewayProcess

REQUEST = GenerateRequest(prompt="a midnight harbour", num_images=2, seed=41)


@pytest.fixture
def client(gateway: GatewayProcess, redis: Redis) -> Iterator[Client]:
    with Client(gateway.url) as talking:
        yield talking


def work(gateway: GatewayProcess, redis: Redis, job_id: str) -> None:
    """What a worker does: takes the job, moves on, passes the first picture and blocks the second."""
    attempt, job = parts.take(redis, job_id)
    parts.report_progress(redis, job_id, 10, 50)
    time.sleep(0.1)
    parts.report_progress(redis, job_id, 50, 50)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    blocked = parts.picture(job, 1, Verdict.BLOCKED, concepts=(parts.score(0.4),), reasons=("a weapon",))
    parts.commit(redis, job_id, attempt, parts.result(job, Status.PARTIAL, parts.picture(job, 0), blocked))


def test_a_job_from_request_to_pictures(client: Client, gateway: GatewayProcess, redis: Redis) -> None:
    submitted = client.generate(REQUEST)
    assert submitted.status is Status.QUEUED
    seen: list[Event] = []
    with ThreadPoolExecutor() as pool:
        worker = pool.submit(work, gateway, redis, submitted.id)
        finished = client.wait(submitted.id, timeout_s=20, on_event=seen.append)
        worker.result()
    assert finished.status is Status.PARTIAL
    assert [picture.seed for picture in finished.images] == [41, 42]
    assert client.image(finished.id, 0) == parts.PNG
    assert seen[0].type == "snapshot"
    assert seen[-1].type == "finished"
    assert [event.data["step"] for event in seen if event.type == "progress"] == [10, 50]
    with pytest.raises(NotFound) as refused:
        client.image(finished.id, 1)
    assert refused.value.code == "picture_withheld"


def test_the_same_from_asyncio(gateway: GatewayProcess, redis: Redis) -> None:
    async def converse() -> None:
        async with AsyncClient(gateway.url) as client:
            submitted = await client.generate(REQUEST)
            worker = asyncio.create_task(asyncio.to_thread(work, gateway, redis, submitted.id))
            seen: list[Event] = []
            finished = await client.wait(submitted.id, timeout_s=20, on_event=seen.append)
            await worker
            assert finished == await client.job(submitted.id)
            assert finished.status is Status.PARTIAL
            assert seen[-1].is_last
            assert await client.image(finished.id, 0) == parts.PNG
            assert (await client.models()).models[0].name == parts.MODEL
            assert (await client.methods()).methods
            with pytest.raises(NotFound):
                await client.cancel("0" * 32)

    asyncio.run(converse())


COMPARE = CompareRequest(prompt="a midnight harbour", plans=("none", "filter"), labels=("plain", "filtered"))


def test_a_compare_from_threads(client: Client, gateway: GatewayProcess, redis: Redis) -> None:
    submitted = client.compare(COMPARE)
    attempt, job = parts.take(redis, submitted.id)
    assert [plan.label for plan in job.compared] == ["plain", "filtered"]
    with pytest.raises(NotFound) as refused:
        client.contact_sheet(submitted.id)
    assert refused.value.code == "picture_not_ready"
    blocked = parts.picture(job, 1, Verdict.BLOCKED, concepts=(parts.score(0.4),))
    unreadable = parts.picture(job, 0, Verdict.ERROR)
    parts.commit(redis, submitted.id, attempt, parts.result(job, Status.BLOCKED, unreadable, blocked))
    assert client.contact_sheet(submitted.id).startswith(b"\x89PNG")


def test_a_compare_from_asyncio(gateway: GatewayProcess, redis: Redis) -> None:
    async def converse() -> None:
        async with AsyncClient(gateway.url) as client:
            submitted = await client.compare(COMPARE)
            assert submitted.status is Status.QUEUED
            assert (await client.cancel(submitted.id)).status is Status.CANCELED
            with pytest.raises(NotFound):
                await client.contact_sheet(submitted.id)

    asyncio.run(converse())


def test_a_prompt_alone_is_a_request(client: Client) -> None:
    assert client.generate("a cat").status is Status.QUEUED


def test_waiting_for_a_finished_job_returns_at_once(client: Client) -> None:
    job = client.generate(REQUEST)
    assert client.cancel(job.id).status is Status.CANCELED
    assert client.wait(job.id, timeout_s=5).status is Status.CANCELED
    with pytest.raises(Refused) as refused:
        client.cancel(job.id)
    assert refused.value.status == 409


def test_a_job_that_takes_longer_than_its_caller_waits(client: Client) -> None:
    job = client.generate(REQUEST)
    began = time.monotonic()
    with pytest.raises(TimedOut, match=job.id):
        client.wait(job.id, timeout_s=0.5)
    assert time.monotonic() - began < 3
    assert client.job(job.id).status is Status.QUEUED


def test_a_refused_request_names_its_fields(client: Client) -> None:
    with pytest.raises(Invalid) as refused:
        client.generate(GenerateRequest(prompt="a cat", width=33))
    assert refused.value.code == "invalid_request"
    assert refused.value.request_id
    assert refused.value.errors[0].field == "width"


def test_what_can_be_asked_for(client: Client) -> None:
    assert client.models().default == parts.MODEL
    assert "sld" in [method.name for method in client.methods().methods]
    assert [(variant.model, variant.name) for variant in client.variants().variants] == [(parts.MODEL, "sdd-weapons")]


def test_jobs_are_listed_page_by_page(client: Client, gateway: GatewayProcess, redis: Redis) -> None:
    first, *later = [client.generate(f"harbour {number}").id for number in range(5)]
    attempt, job = parts.take(redis, first)
    parts.commit(redis, first, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    assert [job.id for job in client.jobs(page_size=2)] == [*reversed(later), first]
    assert [job.id for job in client.jobs([Status.SUCCEEDED, Status.PARTIAL], parts.MODEL)] == [first]
    accepted_at = client.job(later[2]).created_at
    assert [job.id for job in client.jobs(since=accepted_at)] == [later[3], later[2]]
    assert list(client.jobs(model="another")) == []
    page = client.job_page(limit=2)
    assert ([job.id for job in page.jobs], page.jobs[0].pictures) == ([later[3], later[2]], 1)
    assert page.next_cursor
    with pytest.raises(Invalid) as refused:
        client.job_page(cursor="nonsense")
    assert refused.value.errors[0].field == "cursor"

    async def listed() -> list[str]:
        async with AsyncClient(gateway.url) as own:
            return [job.id async for job in own.jobs(Status.QUEUED, page_size=3)]

    assert asyncio.run(listed()) == [*reversed(later)]


def test_a_block_is_appealed_and_a_job_made_again_once(client: Client, gateway: GatewayProcess, redis: Redis) -> None:
    job_id = client.generate(REQUEST).id
    work(gateway, redis, job_id)
    appealed = client.appeal(job_id, "a carnival mask", index=1)
    assert (appealed.job_id, appealed.index, appealed.job_status) == (job_id, 1, Status.PARTIAL)
    with pytest.raises(Refused) as refused:
        client.appeal(job_id, "please", index=1)
    assert refused.value.code == "not_appealable"
    again = client.reproduce(job_id, idempotency_key="again")
    assert again.status is Status.QUEUED
    assert client.reproduce(job_id, idempotency_key="again").id == again.id != job_id


def test_what_cannot_be_moved_is_told(client: Client) -> None:
    with pytest.raises(NotFound) as refused:
        client.promote("nobodys", force="to see what happens")
    assert refused.value.code == "variant_not_found"
    with pytest.raises(NotFound):
        client.retire("nobodys", "it is none")


def test_links_are_given_where_asked(client: Client, gateway: GatewayProcess, redis: Redis) -> None:
    job_id = client.generate("a harbour").id
    attempt, job = parts.take(redis, job_id)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    assert client.job(job_id).images[0].signed_url is None
    link = client.job(job_id, links_for_s=60).images[0].signed_url
    assert link is not None
    assert httpx.get(link).content == parts.PNG


def test_both_clients_have_every_call() -> None:
    def calls(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert calls(Client) == calls(AsyncClient)
    assert {name for name in vars(Exchanges) if not name.startswith("_")} <= calls(Client)
    assert Client.job.__doc__ == AsyncClient.job.__doc__ == Exchanges.job.__doc__


def test_every_route_of_the_contract_has_its_call(gateway: GatewayProcess) -> None:
    asked: list[tuple[str, str]] = []

    def note(request: httpx.Request) -> httpx.Response:
        asked.append(
            (
                request.method.lower(),
                request.url.path.replace(f"msg_{'0' * 32}", "{delivery_id}")
                .replace(f"/moderate/{'0' * 32}", "/moderate/{moderation_id}")
                .replace("0" * 32, "{job_id}")
                .replace("/0", "/{index}")
                .replace("sdd-weapons", "{name}"),
            )
        )
        return httpx.Response(404, json={"code": "noted", "title": "Not found"})

    with Client("http://service.example", transport=httpx.MockTransport(note)) as client:
        job_id = "0" * 32
        calls: list[Callable[[], object]] = [
            lambda: client.generate("a cat"),
            lambda: client.compare(CompareRequest(prompt="a cat", plans=("none", "filter"))),
            lambda: client.job(job_id),
            lambda: client.cancel(job_id),
            lambda: client.reproduce(job_id),
            lambda: client.appeal(job_id, "a carnival mask"),
            lambda: client.moderate(ModerateRequest(texts=("a cat",))),
            lambda: client.moderation(job_id),
            lambda: client.appeal_moderation(job_id, "our own logo"),
            lambda: list(client.jobs()),
            lambda: list(client.events(job_id)),
            lambda: client.image(job_id, 0),
            lambda: client.explanation(job_id),
            lambda: client.contact_sheet(job_id),
            client.delivery_page,
            lambda: client.delivery(f"msg_{job_id}"),
            lambda: client.replay(f"msg_{job_id}"),
            client.models,
            client.variants,
            lambda: client.promote("sdd-weapons"),
            lambda: client.retire("sdd-weapons", "replaced"),
            client.methods,
        ]
        for call in calls:
            with pytest.raises(NotFound):
                call()
    served = httpx.get(f"{gateway.url}/openapi.json").json()["paths"]
    of_pictures = ("/generate", "/compare", "/jobs", "/moderate", "/webhooks", "/models", "/variants", "/safety")
    routes = {(method, path) for path, methods in served.items() if path.startswith(of_pictures) for method in methods}
    assert routes - {("delete", "/jobs/{job_id}")} == set(asked)  # it cancels as its POST does


def test_no_service_is_told_as_such() -> None:
    with Client("http://127.0.0.1:1", retries=1) as client, pytest.raises(Unreachable, match="no answer from"):
        client.models()
    with Client("localhost:8000") as client, pytest.raises(Unreachable, match="begins with http://"):
        client.models()


class Answers(http.server.BaseHTTPRequestHandler):
    """Gives the answers of its server's script, one a request, and notes when each was asked for."""

    def do_GET(self) -> None:
        self.server.asked_at.append(time.monotonic())  # type: ignore[attr-defined]
        self.server.keys.append(self.headers["idempotency-key"])  # type: ignore[attr-defined]
        status, headers, body = self.server.script.pop(0)  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the base class's way

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextmanager
def server_saying(*script: tuple[int, dict[str, str], bytes]) -> Iterator[http.server.HTTPServer]:
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        server.script, server.asked_at, server.keys = list(script), [], []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def url_of(server: http.server.HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


BUSY = b'{"type": "about:blank", "title": "Busy", "status": 503, "code": "queue_full", "detail": "Full."}'


def test_retry_after_is_respected() -> None:
    busy = (503, {"retry-after": "1"}, BUSY)
    with (
        server_saying(busy, busy, (200, {}, b'{"default": null, "models": []}')) as server,
        Client(url_of(server)) as client,
    ):
        assert client.models() == Models(default=None, models=[])
        first, second, third = server.asked_at  # type: ignore[attr-defined]
        assert second - first >= 1
        assert third - second >= 1


def test_a_service_that_stays_busy_is_told_with_its_own_words() -> None:
    busy = (503, {"retry-after": "0"}, BUSY)
    with (
        server_saying(busy, busy) as server,
        Client(url_of(server), retries=1) as client,
        pytest.raises(Refused) as refused,
    ):
        client.models()
    assert (refused.value.status, refused.value.code, refused.value.detail) == (503, "queue_full", "Full.")


@pytest.mark.parametrize("code", ["queue_full", "redis_unavailable"])
def test_a_job_is_sent_again_under_the_same_key(code: str) -> None:
    busy = (503, {"retry-after": "0.1"}, BUSY.replace(b"queue_full", code.encode()))
    with (
        server_saying(busy, busy) as server,
        Client(url_of(server), retries=1) as client,
        pytest.raises(Refused) as refused,
    ):
        client.generate("a cat")
    assert refused.value.code == code
    first, second = server.keys  # type: ignore[attr-defined]
    assert first == second
    assert len(first) == 36


def test_a_job_whose_answer_was_lost_is_made_once(gateway: GatewayProcess, redis: Redis) -> None:
    class Losing(httpx.HTTPTransport):
        lost = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if Losing.lost < 2:
                Losing.lost += 1
                response.close()
                raise httpx.ReadError("the line broke", request=request)
            return response

    with Client(gateway.url, transport=Losing()) as client:
        job = client.generate("a cat")
    assert Losing.lost == 2
    assert redis.zrange(keys.ACCEPTED, 0, -1) == [job.id]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_before_loopback(
    gateway: GatewayProcess, redis: Redis, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    url = gateway.url.replace("127.0.0.1", host)
    with Client(url, retries=0) as client:
        assert client.models().default == parts.MODEL
    with Client("http://service.example:8000", retries=0) as client, pytest.raises(Unreachable):
        client.models()

    async def ask() -> str:
        async with AsyncClient(url, retries=0) as client:
            return str((await client.models()).default)

    assert asyncio.run(ask()) == parts.MODEL


def test_a_longer_wait_than_anyone_has_is_left_to_the_caller() -> None:
    busy = (429, {"retry-after": "3600"}, BUSY)
    with server_saying(busy) as server, Client(url_of(server)) as client, pytest.raises(Refused) as refused:
        client.models()
    assert refused.value.retry_after_s == 3600  # type: ignore[attr-defined]


def test_a_stream_waits_as_long_as_the_service_asks() -> None:
    busy, longer = (429, {"retry-after": "1"}, BUSY), (429, {"retry-after": "3600"}, BUSY)
    told = (200, {"content-type": "text/event-stream"}, b'event: finished\ndata: {"status": "succeeded"}\n\n')
    with server_saying(busy, told, longer) as server, Client(url_of(server)) as client:
        assert [event.type for event in client.events("x", timeout_s=20)] == ["finished"]
        assert server.asked_at[1] - server.asked_at[0] >= 1  # type: ignore[attr-defined]
        with pytest.raises(Busy) as refused:
            list(client.events("x", timeout_s=20))
    assert refused.value.retry_after_s == 3600
    with (
        server_saying(*[(429, {"retry-after": "0.1"}, BUSY)] * 6) as server,
        Client(url_of(server)) as client,
        pytest.raises(Busy),
    ):
        list(client.events("x", timeout_s=20))


def test_another_servers_answer_is_not_taken_for_the_services() -> None:
    page = (404, {"content-type": "text/html"}, b"<h1>nginx</h1>")
    job = (200, {"content-type": "application/json"}, b'{"id": "x"}')
    with server_saying(page, job) as server, Client(url_of(server)) as client:
        with pytest.raises(Unintelligible, match="text/html"):
            client.models()
        with pytest.raises(Unintelligible, match="is the URL right"):
            client.job("x")


def test_a_broken_stream_is_taken_up_after_the_last_event() -> None:
    first = b'id: 1-0\nevent: progress\ndata: {"step": 1, "steps": 2}\n\n'
    rest = b': ping\n\nid: 2-0\nevent: finished\ndata: {"status":\ndata: "succeeded"}\n\n'
    stream = {"content-type": "text/event-stream"}
    with server_saying((200, stream, first), (200, stream, rest)) as server, Client(url_of(server)) as client:
        seen = list(client.events("x", timeout_s=10))
    assert [(event.id, event.type) for event in seen] == [("1-0", "progress"), ("2-0", "finished")]
    assert seen[1].data == {"status": "succeeded"}


def test_a_stream_that_never_says_anything_is_given_up() -> None:
    silent = (200, {"content-type": "text/event-stream"}, b"")
    with (
        server_saying(*[silent] * 6) as server,
        Client(url_of(server)) as client,
        pytest.raises(Unreachable, match="6 times in a row"),
    ):
        list(client.events("x", timeout_s=60))


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_lines_of_the_stream_make_events(ending: str) -> None:
    reader = EventReader()
    lines = ["event: started", "id: 5-1", 'data: {"attempt": 1}', "", ": a ping", "", "data:{}", ""]
    events = [event for line in lines if (event := reader.feed(line + ending))]
    assert events == [Event("started", {"attempt": 1}, "5-1"), Event("message", {}, "5-1")]
