import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from redis import Redis
from rich.console import Console
from typer.testing import CliRunner

from contract import keys
from contract.result import JobError, JobView, ReproducedPicture, Reproduction, Result, Status
from contract.verdict import Verdict
from seemly.cli import app
from seemly.client import Client
from seemly.commands.terminal import DONE, FAILED, MISUSED, WITHHELD
from seemly.display import reproduction_table
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import GatewayProcess

PROGRAM = [sys.executable, "-c", "from seemly.cli import app; app()"]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the developer's own; a terminal wide enough for messages on one line."""
    for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@contextmanager
def worker(gateway: GatewayProcess, redis: Redis, *verdicts: Verdict) -> Iterator[None]:
    """Brings the next job to these verdicts; without any, fails it."""

    def work() -> None:
        assert eventually(lambda: redis.zcard(keys.ACCEPTED) > 0)
        job_id = redis.zrange(keys.ACCEPTED, 0, 0)[0]
        attempt, job = parts.take(redis, job_id)
        pictures = []
        for index, verdict in enumerate(verdicts):
            pictures.append(
                parts.picture(job, index)
                if verdict is Verdict.PASSED
                else parts.picture(job, index, verdict, concepts=(parts.score(0.4),), reasons=("weapon",))
            )
            if verdict is Verdict.PASSED:
                parts.store_picture(gateway.pictures, job, attempt, index)
        if not pictures:
            failed = Result(status=Status.FAILED, error=JobError(code="row_failed", message="The engine gave up."))
            parts.commit(redis, job_id, attempt, failed)
            return
        passed = sum(verdict is Verdict.PASSED for verdict in verdicts)
        status = Status.SUCCEEDED if passed == len(verdicts) else Status.PARTIAL if passed else Status.BLOCKED
        parts.commit(redis, job_id, attempt, parts.result(job, status, *pictures))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def generate(gateway: GatewayProcess, folder: Path, *more: str) -> list[str]:
    return ["generate", "a midnight harbour", "--url", gateway.url, "--out", str(folder), *more]


def test_help_imports_nothing_heavy() -> None:
    program = """
import sys
from seemly.cli import app
try:
    app(["--help"])
finally:
    print("HEAVY", sorted({"torch", "numpy", "PIL", "diffusers", "fastapi", "rq", "matplotlib"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "HEAVY []" in answer.stdout
    for command in ("demo", "serve", "generate", "compare", "explain", "gateway", "worker", "bench", "world"):
        assert f" {command} " in answer.stdout


def test_all_pictures_written_is_success(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    with worker(gateway, redis, Verdict.PASSED, Verdict.PASSED):
        answer = CliRunner().invoke(app, generate(gateway, tmp_path, "--num-images", "2"))
    assert answer.exit_code == DONE, answer.output
    assert len(list(tmp_path.glob("*-[01].png"))) == 2
    assert "passed" in answer.output


def test_a_withheld_picture_is_told_by_the_exit_code_and_not_written(
    gateway: GatewayProcess, redis: Redis, tmp_path: Path
) -> None:
    with worker(gateway, redis, Verdict.PASSED, Verdict.BLOCKED):
        answer = CliRunner().invoke(app, generate(gateway, tmp_path, "--num-images", "2", "--json"))
    assert answer.exit_code == WITHHELD, answer.output
    told = json.loads(answer.stdout)
    assert told["status"] == "partial"
    assert [picture["verdict"] for picture in told["images"]] == ["passed", "blocked"]
    assert [Path(file).read_bytes() for file in told["files"]] == [parts.PNG]


def test_a_failed_job_is_an_error_with_the_services_words(
    gateway: GatewayProcess, redis: Redis, tmp_path: Path
) -> None:
    with worker(gateway, redis):
        answer = CliRunner().invoke(app, generate(gateway, tmp_path))
    assert answer.exit_code == FAILED
    assert "The engine gave up." in answer.output


def test_a_plan_reaches_the_service(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    with worker(gateway, redis, Verdict.PASSED):
        more = ("--safety", "sld:max", "--safety", "filter", "--seed", "5", "--json")
        answer = CliRunner().invoke(app, generate(gateway, tmp_path, *more))
    told = json.loads(answer.stdout)
    assert told["safety"]["requested"] == ["sld:max", "filter"]
    assert told["images"][0]["seed"] == 5


def drawable(gateway: GatewayProcess, redis: Redis) -> str:
    """A finished job's id."""
    with worker(gateway, redis, Verdict.PASSED), Client(gateway.url) as client:
        return client.wait(client.generate("a midnight harbour").id).id


