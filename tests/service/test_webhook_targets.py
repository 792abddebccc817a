"""Where webhooks may not lead, however it is written, and whatever a name turns out to mean."""

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter
from redis import Redis

from contract.webhook_url import WebhookUrl
from service.webhooks.connecting import SystemResolver
from service.webhooks.sending import Answer, Sender
from service.webhooks.targets import Address, is_public, why_refused, why_unreachable
from tests.service.receiver import Receiver, receiving
from tests.service.test_bad_input import problem

URL: TypeAdapter[str] = TypeAdapter(WebhookUrl)
LOOPBACK = (ip_network("127.0.0.1/32"),)

NOT_PUBLIC = (
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),  # noqa: S104
    "168.63.129.16",
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1"),
    *("203.0.113.7", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
)
NOT_PUBLIC_V6 = (
    *("::", "::1", "100::1", "2001:db8::1", "2001:10::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254"),
    *("fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1"),
)
PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"),
    *("64:ff9b::8.8.8.8", "::ffff:8.8.8.8", "2002:808:808::1"),
)


def v6_forms(address: IPv4Address) -> Iterator[IPv6Address]:
    """IPv6 addresses that lead to an IPv4 address."""
    value = int(address)
    yield IPv6Address(f"::ffff:{address}")
    yield IPv6Address(f"::{address}")
    yield IPv6Address(f"::ffff:0:{address}")
    yield IPv6Address(f"64:ff9b::{address}")
    yield IPv6Address(f"64:ff9b:1::{address}")
    yield IPv6Address(0x2002 << 112 | value << 80 | 1)  # 6to4
    yield IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | (value ^ 0xFFFFFFFF))  # Teredo
    yield IPv6Address(0x2A001450 << 96 | 0x5EFE << 32 | value)  # ISATAP behind a public prefix
    yield IPv6Address(0x2A001450 << 96 | 0x02005EFE << 32 | value)


def hosts_of(address: IPv4Address) -> Iterator[str]:
    """Ways to write it."""
    value, parts = int(address), address.packed
    yield str(address)
    yield str(value)
    yield hex(value)
    yield f"0{value:o}"
    yield ".".join(f"0{part:o}" for part in parts)
    yield ".".join(f"0x{part:x}" for part in parts)
    yield f"{parts[0]}.{value & 0xFFFFFF}"
    yield f"{address}."
    yield "".join(f"%{ord(char):x}" for char in str(address))
    yield str(address).translate({ord(char): chr(ord(char) + 0xFEE0) for char in "0123456789"})
    for form in v6_forms(address):
        yield f"[{form}]"
        yield f"[{form.exploded}]"


HOSTILE = [
    *(f"https://{host}/hook" for text in NOT_PUBLIC for host in hosts_of(IPv4Address(text))),
    *(f"https://[{text}]/hook" for text in NOT_PUBLIC_V6),
    *("https://[fe80::1%25eth0]/", "https://[fe80::1%eth0]/", "https://[::ffff:127.0.0.1", "https://[v1.a]/"),
    *("http://app.example/hook", "http://1.1.1.1/", "HTTP://app.example/", "ftp://app.example/", "file:///etc/passwd"),
    *(
        "gopher://app.example/",
        "unix:///run/redis.sock",
        "javascript:alert(1)",
        "data:text/plain,x",
        "//app.example",
    ),
    *("app.example/hook", "https:app.example", "https:/app.example", "https:///app.example", "https://", "https:", ""),
    *("https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://a.localhost/", "https://redis:6379/"),
    *("https://metadata.google.internal/", "https://printer.local/", "https://nas.lan/", "https://x.home.arpa/"),
    *("https://user@app.example/", "https://user:password@app.example/", "https://@app.example/"),
    *("https://app.example@127.0.0.1/", "https://app.example%40127.0.0.1/", "https://app.example:80@127.0.0.1/"),
    *("https://127.0.0.1#@app.example/", "https://127.0.0.1\\@app.example/", "https://app.example\\.127.0.0.1/"),
    *("https://app.example/#fragment", "https://app.example/#", "https://app.example:0/", "https://app.example:65536/"),
    *("https://app.example:-1/", "https://app.example:x/", "https://app.example /", " https://app.example/"),
    *(
        "https://app.example/\r\nHost: 127.0.0.1",
        "https://app.example/\x00",
        "https://app.example/\t",
        "https://\nx.example/",
    ),
    *("https://a..example/", "https://.app.example/", "https://256.1.1.1/", "https://1.2.3.4.5/", "https://:443/"),
    *(
        "https://bücher.example/",
        "https://app。example/",
        f"https://app.example/{'a' * 2048}",
        "https://app.example/\ud800",
    ),
]


