"""A value that cannot be used is refused at the start, by the name of its setting: every setting of every process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from contract.wording import settings_wording
from lab import worker as lab
from seemly.doctor.settings import KINDS, variables
from service import main as gateway
from service.webhooks import main as webhooks
from tests.redis_server import running_redis
from tests.service import parts
from workers import main as worker

NONSENSE = "no sense: | ?"
NOT_NULL = {"webhook_networks": "10.0.0.0/99", "limit_requests": "many", "floor": "sld:none-such"}
DELIVERY, WORKER = KINDS["webhooks"], KINDS["worker"]


def of_gateway(_: Path) -> None:
    gateway.main()


def of_webhooks(_: Path) -> None:
    webhooks.main()


def of_worker(folder: Path) -> None:
    settings = WORKER()
    worker.check_places(settings)  # type: ignore[arg-type]
    worker.signature_of(settings)  # type: ignore[arg-type]
    worker.prepare(settings)  # type: ignore[arg-type]


def of_lab(_: Path) -> None:
    lab.main()


SIGNED = {"SEEMLY_PROVENANCE": "signed", "SEEMLY_PROVENANCE_CERTIFICATE": __file__, "SEEMLY_PROVENANCE_KEY": __file__}
METRICS, HEALTH = {"SEEMLY_METRICS_PORT": "1"}, {"SEEMLY_HEALTH_PORT": "1"}
HOOKS = {"SEEMLY_WEBHOOK_METRICS_PORT": "1"}, {"SEEMLY_WEBHOOK_HEALTH_PORT": "1"}

# What pydantic cannot know is tried at the start: process, setting, value, what else is set.
TRIED: list[tuple[Callable[[Path], None], str, str, dict[str, str]]] = [
    (of_gateway, "SEEMLY_HOST", NONSENSE, {}),
    (of_gateway, "SEEMLY_DATA", "/proc/nope", {}),
    (of_gateway, "SEEMLY_STORE_URL", NONSENSE, {}),
    (of_gateway, "SEEMLY_WITHHELD_URL", NONSENSE, {}),
    (of_gateway, "SEEMLY_POLICY", NONSENSE, {}),
    (of_gateway, "SEEMLY_PEPPER", "short", {}),
    (of_gateway, "SEEMLY_PROVENANCE_ANCHORS", "/nope", {}),
    (of_gateway, "SEEMLY_PROVENANCE_ANCHORS", __file__, {}),
    (of_webhooks, "SEEMLY_PEPPER", "short", {}),
    (of_webhooks, "SEEMLY_WEBHOOK_METRICS_HOST", NONSENSE, HOOKS[0]),
    (of_webhooks, "SEEMLY_WEBHOOK_HEALTH_HOST", NONSENSE, HOOKS[1]),
    (of_worker, "SEEMLY_DEVICE", NONSENSE, {}),
    (of_worker, "SEEMLY_DATA", "/proc/nope", {}),
    (of_worker, "SEEMLY_STORE_URL", NONSENSE, {}),
    (of_worker, "SEEMLY_WITHHELD_URL", NONSENSE, {}),
    (of_worker, "SEEMLY_MODEL", "/nope", {}),
    (of_worker, "SEEMLY_VARIANTS", __file__, {}),
    (of_worker, "SEEMLY_METRICS_HOST", NONSENSE, METRICS),
    (of_worker, "SEEMLY_HEALTH_HOST", NONSENSE, HEALTH),
    (of_worker, "SEEMLY_PROVENANCE_CERTIFICATE", "/nope", SIGNED),
    (of_worker, "SEEMLY_PROVENANCE_KEY", "/nope", SIGNED),
    (of_worker, "SEEMLY_PROVENANCE", "signed", SIGNED),  # with what is no certificate
    (of_lab, "SEEMLY_VARIANTS", "/proc/nope", {}),
    (of_lab, "SEEMLY_DATA", "/proc/nope", {}),
]
UNTRIED = {  # any text may be right, and what it leads to is told later
    "gateway": {"pepper_file": "made with the first key; until then nothing needs it"},
    "worker": {"model_revision": "known to the hub alone"},
    "webhooks": {"data": "only holds the pepper", "pepper_file": "made with the first secret"},
    "client": {
        **dict.fromkeys(("api_key", "host", "model", "policy", "pepper", "store_url"), "as the process that it starts"),
        **dict.fromkeys(("data", "variants", "pepper_file"), "as the process that it starts"),
    },
}
STARTS = {of_gateway: "gateway", of_webhooks: "webhooks", of_worker: "worker", of_lab: "worker"}


def of_us() -> list[str]:
    return [name for name in os.environ if name.startswith("SEEMLY_") or name in ("REDIS_URL", "PORT")]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in of_us():
        monkeypatch.delenv(name)
    return monkeypatch


def tried(process: str) -> set[str]:
    named = variables(KINDS[process])
    return {named[variable] for start, variable, *_ in TRIED if STARTS[start] == process}


CHECKED = [
    (process, variable, field)
    for process, kind in KINDS.items()
    for variable, field in variables(kind).items()
    if field not in tried(process) | UNTRIED[process].keys()
]


@pytest.mark.parametrize(("process", "variable", "field"), CHECKED, ids=[f"{one[0]} {one[1]}" for one in CHECKED])
def test_a_value_without_sense_is_refused_by_the_name_of_its_setting(
    environment: pytest.MonkeyPatch, process: str, variable: str, field: str
) -> None:
    environment.setenv(variable, NOT_NULL.get(field, NONSENSE))
    kind: type[BaseSettings] = KINDS[process]
    with pytest.raises(ValidationError) as refused:
        kind()
    told = settings_wording(refused.value)
    assert told.startswith((variable, f"SEEMLY_{field.upper()}", "REDIS_URL")), told
    assert NONSENSE not in told


def test_no_setting_is_left_out() -> None:
    assert len(CHECKED) > 70
    for process, kind in KINDS.items():
        assert UNTRIED[process].keys() <= kind.model_fields.keys()
        assert not tried(process) & UNTRIED[process].keys()


@pytest.mark.parametrize(
    ("start", "variable", "value", "more"), TRIED, ids=[f"{one[0].__name__} {one[1]}={one[2][:8]}" for one in TRIED]
)
def test_what_a_setting_names_is_tried_at_the_start(
    environment: pytest.MonkeyPatch,
    start: Callable[[Path], None],
    variable: str,
    value: str,
    more: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"REDIS_URL": "redis://127.0.0.1:1/0", "SEEMLY_DATA": str(tmp_path), "SEEMLY_PORT": "0"}
    if start in (of_worker, of_lab):
        given |= {"SEEMLY_DEVICE": "cpu", "SEEMLY_VARIANTS": str(tmp_path / "variants")}
    for name, set_to in {**given, **more, variable: value}.items():
        environment.setenv(name, set_to)
    with pytest.raises((SystemExit, worker.UnusableSetting)) as end:
        start(tmp_path)
    told = capsys.readouterr().err if isinstance(end.value, SystemExit) else str(end.value)
    if isinstance(end.value, SystemExit):
        assert end.value.code == os.EX_CONFIG
    assert told.startswith(variable), told
    assert len(told.strip().splitlines()) == 1


def test_a_gateway_whose_keys_cannot_be_checked_does_not_start(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_redis(tmp_path) as server, parts.client(server.url) as client:
        client.hset("seemly:api-keys", "0" * 12, "{}")
        for name, value in {"REDIS_URL": server.url, "SEEMLY_PORT": "0", "SEEMLY_PEPPER_FILE": "/nope"}.items():
            environment.setenv(name, value)
        with pytest.raises(SystemExit):
            gateway.main()
    assert "SEEMLY_PEPPER_FILE" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment.setenv("SEEMLY_PORT", str(taken.getsockname()[1]))
        with pytest.raises(SystemExit):
            gateway.main()
    assert "SEEMLY_PORT=" in capsys.readouterr().err
