"""`seemly doctor` on a deployment that is well, and on the same one with one thing wrong."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from redis import Redis
from safetensors.numpy import save_file
from typer.testing import CliRunner

from contract import keys
from seemly.doctor import redis as redis_checks
from seemly.doctor.command import app, examine
from seemly.doctor.finding import Process, State
from service.api_keys import KeyRing, Scope
from service.webhooks.signing import SecretRing
from tests.redis_server import running_redis
from tests.service import parts
from workers.checkpoint import DETECTOR_TENSORS, hash_weights


def checkpoint(folder: Path, *, without: str = "") -> Path:
    """As much of one as the doctor looks at."""
    tensors = {name: np.ones(3, np.float32) for name in DETECTOR_TENSORS if name != without}
    (folder / "safety_checker").mkdir(parents=True)
    save_file(tensors, folder / "safety_checker" / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Patient:
    """A deployment to make ill."""

    redis: "Redis"
    monkeypatch: pytest.MonkeyPatch
    folder: Path

    def set(self, **variables: str) -> None:
        """Change its environment."""
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Redis"]:
    with running_redis(tmp_path_factory.mktemp("doctor")) as server, parts.client(server.url) as client:
        client.set("url", server.url)
        yield client


@pytest.fixture
def patient(client: "Redis", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Patient]:
    url = client.get("url")
    client.flushall()
    client.set("url", url)
    for name in [name for name in os.environ if name.startswith(("SEEMLY_", "REDIS_"))]:
        monkeypatch.delenv(name)
    model = checkpoint(tmp_path / "model")
    parts.announce(client, parts.model_info(weights_sha256=hash_weights(model)))
    parts.announce_worker(client)
    KeyRing(client, None, tmp_path / "pepper").create("acme", [Scope.GENERATE])
    SecretRing(client, None, tmp_path / "pepper").create("acme")
    one = Patient(client, monkeypatch, tmp_path)
    one.set(REDIS_URL=url, SEEMLY_DATA=str(tmp_path), SEEMLY_MODEL=str(model), SEEMLY_HOST="0.0.0.0")  # noqa: S104
    one.set(SEEMLY_MODEL_SHA256=hash_weights(model), SEEMLY_POLICY="production", SEEMLY_PUBLIC_URL="https://a.example")
    one.set(SEEMLY_VARIANTS=str(tmp_path))
    client.config_set("maxmemory", "1gb")
    yield one
    client.config_set("maxmemory", "0")
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("appendonly", "yes")


def test_a_deployment_that_is_well_has_neither_faults_nor_warnings(patient: Patient) -> None:
    found = list(examine())
    assert [one for one in found if one.state not in (State.OK, State.SKIPPED)] == []
    looked_at = {"settings", "redis", "clock", "gpu", "model", "detector", "storage", "policy", "workers", "keys"}
    assert {one.check for one in found} == looked_at | {"webhooks", "provenance"}


@pytest.mark.parametrize(
    ("change", "check", "todo"),
    [
        (lambda one: one.redis.config_set("maxmemory", "0"), "redis", "set maxmemory"),
        (lambda one: one.set(SEEMLY_VARIANTS="/nope"), "variants", "mount or make it"),
        (lambda one: one.set(SEEMLY_OTLP_URL="http://127.0.0.1:1"), "traces", "start a collector"),
    ],
)
def test_what_serves_but_not_well_is_warned_of(
    patient: Patient, change: Callable[[Patient], None], check: str, todo: str
) -> None:
    change(patient)
    [found] = [one for one in examine() if one.state in (State.WARNING, State.FAULT)]
    assert (found.check, found.state) == (check, State.WARNING)
    assert todo in found.todo


def evicting(patient: Patient) -> None:
    patient.redis.config_set("maxmemory", "1gb")
    patient.redis.config_set("maxmemory-policy", "allkeys-lru")


def without_append_only_file(patient: Patient) -> None:
    patient.redis.config_set("appendonly", "no")


def unreachable(patient: Patient) -> None:
    patient.set(REDIS_URL="redis://127.0.0.1:1/0")


def without_gpu(patient: Patient) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    patient.set(SEEMLY_DEVICE="cuda")


def other_weights(patient: Patient) -> None:
    (patient.folder / "model" / "safety_checker" / "config.json").write_text("{}")


def without_thresholds(patient: Patient) -> None:
    model = checkpoint(patient.folder / "bare", without="concept_embeds_weights")
    patient.set(SEEMLY_MODEL=str(model), SEEMLY_MODEL_SHA256=hash_weights(model))
    parts.announce(patient.redis, parts.model_info(weights_sha256=hash_weights(model)))


def without_a_chosen_detector(patient: Patient) -> None:
    patient.set(SEEMLY_DETECTORS=json.dumps([{"name": "clip-concepts", "sha256": "0" * 64}]))


def store_is_a_file(patient: Patient) -> None:
    (patient.folder / "taken").touch()
    patient.set(SEEMLY_STORE_URL=f"file://{patient.folder}/taken")


def no_store_for_the_withheld(patient: Patient) -> None:
    (patient.folder / "taken").touch()
    patient.set(SEEMLY_WITHHELD_URL=f"file://{patient.folder}/taken")


def clocks_apart(patient: Patient) -> None:
    patient.monkeypatch.setattr(redis_checks, "time", SimpleNamespace(time=lambda: time.time() - 30))


def nobody_delivers(patient: Patient) -> None:
    patient.redis.sadd(keys.DELIVERING_TENANTS, "acme")
    patient.redis.zadd(keys.due_deliveries_key("acme"), {"msg_1": time.time() - 600})


def misspelt(patient: Patient) -> None:
    patient.set(SEEMLY_QUEUE_LIMITS="10")


def without_pepper(patient: Patient) -> None:
    (patient.folder / "pepper").unlink()


def workers_serve_another(patient: Patient) -> None:
    parts.announce(patient.redis)


def nobody_works(patient: Patient) -> None:
    parts.announce_worker(patient.redis, lease_s=-1)
    patient.redis.lpush(f"rq:queue:{keys.queue_name(parts.MODEL)}", "a-job")


def no_such_policy(patient: Patient) -> None:
    patient.set(SEEMLY_POLICY="lax")


def no_such_device(patient: Patient) -> None:
    patient.set(SEEMLY_DEVICE="toaster")


def signing_with_nothing(patient: Patient) -> None:
    patient.set(SEEMLY_PROVENANCE="signed", SEEMLY_PROVENANCE_CERTIFICATE="/nope", SEEMLY_PROVENANCE_KEY="/nope")


def no_such_authorities(patient: Patient) -> None:
    patient.set(SEEMLY_PROVENANCE_ANCHORS="/nope")


def variants_are_a_file(patient: Patient) -> None:
    patient.set(SEEMLY_VARIANTS=__file__)


def nobody_serves_the_default(patient: Patient) -> None:
    patient.set(SEEMLY_DEFAULT_MODEL="sd15")


@pytest.mark.parametrize(
    ("plant", "check", "todo"),
    [
        (evicting, "redis", "set its maxmemory-policy to noeviction"),
        (without_append_only_file, "redis", "set its appendonly to yes"),
        (unreachable, "redis", "start Redis, or set REDIS_URL"),
        (without_gpu, "gpu", "nvidia.com/gpu"),
        (other_weights, "model", "seemly models fetch"),
        (without_thresholds, "detector", "brings its safety checker"),
        (without_a_chosen_detector, "detector", "set SEEMLY_DETECTORS"),
        (store_is_a_file, "storage", "SEEMLY_STORE_URL"),
        (no_store_for_the_withheld, "storage", "SEEMLY_WITHHELD_URL"),
        (clocks_apart, "clock", "NTP"),
        (nobody_delivers, "webhooks", "seemly webhooks deliver"),
        (misspelt, "settings", "rename it to SEEMLY_QUEUE_LIMIT"),
        (without_pepper, "keys", "SEEMLY_PEPPER_FILE"),
        (workers_serve_another, "workers", "SEEMLY_MODEL_SHA256"),
        (nobody_works, "workers", "start one"),
        (no_such_policy, "policy", "SEEMLY_POLICY"),
        (no_such_device, "gpu", "SEEMLY_DEVICE"),
        (signing_with_nothing, "provenance", "SEEMLY_PROVENANCE"),
        (no_such_authorities, "provenance", "PEM"),
        (variants_are_a_file, "variants", "name one"),
        (nobody_serves_the_default, "workers", "name one of: demo"),
    ],
)
def test_a_planted_fault_is_found_and_nothing_else(
    patient: Patient, plant: Callable[[Patient], None], check: str, todo: str
) -> None:
    plant(patient)
    faults = [one for one in examine() if one.state is State.FAULT]
    assert [one.check for one in faults] == [check]
    assert todo in faults[0].todo


def test_a_process_is_not_blamed_for_what_another_has(patient: Patient) -> None:
    without_pepper(patient)
    patient.monkeypatch.delenv("SEEMLY_PUBLIC_URL")
    patient.set(SEEMLY_POLICY="default")
    of_worker = {one.check: one.state for one in examine(Process.WORKER)}
    assert not {State.FAULT, State.WARNING} & set(of_worker.values())
    assert [of_worker[check] for check in ("keys", "policy")] == [State.SKIPPED] * 2
    of_gateway = {one.check: one.state for one in examine(Process.GATEWAY)}
    assert [of_gateway[check] for check in ("keys", "policy", "model")] == [State.FAULT, State.WARNING, State.SKIPPED]


def test_the_command_ends_with_1_over_a_fault_and_0_over_none(patient: Patient) -> None:
    assert CliRunner().invoke(app, ["--json"]).exit_code == 0
    misspelt(patient)
    done = CliRunner().invoke(app, ["--json"])
    assert done.exit_code == 1
    [told] = [one for one in json.loads(done.stdout) if one["state"] == "fault"]
    assert told == {
        "check": "settings",
        "state": "fault",
        "told": "SEEMLY_QUEUE_LIMITS is no setting, so nothing follows from it",
        "todo": "rename it to SEEMLY_QUEUE_LIMIT, if that is meant",
    }
