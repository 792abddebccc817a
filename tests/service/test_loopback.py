"""Who may talk to a gateway without keys: programs of this machine and pages served from it, no page from elsewhere."""

import shutil
import subprocess

import httpx
import pytest
from redis import Redis

from tests.service import parts
from tests.service.test_bad_input import problem

BODY = b'{"prompt": "a knife", "safety": "filter"}'
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_curl_with_nothing_but_a_body_is_understood(http: httpx.Client) -> None:
    command = [
        "curl",
        "-s",
        "-H",
        "Prefer: wait=1",
        "-d",
        BODY.decode(),
        "-w",
        "%{http_code}",
        f"{http.base_url}/generate",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("202"), answer.stdout


@pytest.mark.parametrize("charset", ["", "; charset=utf-8"])
def test_a_program_may_leave_curls_own_content_type(http: httpx.Client, charset: str) -> None:
    headers = {"Content-Type": FORM["Content-Type"] + charset}
    assert http.post("/generate", content=BODY, headers=headers).status_code == 202


@pytest.mark.parametrize("said", [{"Origin": "http://localhost:3000"}, {"Sec-Fetch-Site": "cross-site"}])
def test_a_browser_has_to_say_json(http: httpx.Client, redis: "Redis", said: dict[str, str]) -> None:
    before = parts.redis_keys(redis)
    answer = http.post("/generate", content=BODY, headers=FORM | said)
    assert (answer.status_code, problem(answer)["code"]) == (415, "unsupported_media_type")
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:5173", "https://127.0.0.1:8000", "http://127.9.9.9", "http://[::1]:1"],
)
def test_a_page_of_this_machine_is_served(http: httpx.Client, origin: str) -> None:
    assert http.post("/generate", content=BODY, headers=JSON | {"Origin": origin}).status_code == 202


@pytest.mark.parametrize(
    "origin",
    ["https://example.org", "null", "http://localhost.example.org", "http://127.0.0.1.example.org:80", "file://"],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_page_from_elsewhere_is_refused(http: httpx.Client, redis: "Redis", origin: str, method: str) -> None:
    before = parts.redis_keys(redis)
    path, content = ("/generate", BODY) if method == "POST" else ("/models", None)
    answer = http.request(method, path, content=content, headers=JSON | {"Origin": origin})
    assert (answer.status_code, problem(answer)["code"]) == (403, "foreign_origin")
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:8000", "localhost.example.org", "10.0.0.1", "[::2]:80", ""]
)
def test_another_machines_name_is_refused(http: httpx.Client, redis: "Redis", host: str) -> None:
    before = parts.redis_keys(redis)
    for method, path in (("POST", "/generate"), ("GET", "/models")):
        answer = http.request(method, path, headers=JSON | {"Host": host})
        assert (answer.status_code, problem(answer)["code"]) == (421, "foreign_host")
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_this_machines_names_are_served(http: httpx.Client, host: str) -> None:
    assert http.get("/models", headers={"Host": host}).status_code == 200