def why_not(url: str) -> str | None:
    try:
        return why_refused(URL.validate_python(url))
    except ValueError as error:
        return str(error)


def test_there_are_enough_of_them() -> None:
    assert len(set(HOSTILE)) >= 150


@pytest.mark.parametrize("start", range(0, len(HOSTILE), 40))
def test_hostile_addresses_are_refused(start: int) -> None:
    let_through = [url for url in HOSTILE[start : start + 40] if why_not(url) is None]
    assert let_through == []


def test_honest_addresses_are_taken_in_their_normal_form() -> None:
    for url in ("https://app.example/hooks?token=a%20b", "https://app.example:8443/", "https://xn--bcher-kva.example/"):
        assert why_not(url) is None
        assert URL.validate_python(url) == url
    assert URL.validate_python("https://APP.example") == "https://app.example/"
    for text in PUBLIC:
        assert why_not(f"https://{f'[{text}]' if ':' in text else text}/") is None


@pytest.mark.parametrize("is_plain", [True, False])
def test_no_form_of_a_private_address_can_be_reached(is_plain: bool) -> None:
    every: list[Address] = [*map(IPv6Address, NOT_PUBLIC_V6)]
    for address in map(IPv4Address, NOT_PUBLIC):
        every += [address, *v6_forms(address)]
    assert [address for address in every if why_unreachable(address, is_plain=is_plain, networks=()) is None] == []
    assert all(map(is_public, map(ip_address, PUBLIC)))
    assert why_unreachable(ip_address("1.1.1.1"), is_plain=is_plain, networks=()) == (
        "must begin with https://" if is_plain else None
    )


def test_named_networks_open_themselves_only() -> None:
    networks = (ip_network("10.1.0.0/16"),)
    for host in ("10.1.2.3", "[::ffff:10.1.2.3]", "[64:ff9b::10.1.2.3]", "receiver.default.svc"):
        assert why_refused(f"http://{host}/", networks) is None
    for host in ("10.2.0.1", "127.0.0.1", "[::ffff:10.2.0.1]", "1.1.1.1"):
        assert why_refused(f"http://{host}/", networks) is not None
    assert why_unreachable(ip_address("1.1.1.1"), is_plain=True, networks=networks) == "must begin with https://"


