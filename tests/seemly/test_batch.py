"""`seemly batch` against a real gateway and a real worker, whose engine makes noise: resumable, bounded, honest."""

import asyncio
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from click.testing import Result
from PIL import Image
from redis import Redis
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from contract import keys
from contract.result import JobView, Status
from seemly.batch import Batch, run
from seemly.cli import app
from seemly.client import AsyncClient
from seemly.commands.terminal import DONE, FAILED, WITHHELD
from seemly.ledger import Ledger, PictureRow
from seemly.prompts import Prompt
from tests.redis_server import running_redis
from tests.seemly.processes import eventually
from tests.seemly.test_client import BUSY, server_saying, url_of
from tests.service import parts
from tests.service.conftest import running_gateway
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine
from workers.models import LoadedModel
from workers.variants.importing import import_variant
from workers.variants.reading import UnusableVariant, load_variant

READ = INFO.model_copy(update={"tokenizer_sha256": hashlib.sha256(parts.TOKENIZER).hexdigest()})


@dataclass(frozen=True)
class Service:
    """A gateway with a worker behind it."""

    url: str
    redis: "Redis"
    engine: PacedEngine
    folder: Path

    def run(self, file: Path, *more: str) -> Result:
        return CliRunner().invoke(app, self.words(file, *more))

    def words(self, file: Path, *more: str) -> list[str]:
        return ["batch", str(file), "--out", str(self.folder / "out"), "--url", self.url, *more]

    def table(self) -> list[dict[str, str]]:
        with (self.folder / "out" / "results.csv").open() as opened:
            return list(csv.DictReader(opened))

    @property
    def jobs(self) -> int:
        """How many the service was ever handed."""
        return self.redis.zcard(keys.tenant_jobs_key("local"))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    engine, model = PacedEngine(), SimpleNamespace(info=READ, tokenizer_json=parts.TOKENIZER)
    with (
        running_redis(tmp_path) as server,
        parts.client(server.url) as redis,
        running_gateway(server.url, tmp_path, redis_timeout_s="20", queue_limit="2") as gateway,
        working(server, tmp_path, engine, cast(LoadedModel, model), slots=2),
    ):
        assert eventually(lambda: redis.exists(keys.MODELS) == 1)
        yield Service(gateway.url, redis, engine, tmp_path)


def prompts(folder: Path, *texts: str) -> Path:
    file = folder / "prompts.txt"
    file.write_text("\n".join(texts))
    return file


