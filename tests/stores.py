"""The stores that tests of pictures run on: a folder, and a bucket of a server that speaks S3 on loopback.

The server is moto's, as a process of its own. It checks every signature and every policy as S3 does.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import from_url

REGION = "us-east-1"
BUCKET = "pictures"
UP_WITHIN_S = 60.0


@dataclass(frozen=True)
class Place:
    """A store, and the environment in which it can be reached."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def put(self, key: str, content: bytes) -> None:
        """Store a file."""
        obstore.put(self._store, key, content)

    def read(self, key: str) -> bytes:
        """A stored file."""
        return bytes(obstore.get(self._store, key).bytes())

    def found(self) -> set[str]:
        """What lies in it."""
        return {one["path"] for listed in obstore.list(self._store) for one in listed}

    @property
    def _store(self) -> obstore.store.ObjectStore:
        if not self.environment:
            return from_url(self.url, mkdir=True)
        return from_url(
            self.url,
            access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
            endpoint=self.environment["AWS_ENDPOINT_URL"],
            region=REGION,
            client_options={"allow_http": True},
        )


@dataclass(frozen=True)
class S3Server:
    """A server with one bucket, an owner who may do everything with it, and a reader."""

    url: str
    process: "subprocess.Popen[bytes]"
    owner: tuple[str, str]  # access key and its secret
    reader: tuple[str, str]

    def environment(self, key: str | None = None, secret: str | None = None) -> dict[str, str]:
        """What a process needs to come in as its owner, or with another key or secret."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": key or self.owner[0],
            "AWS_SECRET_ACCESS_KEY": secret or self.owner[1],
        }

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Connections are taken, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_s3(log: Path) -> Iterator[S3Server]:
    """Start the server on a free port of loopback, and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={"PATH": os.environ["PATH"]})
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as http:
            _wait_until_up(http, process, log)
            owner = _user(http, "owner", "s3:*")
            reader = _user(http, "reader", "s3:Get*", "s3:List*")
            http.put(f"/{BUCKET}").raise_for_status()
            http.post("/moto-api/reset-auth", content=b"0").raise_for_status()  # from now on signatures count
        yield S3Server(url, process, owner, reader)
    finally:
        process.kill()
        process.wait()


def _wait_until_up(http: httpx.Client, process: "subprocess.Popen[bytes]", log: Path) -> None:
    ends = time.monotonic() + UP_WITHIN_S
    while True:
        try:
            http.get("/moto-api/")
            return
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            time.sleep(0.05)


def _user(http: httpx.Client, name: str, *actions: str) -> tuple[str, str]:
    """Access key and secret of a new user who may do this."""
    scope = f"AWS4-HMAC-SHA256 Credential=root/20260101/{REGION}/iam/aws4_request, SignedHeaders=host, Signature=0"

    def call(action: str, **more: str) -> str:
        form = {"Version": "2010-05-08", "Action": action, "UserName": name, **more}
        return http.post("/", data=form, headers={"Authorization": scope}).raise_for_status().text

    allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    call("CreateUser")
    call("PutUserPolicy", PolicyName="tests", PolicyDocument=json.dumps(allowed))
    told = call("CreateAccessKey")
    key, secret = (re.search(f"<{part}>(.+?)<", told) for part in ("AccessKeyId", "SecretAccessKey"))
    assert key
    assert secret
    return key[1], secret[1]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that speaks S3."""
    with running_s3(tmp_path_factory.mktemp("s3") / "s3.log") as server:
        yield server


@pytest.fixture(scope="session", params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A store of either kind, which this process and those it starts can reach."""
    if request.param == "folder":
        yield Place(f"file://{tmp_path_factory.mktemp('store')}")
        return
    environment = request.getfixturevalue("s3").environment()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield Place(f"s3://{BUCKET}/of/seemly", environment)