def test_a_finished_job_is_drawn_into_a_file(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    job_id, file = drawable(gateway, redis), tmp_path / "deeper" / "why.png"
    answer = CliRunner().invoke(app, ["explain", job_id, "--url", gateway.url, "--out", str(file), "--json"])
    assert answer.exit_code == DONE, answer.output
    assert json.loads(answer.stdout) == {"id": job_id, "file": str(file)}
    with Image.open(file) as drawn:
        assert (drawn.format, drawn.width) == ("PNG", 560)


def test_a_block_is_appealed_and_the_job_made_again(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    with worker(gateway, redis, Verdict.PASSED, Verdict.BLOCKED):
        made = CliRunner().invoke(app, generate(gateway, tmp_path, "--num-images", "2", "--json"))
    job_id, at = json.loads(made.stdout)["id"], ("--url", gateway.url)
    appeal = ["appeal", job_id, "--index", "1", "--reason", "a carnival mask", *at]
    answer = CliRunner().invoke(app, appeal)
    assert (answer.exit_code, f"review {job_id}-1" in answer.output) == (DONE, True)
    answer = CliRunner().invoke(app, [*appeal, "--json"])
    assert (answer.exit_code, json.loads(answer.stderr)["error"]["code"]) == (FAILED, "not_appealable")
    answer = CliRunner().invoke(app, ["appeal", job_id, "--reason", " ", *at])
    assert (answer.exit_code, "reason" in answer.stderr) == (FAILED, True)
    with worker(gateway, redis, Verdict.PASSED, Verdict.BLOCKED):
        answer = CliRunner().invoke(app, ["reproduce", job_id, *at])
    assert answer.exit_code == DONE, answer.output
    with worker(gateway, redis):
        answer = CliRunner().invoke(app, ["reproduce", job_id, "--json", *at])
    assert (answer.exit_code, "gave up" in answer.stderr) == (FAILED, True)


def test_what_was_made_again_is_told_picture_by_picture() -> None:
    job = parts.some_job(seeds=(1, 2))
    none = dict.fromkeys(("same_pixels", "max_difference", "mean_difference", "different_share"))
    told = {"same_pixels": False, "max_difference": 3, "mean_difference": 0.0125, "different_share": 0.5}
    beside = (
        ReproducedPicture(index=0, verdict_before=Verdict.PASSED, **told),
        ReproducedPicture(index=1, verdict_before=Verdict.BLOCKED, **none),
    )
    view = JobView(
        id=job.id,
        status=Status.PARTIAL,
        created_at=job.created_at,
        images=(parts.picture(job, 0), parts.picture(job, 1, Verdict.REVIEW)),
        reproduction=Reproduction(of=job.id, same_weights=True, images=beside),
    )
    shown = io.StringIO()
    Console(width=120, file=shown).print(reproduction_table(view))
    first, second = shown.getvalue().splitlines()[3:5]
    assert [cell.strip() for cell in first.split("│")[1:-1]] == ["0", "passed", "passed", "no", "3", "0.0125", "50.00%"]
    assert [cell.strip() for cell in second.split("│")[1:-1]][1:4] == ["blocked", "review", "not compared"]


def test_a_job_that_cannot_be_drawn_is_told_and_nothing_is_written(
    gateway: GatewayProcess, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for job, more, message in (
        ("0" * 32, (), "There is no such job"),
        ("../../etc", (), "JOB: is no job's id"),
        ("0" * 32, ("--out", str(tmp_path)), "is a folder; name a file"),
    ):
        answer = CliRunner().invoke(app, ["explain", job, "--url", gateway.url, *more])
        assert answer.exit_code == FAILED
        assert message in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("generate", "a cat", "--num-images", "99"), "num_images"),
        (("generate", "a cat", "--safety", "prayer"), "unknown safety method 'prayer'; choose from: none, safree"),
        (("generate", "a cat", "--url", "http://127.0.0.1:1", "--steps", "999"), "steps"),
        (("compare", "a cat", "--plan", "none"), "plans: must have 2 to 8 entries, not 1"),
        (("compare", "a cat", "--plan", "none", "--plan", "prayer"), "plans.1: unknown safety method 'prayer'"),
        (("compare", "a cat", "--plan", "none", "--plan", "none+filter"), 'plans.1: "none" cannot be combined'),
        (("compare", "a cat", "--plan", "none", "--plan", "sld", "--label", "x"), "labels: there are 1 for 2 plans"),
    ],
)
def test_a_request_that_cannot_be_is_refused_before_anything_starts(arguments: tuple[str, ...], words: str) -> None:
    answer = CliRunner().invoke(app, list(arguments))
    assert answer.exit_code == FAILED
    assert words in answer.stderr
    assert "Traceback" not in answer.output