def test_every_prompt_of_a_table_is_made_as_it_says(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "i2p.csv"
    columns = "prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height"
    file.write_text(f'{columns}\n"a harbour, at dusk",,41,7,64,48\na weapon,violence,7,3.5,,\na cat,,,,,\n')
    answer = service.run(file, "--num-images", "3", "--steps", "2", "--json")
    assert answer.exit_code == WITHHELD, answer.output
    told = json.loads(answer.stdout)
    assert (told["pictures"], told["verdicts"]) == (9, {"passed": 6, "blocked": 3})
    assert told["flagged"] == {"test:weapon": 3}
    rows = service.table()
    assert [(row["number"], row["index"]) for row in rows] == [(str(n), str(i)) for n in (1, 2, 3) for i in range(3)]
    assert [row["seed"] for row in rows[:6]] == ["41", "42", "43", "7", "8", "9"]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["guidance_scale"]) == ("64", "48", "7.0")
    assert (rows[3]["width"], rows[3]["guidance_scale"], rows[3]["categories"]) == ("64", "3.5", "violence")
    assert [row["verdict"] for row in rows] == ["passed"] * 3 + ["blocked"] * 3 + ["passed"] * 3
    assert [row["flagged"] for row in rows] == [""] * 3 + ["test:weapon"] * 3 + [""] * 3
    assert float(rows[3]["test:weapon"]) > 0.2 > float(rows[0]["test:weapon"])
    for row in rows:
        assert bool(row["file"]) == (row["verdict"] == "passed")
        if row["file"]:
            content = (service.folder / "out" / row["file"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == row["sha256"]
    assert service.jobs == 3
    again = service.run(file, "--num-images", "3", "--steps", "2")
    assert (again.exit_code, service.jobs) == (WITHHELD, 3)
    assert "6 passed, 3 blocked" in again.output


def test_a_batch_that_was_killed_makes_only_what_is_missing(service: Service, tmp_path: Path) -> None:
    file = prompts(tmp_path, *(f"harbour {number}" for number in range(12)))
    service.engine.step_s = 0.05
    command = [sys.executable, "-m", "seemly.cli", *service.words(file, "--num-images", "2", "--jobs", "2")]
    log = service.folder / "out" / "results.jsonl"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        assert eventually(lambda: log.exists() and log.read_bytes().count(b"\n") >= 3, 60)
        killed.send_signal(signal.SIGKILL)
    with log.open("ab") as opened:
        opened.write(b'[{"number": 9, "ind')  # as if it had been writing
    made = {path.name: path.stat().st_mtime_ns for path in (service.folder / "out" / "pictures").glob("*.png")}
    kept = {f"{row['number']:05d}-{row['index']:02d}.png" for row in rows_of(log)}
    assert len(kept) < 24
    service.engine.step_s = 0.005
    answer = service.run(file, "--num-images", "2", "--jobs", "4", "--json")
    assert answer.exit_code == DONE, answer.output
    assert json.loads(answer.stdout)["verdicts"] == {"passed": 24}
    assert service.jobs == 12  # those in flight when it was killed were found, not made again
    pictures = list((service.folder / "out" / "pictures").iterdir())
    assert len(pictures) == 24
    assert all(path.stat().st_mtime_ns == made[path.name] for path in pictures if path.name in kept)
    seeds = [int(row["seed"]) for row in service.table()]
    assert len(set(seeds)) == 24


def rows_of(log: Path) -> list[dict[str, Any]]:
    return [row for line in log.read_text().splitlines() if line.endswith("]") for row in json.loads(line)]


def pixels(file: Path) -> bytes:
    with Image.open(file) as picture:
        return picture.tobytes()


def test_a_picture_that_was_lost_is_made_again_with_its_seed(service: Service, tmp_path: Path) -> None:
    file = prompts(tmp_path, "a harbour", "a cat")
    assert service.run(file, "--num-images", "3").exit_code == DONE
    before = service.table()
    lost = service.folder / "out" / before[4]["file"]
    content = pixels(lost)
    lost.unlink()
    (service.folder / "out" / before[0]["file"]).write_bytes(b"cut short")
    assert service.run(file, "--num-images", "3").exit_code == DONE
    assert pixels(lost) == content  # the files differ: a picture names the job that made it
    after = service.table()
    remade = [number for number, (row, old) in enumerate(zip(after, before, strict=True)) if row["job"] != old["job"]]
    assert remade == [0, 4]


def test_another_batch_in_the_same_folder_is_refused(service: Service, tmp_path: Path) -> None:
    file = prompts(tmp_path, "a harbour", "a cat")
    assert service.run(file, "--steps", "2", "--limit", "1").exit_code == DONE
    for more, told in (
        (("--steps", "3"), "--steps: was 2 when this batch began, and is 3 now"),
        ((), "--steps: was 2 when this batch began, and is left out now"),
        (("--steps", "2", "--safety", "none"), '--safety: was left out when this batch began, and is "none" now'),
    ):
        answer = service.run(file, *more)
        assert answer.exit_code == FAILED
        assert told in answer.stderr
        assert "take another folder" in answer.stderr
    with Ledger(service.folder / "out"):
        asked = json.loads((service.folder / "out" / "batch.json").read_text())["asked"]
        with Ledger(service.folder / "out") as held:
            held.open(asked, 0)
            assert "another process works on" in service.run(file, "--steps", "2").stderr
    more_prompts = service.run(file, "--steps", "2")
    assert (more_prompts.exit_code, service.jobs) == (DONE, 2)
    prompts(tmp_path, "a harbour", "a dog")
    assert "PROMPTS: was" in service.run(file, "--steps", "2").stderr


def test_what_cannot_be_made_is_told_and_tried_again(service: Service, tmp_path: Path) -> None:
    file = prompts(tmp_path, "a harbour", "word " * 90, "row-fails")
    for tried in (1, 2):
        answer = service.run(file)
        assert answer.exit_code == FAILED
        assert "2 pictures could not be made" in answer.stderr
        rows = service.table()
        assert [row["verdict"] for row in rows] == ["passed", "refused", "error"]
        assert "prompt" in rows[1]["error"]
        assert rows[2]["error"]
        assert service.jobs == 1 + tried


def test_a_tenant_over_its_rate_while_a_job_is_waited_for_goes_on(tmp_path: Path) -> None:
    job = JobView(id="x", status=Status.CANCELED, created_at=datetime.now(UTC)).model_dump_json().encode()
    over = (200, {"content-type": "text/event-stream"}, b'event: finished\ndata: {"status": "canceled"}\n\n')
    busy = (429, {"retry-after": "0.1"}, BUSY)
    batch, made = Batch([Prompt(number=1, text="a cat")], {}, 1), list[PictureRow]()

    async def make(url: str, ledger: Ledger) -> None:
        async with AsyncClient(url, retries=0) as client:
            await run(client, batch.missing(ledger), ledger, 1, made.extend)

    with server_saying(busy, (202, {}, job), over, busy, over, (200, {}, job)) as server, Ledger(tmp_path) as ledger:
        ledger.open({}, 0)
        asyncio.run(make(url_of(server), ledger))
    assert [row.error for row in made] == ["the job ended as canceled"]


def test_requests_that_are_all_refused_end_the_batch(service: Service, tmp_path: Path) -> None:
    answer = service.run(prompts(tmp_path, *["a cat"] * 40), "--width", "65")
    assert answer.exit_code == FAILED
    assert "the first 20 requests were all refused" in answer.stderr
    assert len(service.table()) < 40


@pytest.mark.parametrize(
    ("content", "more", "told"),
    [
        ("a cat", ("--steps", "9999"), "prompt 1: steps"),
        ("a cat", ("--safety", "prayer"), "unknown safety method 'prayer'"),
        ("a cat", ("--scheduler", "dice"), "scheduler"),
        ("", (), "holds no prompt"),
        ("a cat", ("--unet-path", "elsewhere"), "--unet-path: is for a stack started here; leave out --url"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    tmp_path: Path, content: str, more: tuple[str, ...], told: str
) -> None:
    file, out = prompts(tmp_path, content), tmp_path / "out"
    answer = CliRunner().invoke(app, ["batch", str(file), "--out", str(out), "--url", "http://127.0.0.1:1", *more])
    assert answer.exit_code == FAILED
    assert told in " ".join(answer.stderr.split())
    assert not out.exists()


def test_a_unet_folder_of_others_becomes_a_variant(tiny_folder: Path, tmp_path: Path) -> None:
    unet = tmp_path / "Their Model" / "unet"
    unet.mkdir(parents=True)
    (unet / "config.json").write_bytes((tiny_folder / "unet" / "config.json").read_bytes())
    weights = next((tiny_folder / "unet").glob("*.safetensors"))
    tensors = load_file(weights)
    changed = next(name for name in tensors if name.endswith("attn2.to_k.weight"))
    save_file(tensors | {changed: tensors[changed] + 0.25}, unet / weights.name)
    card = import_variant(unet, str(tiny_folder), tmp_path / "shelf")
    assert (card.name, card.method, card.tensors) == ("their-model", "imported", (changed,))
    read = load_variant(tmp_path / "shelf" / "their-model", tensors, card.base.weights_sha256)
    assert torch.equal(read.tensors[changed], tensors[changed] + 0.25)
    with pytest.raises(UnusableVariant, match="the model's own UNet"):
        import_variant(tiny_folder / "unet", str(tiny_folder), tmp_path / "shelf")
    answer = CliRunner().invoke(app, ["batch", str(prompts(tmp_path, "a cat")), "--unet-path", str(tmp_path / "none")])
    assert answer.exit_code == FAILED
    assert "--unet-path" in answer.stderr