class Answers:
    """A resolver that gives one answer after the other, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        return [ip_address(text) for text in self._answers.pop(0)]


def post(resolve: Answers | SystemResolver, url: str, networks: Sequence[str] = ()) -> Answer:
    sender = Sender(resolve, [ip_network(text) for text in networks], timeout_s=10)
    return asyncio.run(sender.post(url, {"webhook-id": "msg_1"}, "{}"))


def test_names_that_resolve_to_private_addresses_are_refused() -> None:
    # one public address excuses none of the others
    answers = [answer for text in (*NOT_PUBLIC, *NOT_PUBLIC_V6) for answer in ([text], ["93.184.215.14", text])]
    sender = Sender(Answers(*answers, []), (), timeout_s=10)
    for answer in answers:
        refused = asyncio.run(sender.post("https://receiver.example/", {}, "{}"))
        assert refused.error == "the address must lead to a public address", answer
    assert asyncio.run(sender.post("https://receiver.example/", {}, "{}")).error == "the name leads to no address"


def test_a_name_is_resolved_once_and_what_it_means_later_changes_nothing() -> None:
    with receiving() as receiver:
        url = f"http://receiver.example:{receiver.port}/hook"
        resolve = Answers(["127.0.0.1"], ["127.0.0.2"])
        assert post(resolve, url, ["127.0.0.1/32"]).has_arrived
        assert resolve.asked == 1
        assert receiver.received[0].headers["Host"] == f"receiver.example:{receiver.port}"
        assert post(resolve, url, ["127.0.0.1/32"]).error == "the address must lead to a public address"
        assert len(receiver.received) == 1


def test_redirects_and_proxies_are_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def redirect(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        request.send_response(307)
        request.send_header("Location", f"http://127.0.0.1:{receiver.port}/elsewhere")
        request.end_headers()

    with receiving(redirect) as receiver, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        answer = post(Answers(["127.0.0.1"]), f"http://127.0.0.1:{receiver.port}/hook", ["127.0.0.1/32"])
        assert (answer.status, answer.error) == (307, "redirects are not followed")
        assert [request.path for request in receiver.received] == ["/hook"]
        assert proxy.received == []


@pytest.mark.parametrize(
    ("said", "again", "error"),
    [
        (b"", b"", "no answer within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: a\r\n", "no answer within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 60_000 + b"\r\n", "the connection broke before an answer"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "no answer within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b"a" * 60_000, None),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"", "the connection broke before an answer"),
    ],
)
def test_hostile_receivers_take_no_more_than_their_time(said: bytes, again: bytes, error: str | None) -> None:
    def keep_saying(line: socket.socket) -> None:
        with line, suppress(OSError):
            line.sendall(said)
            while again:
                line.sendall(again)
                time.sleep(0.01)
            while line.recv(1 << 16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=lambda: keep_saying(server.accept()[0]))
        answering.start()
        sender = Sender(Answers(["127.0.0.1"]), LOOPBACK, timeout_s=0.5)
        begun = time.monotonic()
        answer = asyncio.run(sender.post(f"http://127.0.0.1:{server.getsockname()[1]}/", {}, "{}"))
        answering.join(10)
    assert (answer.error, answer.has_arrived) == (error, error is None)
    assert time.monotonic() - begun < 3


def test_tls_names_and_verifies_the_receivers_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=receiver.example", "-addext", "subjectAltName=DNS:receiver.example"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *words, *names, *files], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    with receiving(tls=context) as receiver:
        address = f"receiver.example:{receiver.port}"
        assert post(Answers(["127.0.0.1"]), f"https://{address}/", ["127.0.0.1/32"]).has_arrived
        assert (asked, receiver.received[0].headers["Host"]) == (["receiver.example"], address)
        other = post(Answers(["127.0.0.1"]), f"https://other.example:{receiver.port}/", ["127.0.0.1/32"])
        assert str(other.error).startswith("the certificate is not valid")
        monkeypatch.delenv("SSL_CERT_FILE")
        assert str(post(Answers(["127.0.0.1"]), f"https://{address}/", ["127.0.0.1/32"]).error).startswith("the cert")
        assert len(receiver.received) == 1


def test_the_machines_own_resolver_is_asked() -> None:
    with receiving() as receiver:
        resolve = SystemResolver(1)
        assert post(resolve, f"http://localhost:{receiver.port}/", ["127.0.0.0/8", "::1/128"]).has_arrived
        assert post(resolve, f"https://{'a' * 64}.example/").error == "the name leads to no address"
        resolve.close()


def test_the_gateway_refuses_them_by_name(http: httpx.Client, redis: "Redis") -> None:
    for url in (*HOSTILE[:40:3], "http://app.example/", "https://app.example/#x", "https://localhost/"):
        for path, body in (("/generate", {}), ("/compare", {"plans": ["none", "filter"]})):
            answer = http.post(path, json={"prompt": "a harbour", "webhook_url": url, **body})
            assert answer.status_code == 422, url
            assert [error["field"] for error in problem(answer)["errors"]] == ["webhook_url"]
    assert redis.keys("rq:*") == []