def test_what_the_service_refuses_names_the_field(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, generate(gateway, tmp_path, "--safety", "sega"))
    assert answer.exit_code == FAILED
    assert "  safety" in answer.stderr


def test_errors_are_json_for_programs(tmp_path: Path) -> None:
    command = [*PROGRAM, "generate", "a cat", "--safety", "prayer", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert answer.returncode == FAILED
    assert answer.stdout == ""
    assert "unknown safety method" in json.loads(answer.stderr)["error"]["detail"]
    assert not list(tmp_path.iterdir())


def test_errors_for_programs_name_the_fields(gateway: GatewayProcess, redis: Redis, tmp_path: Path) -> None:
    answer = CliRunner().invoke(app, generate(gateway, tmp_path, "--safety", "sega", "--json"))
    told = json.loads(answer.stderr.splitlines()[-1])["error"]  # after the bars
    assert (told["status"], [error["field"] for error in told["errors"]]) == (422, ["safety.guidance"])
    answer = CliRunner().invoke(app, generate(gateway, tmp_path, "--safety", "prayer", "--steps", "999", "--json"))
    told = json.loads(answer.stderr)["error"]
    assert sorted(error["field"] for error in told["errors"]) == ["safety", "steps"]


@pytest.mark.parametrize("inside", [(), ("deeper",)])
def test_a_file_in_the_folders_place_is_told_before_anything_starts(tmp_path: Path, inside: tuple[str, ...]) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for command in (("demo",), ("generate", "a cat")):
        answer = CliRunner().invoke(app, [*command, "--out", str(taken.joinpath(*inside))])
        assert answer.exit_code == FAILED
        assert f"{taken} is a file" in answer.stderr
        assert "Traceback" not in answer.output
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("SEEMLY_DATA", "/dev/null/x", "set SEEMLY_DATA to a folder"),
        ("SEEMLY_DATA", "/proc/x", "set SEEMLY_DATA to a folder"),
        ("SEEMLY_POLICY", "strictest", "no policy 'strictest'; shipped: default, production"),
        ("SEEMLY_POLICY", "pyproject.toml", "pyproject.toml is not a policy"),
    ],
)
def test_a_stack_that_cannot_be_is_told_at_once(
    setting: str, value: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEEMLY_DATA", str(tmp_path))
    monkeypatch.setenv(setting, value)
    began = time.monotonic()
    for command in (("serve",), ("generate", "a cat")):
        answer = CliRunner().invoke(app, list(command))
        assert answer.exit_code == FAILED
        assert words in answer.stderr
        assert "Traceback" not in answer.output
    assert time.monotonic() - began < 10
    assert not list(tmp_path.iterdir())


def test_a_port_that_cannot_be_is_misuse() -> None:
    answer = CliRunner().invoke(app, ["serve", "--port", "99999"])
    assert answer.exit_code == MISUSED
    assert "--port" in answer.stderr
    assert "Traceback" not in answer.output


def test_the_module_is_a_program() -> None:
    answer = subprocess.run([sys.executable, "-m", "seemly.cli", "--help"], capture_output=True, text=True, check=True)
    assert "generate" in answer.stdout


def test_a_setting_that_cannot_be_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "seventy")
    answer = CliRunner().invoke(app, ["serve"])
    assert answer.exit_code == FAILED
    assert "PORT" in answer.stderr


def test_commands_and_options_are_completed() -> None:
    for words, expected in (("seemly bat", "batch"), ("seemly batch --num", "--num-images")):
        asked = {"_SEEMLY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        command = [sys.executable, "-c", "from seemly.cli import app; app(prog_name='seemly')"]
        answer = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
        assert answer.stdout.split() == [expected], answer.stderr


def test_misuse_has_its_own_code() -> None:
    assert CliRunner().invoke(app, ["generate"]).exit_code == MISUSED
    assert CliRunner().invoke(app, ["generate", "a cat", "--num-images", "many"]).exit_code == MISUSED


def test_the_gateway_alone_reads_its_own_settings(redis_server: RedisServer, redis: Redis) -> None:
    environment = os.environ | {"SEEMLY_HOST": "0.0.0.0", "REDIS_URL": redis_server.url}  # noqa: S104 - it is refused
    answer = subprocess.run([*PROGRAM, "gateway"], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 78  # EX_CONFIG
    assert "no API keys" in answer.stderr


@pytest.mark.parametrize(("command", "word"), [("bench", "engine"), ("world", "draw")])
def test_commands_of_the_lab_are_passed_on(command: str, word: str) -> None:
    answer = subprocess.run([*PROGRAM, command, "--help"], capture_output=True, text=True, check=False)
    assert answer.returncode == DONE
    assert f"seemly {command}" in answer.stdout
    assert word in answer.stdout
