"""Erasures as jobs: through the gateway, a lab's worker and the workers that serve, in the real thing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from contract import keys
from contract.acceptance import Terms
from contract.erasure import ErasureJob, ErasureResult
from contract.gate import Gate
from contract.recipe import Sdd, Uce
from contract.result import Status
from lab import worker as lab_worker_module
from lab.erasure.erase import Keeping, erase
from lab.erasure.job import Unmakeable, Workshop
from lab.erasure.original import Original
from service.queue import JobQueue
from tests import tiny
from tests.lab.lab_process import CHECKPOINT_EVERY, lab_at_work, lab_worker
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually, serving
from tests.workers.lifecycle.client import Client
from tests.workers.lifecycle.conftest import client, server
from workers.checkpoint import hash_weights
from workers.records import JobRecords
from workers.variants.card import read_card
from workers.variants.standing import promote

__all__ = ["client", "server"]

QUICK = Sdd(concepts=("knife",), iterations=30, warmup_iterations=2, sampling_steps=2, learning_rate=1e-3, kv_only=True)


def accepted(server: RedisServer, model: Path, name: str = "sdd-x", **changes: Any) -> ErasureJob:
    """As the gateway accepts it."""
    job = ErasureJob(
        id=os.urandom(16).hex(),
        tenant="someone",
        created_at=datetime.now(UTC),
        deadline_at=None,
        model="tiny",
        name=name,
        base_sha256=hash_weights(model),
        **({"recipe": QUICK, "gate": Gate(), "prompts": 1} | changes),
    )
    queue = JobQueue(server.url, 5, allow_unsafe_redis=True)
    assert queue.accept(job, Terms(queue_limit=10, service_s=None, variant=name)).is_new
    queue.close()
    return job


def steps(client: Client, job: ErasureJob, stage: str = "training") -> list[int]:
    """Those told in progress events."""
    told = [data for kind, data in client.events(job.id) if kind == "progress"]
    return [data["step"] for data in told if data["stage"] == stage]


def ended(client: Client, job: ErasureJob) -> ErasureResult:
    client.wait_for([job.id])
    assert [kind for kind, _ in client.events(job.id)].count("finished") == 1
    return ErasureResult.model_validate_json(client.redis.hget(keys.job_key(job.id), "result") or b"")


def test_a_killed_lab_is_followed_by_one_that_goes_on(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path
) -> None:
    job = accepted(server, tiny_folder)
    command = [sys.executable, "-m", "tests.lab.lab_process", server.url, str(tmp_path), str(tiny_folder)]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: max(steps(client, job), default=0) > 2 * CHECKPOINT_EVERY, timeout_s=60)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    before = steps(client, job)
    assert not (tmp_path / "variants" / "sdd-x").exists()
    with lab_at_work(server.url, tmp_path, tiny_folder):
        made = ended(client, job).made
    after = steps(client, job)[len(before) :]
    assert client.attempt(job.id) == 2
    assert 2 * CHECKPOINT_EVERY < after[0] <= before[-1] + CHECKPOINT_EVERY + 1
    assert made is not None
    assert (made.changes, made.gate.passed, len(made.gate.findings)) == ("kv_only", False, 2)
    whole = Keeping(tmp_path / "whole", preview_every=0)
    erase(Original.open(str(tiny_folder), torch.device("cpu")), QUICK, tmp_path / "v", whole, Console(quiet=True))
    resumed, straight = (
        load_file(folder / "variant.safetensors") for folder in (tmp_path / "variants" / "sdd-x", tmp_path / "v")
    )
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert not (tmp_path / "work" / job.id).exists()


def test_trouble_after_the_training_costs_no_training(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.worker.PAUSES_S", (0.2, 0.2))
    shelf = tmp_path / "variants"
    shelf.write_text("where a folder should be")
    job = accepted(server, tiny_folder)
    with lab_at_work(server.url, tmp_path, tiny_folder):
        assert eventually(lambda: client.attempt(job.id) > 1, timeout_s=60)
        assert client.status(job.id) is not Status.FAILED
        shelf.unlink()
        assert ended(client, job).made is not None
    assert steps(client, job)[-1] == QUICK.iterations
    assert steps(client, job) == sorted(set(steps(client, job)))
    assert read_card(shelf / job.name).job == job.id
    assert not (tmp_path / "work" / job.id).exists()


def test_a_workshop_outlives_new_defaults_of_its_model_and_overwrites_nothing(
    server: RedisServer, tiny_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    workshop = Workshop(str(model), tmp_path / "variants", tmp_path / "work", torch.device("cpu"))
    uce = Uce(concepts=("knife",))
    workshop.make(accepted(server, model, "one", recipe=uce), lambda told: True)
    settings = json.loads((model / "seemly.json").read_text()) if (model / "seemly.json").exists() else {}
    (model / "seemly.json").write_text(json.dumps(settings | {"default_steps": 3}))

    def come_between(told: dict[str, Any]) -> bool:
        if not (taken := workshop.variants / "two").exists():
            shutil.copytree(workshop.variants / "one", taken)
        return True

    with pytest.raises(Unmakeable, match="there is a variant 'two' already"):
        workshop.make(accepted(server, model, "two", recipe=uce), come_between)
    assert read_card(workshop.variants / "two").name == "one"


def test_a_lab_takes_no_job_while_redis_might_lose_it(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lab_at_work(server.url, tmp_path, tiny_folder) as lab:
        assert eventually(lambda: lab.is_ready)
        client.redis.config_set("appendonly", "no")
        assert eventually(lambda: lab.is_alive and not lab.is_ready)
        time.sleep(1.2)  # longer than it asks the queue for a job
        job = accepted(server, tiny_folder)
        time.sleep(1.2)
        assert client.status(job.id) is Status.QUEUED
        client.cancel(job.id)
        monkeypatch.setattr(lab_worker_module, "TURNS_WITHIN_S", -1.0)
        assert not lab.is_alive  # as when a job has told of no progress for so long


def test_a_lab_that_is_told_to_end_hands_its_job_on_and_a_canceled_one_leaves_nothing(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path
) -> None:
    job = accepted(server, tiny_folder, recipe=QUICK.model_copy(update={"iterations": 100_000}))
    waiting = accepted(server, tiny_folder, name="never")
    with lab_at_work(server.url, tmp_path, tiny_folder):
        assert eventually(lambda: steps(client, job))
    reached = steps(client, job)[-1]
    with lab_at_work(server.url, tmp_path, tiny_folder):
        assert eventually(lambda: steps(client, job)[-1] > reached)
        client.cancel(waiting.id)
        assert client.cancel(job.id) == "running"
        assert client.wait_for([job.id, waiting.id]) == {job.id: Status.CANCELED, waiting.id: Status.CANCELED}
    assert client.attempt(job.id) == 2
    assert min(steps(client, job)[-2:]) >= reached
    assert eventually(lambda: not list((tmp_path / "work").iterdir()))
    assert not (tmp_path / "variants").exists()
    assert client.redis.zcard(keys.ACCEPTED) == 0


@pytest.mark.parametrize("is_promoted", [False, True])
def test_a_canceled_job_takes_its_candidate_off_the_shelf_but_not_what_was_promoted(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path, is_promoted: bool
) -> None:
    job = accepted(server, tiny_folder, recipe=Uce(concepts=("knife",)))
    JobRecords(client.redis, 60).start(job.id, starter="killed before its commit")
    workshop = Workshop(str(tiny_folder), tmp_path / "variants", tmp_path / "work", torch.device("cpu"))
    workshop.make(job, lambda told: True)
    if is_promoted:
        promote(workshop.variants / job.name, "asked for")
    assert client.cancel(job.id) == "running"
    with lab_at_work(server.url, tmp_path, tiny_folder):
        assert client.wait_for([job.id]) == {job.id: Status.CANCELED}
    assert (workshop.variants / job.name).exists() is is_promoted


def lose_the_device(*_: object) -> None:
    raise torch.AcceleratorError


def test_a_lab_whose_device_is_lost_ends_and_hands_its_job_on(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "make", lose_the_device)
    job = accepted(server, tiny_folder)
    assert lab_worker(server.url, tmp_path, tiny_folder).run() == lab_worker_module.EXIT_FAILED
    assert (client.attempt(job.id), client.status(job.id)) == (1, Status.RUNNING)
    assert client.redis.lrange("rq:queue:lab-tiny", 0, -1) == [job.id.encode()]


def test_a_device_that_is_lost_at_the_last_attempt_costs_no_training(
    server: RedisServer, client: Client, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workshop, "make", lose_the_device)
    monkeypatch.setattr(ErasureJob, "most_attempts", 1)
    job = accepted(server, tiny_folder)
    (kept := tmp_path / "work" / job.id / "training" / "checkpoint.pt").parent.mkdir(parents=True)
    kept.touch()
    assert lab_worker(server.url, tmp_path, tiny_folder).run() == lab_worker_module.EXIT_FAILED
    with lab_at_work(server.url, tmp_path, tiny_folder):
        error = ended(client, job).error
    assert error is not None
    assert (error.code, kept.exists()) == ("lab_trouble", True)


ALL_MAY_STAY = {"unsafe_left": 1.0, "benign_kept": 0.5, "pictures": 1}


def erasable(folder: Path) -> Path:
    """A tiny model that a gate can be passed on: its checker flags every picture, and these are like their prompts."""
    checker = tiny.save(folder, seed=3) / "safety_checker" / "model.safetensors"
    state = load_file(checker)
    save_file(state | {"concept_embeds_weights": state["concept_embeds_weights"] - 2}, checker, {"format": "pt"})
    return folder


def test_a_concept_goes_from_the_weights_while_the_service_runs(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"recipe": {"method": "uce", "concepts": ["knife", "never heard of"]}, "prompts": 2}
    strict, lenient = {**wanted, "name": "strict"}, {**wanted, "name": "lenient", "gate": ALL_MAY_STAY}
    picture = {"prompt": "a cat", "steps": 2}
    quick = {"SEEMLY_HEARTBEAT_S": "0.5", "SEEMLY_DEVICE": "cpu", "SEEMLY_TORCH_THREADS": "1"}
    own = {"SEEMLY_VARIANTS": str(tmp_path / "variants")}
    with (
        serving(erasable(tmp_path / "model"), tmp_path / "data", "--lab", **quick, **own) as url,
        httpx.Client(base_url=url, timeout=60, headers={"Prefer": "wait=60"}) as http,
    ):

        def refusal(name: str) -> str:
            answer = http.post("/generate", json={**picture, "safety": f"erased:{name}"})
            return str(answer.json()["errors"][0]["message"]) if answer.status_code == 422 else ""

        assert eventually(lambda: http.post("/erasures", json=strict).status_code in (202, 409), timeout_s=60)
        address = f"/erasures/{http.get('/erasures').json()['erasures'][0]['id']}"
        kinds, progress = followed(http, address)
        assert kinds[0] == "snapshot"
        assert kinds[-3:] == ["started", "progress", "finished"]
        assert progress == {"stage": "measuring", "step": 8, "steps": 8}
        told = http.get(address).json()
        assert (told["status"], told["made"]["gate"]["passed"]) == ("succeeded", False), told
        assert eventually(lambda: standing(http) == {"strict": "candidate"})
        assert refusal("strict") == "is a candidate that was not promoted yet; available: none"
        refused = http.post("/variants/strict/promote", json={})
        assert (refused.status_code, refused.json()["code"]) == (409, "not_promoted"), refused.text
        assert told["made"]["gate"]["findings"][0] in refused.json()["detail"]
        promoted = http.post("/variants/strict/promote", json={"force": "asked for by the moderators"})
        assert (promoted.status_code, promoted.json()["status"]) == (200, "available"), promoted.text

        address = http.post("/erasures", json=lenient).headers["Location"]
        followed(http, address)
        gate = http.get(address).json()["made"]["gate"]
        assert (gate["passed"], len(gate["findings"])) == (True, 2), gate
        assert eventually(lambda: standing(http) == {"lenient": "candidate", "strict": "available"})
        promoted = http.post("/variants/lenient/promote", json={})
        assert (promoted.status_code, promoted.json()["status"]) == (200, "available"), promoted.text
        assert eventually(lambda: standing(http) == {"lenient": "available", "strict": "available"})
        served = http.post("/generate", json={**picture, "safety": "erased:lenient"}).json()
        assert (served["status"], served["safety"]["applied"]["weights"]["variant"]) == ("succeeded", "lenient")
        history = {name: read_card(tmp_path / "variants" / name).history for name in ("strict", "lenient")}
        assert [(change.reason, change.forced) for change in history["strict"]] == [
            ("asked for by the moderators", True)
        ]
        assert [(change.reason, change.forced) for change in history["lenient"]] == [("passed its gate", False)]
        retired = http.post("/variants/lenient/retire", json={"reason": "a better one is there"})
        assert (retired.status_code, retired.json()["status"]) == (200, "retired"), retired.text
        assert eventually(lambda: refusal("lenient") == "is retired and served no longer; available: strict")


def followed(http: httpx.Client, address: str) -> tuple[list[str], dict[str, Any]]:
    """The kinds of an erasure's events in order, each once, and the last progress."""
    kinds: dict[str, None] = {}
    progress: dict[str, Any] = {}
    with http.stream("GET", f"{address}/events") as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kinds[value] = None
            elif name == "data" and list(kinds)[-1] == "progress":
                progress = json.loads(value)
    return list(kinds), progress


def standing(http: httpx.Client) -> dict[str, str]:
    return {variant["name"]: variant["status"] for variant in http.get("/variants").json()["variants"]}
