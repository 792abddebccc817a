"""What the gateway and the delivery of webhooks stand on: the store, keys and their pepper, the policy, receivers."""

import asyncio
import shutil
import socket
import time
from pathlib import Path
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from contract import keys
from contract.store import StoreUnusable, open_store, try_reading, try_writing
from contract.tracing import Tracing, TracingUnavailable
from seemly.doctor.finding import Deployment, Findings, Process, fault, ok, skipped, warning
from service.api_keys import NoPepper, Pepper
from service.loopback import is_loopback
from service.policy import load_policy
from service.provenance import anchors_in

LEAST_FREE_BYTES: Final = 1 << 30
OVERDUE_S: Final = 120.0  # beyond when a delivery is due, or its lease ends


def check_store(deployment: Deployment) -> Findings:
    """Look at the stores of pictures: a worker lists, reads, writes and deletes, a gateway lists and reads."""
    own = deployment.gateway.withheld_url
    for url in (deployment.gateway.pictures_url, *([own] if own else [])):
        yield from _store(deployment, url)


def _store(deployment: Deployment, url: str) -> Findings:
    shown = urlsplit(url)._replace(query="").geturl()
    try:
        store = open_store(url)
        asyncio.run(try_reading(store))
        if deployment.is_worker_here:
            try_writing(store)
    except StoreUnusable as error:
        yield fault(
            "storage", f"{shown}: {error}", "mend that; SEEMLY_STORE_URL and SEEMLY_WITHHELD_URL say where pictures lie"
        )
        return
    except Exception as error:  # noqa: BLE001 - obstore's many ways to refuse an address
        yield fault(
            "storage",
            f"{shown}: {str(error).partition(chr(10))[0]}",
            "set SEEMLY_STORE_URL and SEEMLY_WITHHELD_URL to stores",
        )
        return
    if not url.startswith("file:"):
        yield ok("storage", f"{shown} can be used")
        return
    free = shutil.disk_usage(Path(unquote(urlsplit(url).path))).free
    if free < LEAST_FREE_BYTES:
        yield warning("storage", f"{shown} has {free / 1e9:.2f} GB left", "make room, or move pictures to a bucket")
    else:
        yield ok(
            "storage", f"{shown} can be used, {free / 1e9:.0f} GB are free; for more than one machine take a bucket"
        )


def check_anchors(deployment: Deployment) -> Findings:
    """Look at the authorities whose manifests are trusted."""
    file = deployment.gateway.provenance_anchors
    if file is None or not deployment.has(Process.GATEWAY):
        return
    try:
        anchors_in(file)
    except (OSError, ValueError) as error:
        told = f"SEEMLY_PROVENANCE_ANCHORS: {error}"
        yield fault("provenance", told, "name a file of certificates in PEM, or unset it; the gateway does not start")
    else:
        yield ok("provenance", f"{file} holds the authorities that are trusted")


def check_traces(deployment: Deployment) -> Findings:
    """Look whether traces can be sent, where they are to be."""
    url = deployment.gateway.otlp_url
    if url is None:
        return
    try:
        Tracing.open(url, "doctor").close()
    except TracingUnavailable as error:
        yield fault("traces", str(error), "install it, or unset SEEMLY_OTLP_URL; with it, nothing starts")
        return
    place = urlsplit(url)
    try:
        address = place.hostname, place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection(address, timeout=2).close()
    except (OSError, ValueError) as error:
        told = f"SEEMLY_OTLP_URL={url} does not answer ({type(error).__name__}), so traces are lost"
        yield warning("traces", told, "start a collector there, or unset it")
    else:
        yield ok("traces", f"{url} answers")


def check_policy(deployment: Deployment) -> Findings:
    """Look at the policy: what others can reach should have a floor."""
    if not deployment.has(Process.GATEWAY):
        yield skipped("policy", "the gateway's own; look there")
        return
    try:
        policy = load_policy(deployment.gateway.policy)
    except (OSError, ValueError) as error:
        yield fault("policy", str(error), "set SEEMLY_POLICY to a shipped one, or mend the file")
        return
    has_floor = policy.floor.methods or deployment.gateway.floor.methods
    if not has_floor and not is_loopback(deployment.gateway.host):
        told = f"{policy.id!r} has no floor: every request may ask for unfiltered pictures"
        yield warning("policy", told, "set SEEMLY_POLICY=production, or SEEMLY_FLOOR=filter")
    else:
        yield ok("policy", f"{policy.id!r}, version {policy.version}")


def check_keys(deployment: Deployment) -> Findings:
    """Look at API keys and the pepper under which they and signing secrets are kept."""
    settings = deployment.gateway
    if not (deployment.has(Process.GATEWAY) or deployment.has(Process.WEBHOOKS)):
        yield skipped("keys", "a worker has no pepper and needs none")
        return
    has_keys = bool(deployment.redis.exists(keys.API_KEYS))
    if not has_keys and not is_loopback(settings.host):
        yield fault("keys", "there are no API keys, so the gateway does not start", "seemly keys create TENANT")
    if not has_keys and not deployment.redis.exists(keys.SIGNING_SECRETS):
        yield ok("keys", "no keys and no signing secrets: this machine only is served")
        return
    try:
        Pepper.read(settings.pepper.get_secret_value() if settings.pepper else None, settings.pepper_path)
    except NoPepper as error:
        todo = "bring it back from where the keys were made (SEEMLY_PEPPER, SEEMLY_PEPPER_FILE), or make new keys"
        yield fault("keys", f"no key can be checked: {error}", todo)
        return
    if settings.pepper is None and settings.pepper_path.stat().st_mode & 0o007:
        yield warning("keys", f"everyone may read {settings.pepper_path}", f"chmod 600 {settings.pepper_path}")
    else:
        yield ok("keys", "keys and signing secrets can be checked")


def check_webhooks(deployment: Deployment) -> Findings:
    """Look whether webhooks leave, and whether receivers take them."""
    redis, found = deployment.redis, False
    tenants = cast("set[str]", redis.smembers(keys.DELIVERING_TENANTS))
    firsts = [redis.zrange(keys.due_deliveries_key(one), 0, 0, withscores=True) for one in sorted(tenants)]
    due = [score for first in firsts for _, score in cast("list[tuple[str, float]]", first)]
    late_s = time.time() - min(due, default=time.time())
    if late_s > OVERDUE_S:
        found = True
        told = f"webhooks have been due for {late_s:.0f} s, so no process delivers them"
        yield fault("webhooks", told, "start one: seemly webhooks deliver")
    if dead := redis.zcard(keys.DEAD_DELIVERIES):
        found = True
        todo = "seemly webhooks list --state dead tells why; seemly webhooks replay sends them again"
        yield warning("webhooks", f"{dead} webhooks were given up", todo)
    if (
        redis.exists(keys.SIGNING_SECRETS)
        and deployment.has(Process.WEBHOOKS)
        and deployment.delivery.public_url is None
    ):
        found = True
        told = "messages will hold addresses without a host"
        yield warning("webhooks", told, "set SEEMLY_PUBLIC_URL to where users reach the gateway")
    if not found:
        yield ok("webhooks", "none is overdue, none was given up")
