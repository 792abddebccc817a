"""`make fuzz`: schemathesis, with all its checks and the links between operations, against the whole running stack.

The stack has a tiny checkpoint and wants keys. The seed is printed; with it, the same run is made again.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from redis import Redis

from seemly.embedded import EmbeddedStack
from seemly.settings import Settings
from service.api_keys import KeyRing, Scope
from tests import tiny

CONFIG = Path(__file__).with_name("fuzz.toml")
CASES_PER_EXAMPLE = 15  # what one more example of each operation comes to, over all phases
ENVIRONMENT = {
    "SEEMLY_DEVICE": "cpu",
    "SEEMLY_DTYPE": "float32",
    "SEEMLY_TORCH_THREADS": "1",
    "SEEMLY_LIMIT_REQUESTS": "null",
    "SEEMLY_LIMIT_COST": str(4 * 32 * 32 * 50 * 2),  # what costs more is refused: the requests matter, not the pictures
    "SEEMLY_QUEUE_LIMIT": "8",
    "SEEMLY_IMAGES_WAIT_S": "5",
}


def fuzz(
    cases: Annotated[int, typer.Option(help="At least so many requests.")] = 20_000,
    seed: Annotated[int | None, typer.Option(help="Of an earlier run, to repeat it.")] = None,
    rate: Annotated[str, typer.Option(help="At most so many requests, as in 20/s.")] = "1000/s",
    report: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("out/fuzz"),
) -> None:
    """Ask a running stack everything its description allows and much that it does not. Exit code 0: all was well."""
    seed = secrets.randbelow(2**32) if seed is None else seed
    typer.echo(f"seed {seed}")
    report.mkdir(parents=True, exist_ok=True)
    os.environ.update(ENVIRONMENT)
    with TemporaryDirectory() as folder:
        model, data = tiny.save(Path(folder) / "model"), Path(folder) / "data"
        (model / "seemly.json").write_text('{"safety_concepts": ["weapons"]}')  # the default list is too long for it
        settings = Settings.model_validate({"model": str(model), "model_name": "tiny", "data": data, "port": 0})
        with EmbeddedStack(settings) as stack, Redis.from_url(stack.redis_url, decode_responses=True) as redis:
            key, _ = KeyRing(redis, None, data / "pepper").create("fuzzer", list(Scope))
            time.sleep(1.5)  # as long as the gateway believes that no key is needed
            began = time.monotonic()
            command = [
                *(str(Path(sys.executable).with_name("st")), "--config-file", str(CONFIG), "run"),
                *(f"{stack.url}/openapi.json", "--header", f"Authorization: Bearer {key}", "--checks", "all"),
                # DELETE /jobs/{job_id} cancels: what became of the job can be read afterwards
                *("--exclude-checks", "use_after_free"),
                *("--phases", "examples,coverage,fuzzing,stateful", "--seed", str(seed), "--continue-on-failure"),
                *("--max-examples", str(cases // CASES_PER_EXAMPLE), "--no-color", "--rate-limit", rate),
                *("--report", "json", "--report-json-path", str(report / "report.json")),
            ]
            exit_code = subprocess.run(command, check=False).returncode
            seconds = time.monotonic() - began
            stack.check()
            shutil.copy(stack.logs / "gateway.log", report)
    asked = json.loads((report / "report.json").read_bytes())["test_cases"]["generated"]
    typer.echo(f"seed {seed}: {asked} cases in {seconds:.0f} s")
    raise typer.Exit(exit_code if asked >= cases else 1)


if __name__ == "__main__":
    typer.run(fuzz)
