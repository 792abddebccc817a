"""Redis: it answers, keeps what it accepted, has room, and its clock is ours."""

import time
from typing import Any, Final

from redis.connection import parse_url
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from contract.redis_safety import unsafe_settings
from seemly.doctor.finding import Deployment, Findings, fault, ok, warning
from service.loopback import is_loopback

OLDEST_MAJOR: Final = 6
FULL_FROM: Final = 0.8  # of maxmemory
CLOCK_WITHIN_S: Final = 1.0  # leases last 60 s by default, and are compared across machines


def answers(deployment: Deployment) -> bool:
    """Whether there is anything to be asked."""
    try:
        return bool(deployment.redis.ping())
    except RedisError:
        return False


def check(deployment: Deployment) -> Findings:
    """Look at Redis."""
    try:
        told = {name: deployment.redis.info(name) for name in ("server", "memory", "persistence", "replication")}
        begun, seconds, ended = time.time(), deployment.redis.time(), time.time()
    except AuthenticationError:
        yield fault("redis", "Redis does not accept the password", "set REDIS_URL to redis://USER:PASSWORD@HOST:PORT/0")
        return
    except NoPermissionError as error:
        yield fault("redis", f"Redis lets this user not ask: {error}", "allow +info and +time in its ACL")
        return
    except RedisError as error:
        todo = "start Redis, or set REDIS_URL to where it runs and can be reached from here"
        yield fault("redis", f"Redis does not answer ({type(error).__name__})", todo)
        return
    found = [*_settings(told), *_health(told), *_access(deployment), *_bounds(deployment, told)]
    yield from found
    if not found:
        yield ok("redis", f"Redis {told['server']['redis_version']} evicts nothing and keeps an append-only file")
    apart_s = seconds[0] + seconds[1] / 1e6 - (begun + ended) / 2
    if abs(apart_s) > CLOCK_WITHIN_S + (ended - begun):
        todo = "synchronise both machines' clocks (NTP): leases and deadlines are compared across machines"
        yield fault("clock", f"Redis' clock is {apart_s:+.1f} s from this machine's", todo)
    else:
        yield ok("clock", f"Redis' clock is {apart_s:+.3f} s from this machine's")


def _settings(told: dict[str, Any]) -> Findings:
    for unsafe in unsafe_settings(told["memory"], told["persistence"]):
        what, _, todo = unsafe.partition(": ")
        yield fault("redis", what, todo)
    version = str(told["server"]["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_MAJOR:
        yield fault("redis", f"Redis {version} is too old", f"run Redis {OLDEST_MAJOR} or newer, or Valkey")


def _health(told: dict[str, Any]) -> Findings:
    if told["replication"].get("role") != "master":
        yield fault("redis", "REDIS_URL leads to a replica, which takes no jobs", "name the primary")
    if told["persistence"].get("aof_last_write_status", "ok") != "ok":
        yield fault("redis", "Redis could not write its append-only file", "look for a full or failing disk")
    most, used = told["memory"].get("maxmemory", 0), told["memory"]["used_memory"]
    if most and used > FULL_FROM * most:
        todo = "raise maxmemory, or lower SEEMLY_QUEUE_LIMIT and SEEMLY_RESULT_TTL_S"
        yield warning("redis", f"Redis is {100 * used / most:.0f} % full", todo)


def _bounds(deployment: Deployment, told: dict[str, Any]) -> Findings:
    if not told["memory"].get("maxmemory", 0) and not is_loopback(deployment.gateway.host):
        todo = "set maxmemory to what docs/operations.md (Sizing) says: full, Redis then refuses jobs"
        yield warning("redis", "Redis has no maxmemory: full of jobs, it takes its machine down", todo)


def _access(deployment: Deployment) -> Findings:
    place = parse_url(deployment.gateway.redis_url)  # type: ignore[no-untyped-call]
    if "host" in place and not is_loopback(place["host"]) and not place.get("password"):
        told = "Redis takes commands without a password from whoever can reach it"
        yield warning("redis", told, "give it users with passwords, as deploy/redis/start.sh does")
