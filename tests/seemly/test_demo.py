"""The demonstration as a stranger runs it, on the model that comes with the repository."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from contract.result import JobView
from contract.verdict import Verdict
from seemly import demo
from seemly.redis_process import RedisPlace


@pytest.mark.timeout(300)
def test_the_demonstration_shows_what_the_filter_withholds(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEEMLY_") and name != "REDIS_URL"}
    answer = subprocess.run(
        [sys.executable, "-c", "from seemly.cli import app; app()", "demo", "--out", str(out)],
        env=kept | {"SEEMLY_DATA": str(data), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr

    told = json.loads((out / "result.json").read_text())
    jobs = {name: JobView.model_validate(view) for name, view in told["jobs"].items()}
    assert set(jobs) == set(demo.PLANS)
    for name, job in jobs.items():
        assert len(job.images) == demo.PICTURES
        for picture in job.images:
            assert picture.concepts, "a picture without scores"
            file = out / f"{name}-{picture.index}.png"
            assert file.exists() == (picture.verdict is Verdict.PASSED)
            if file.exists():
                assert hashlib.sha256(file.read_bytes()).hexdigest() == picture.sha256

    plain, filtered = jobs["none"].images, jobs["filter"].images
    assert [picture.seed for picture in plain] == [picture.seed for picture in filtered]
    assert all(picture.verdict is Verdict.PASSED for picture in plain), "plain generation withholds nothing"
    flagged = [picture.index for picture in plain if any(score.flagged for score in picture.concepts)]
    withheld = [picture.index for picture in filtered if picture.verdict is Verdict.BLOCKED]
    assert withheld == flagged
    assert withheld, "the demonstration shows nothing withheld"

    with Image.open(out / "contact-sheet.png") as sheet:
        assert sheet.width > demo.PICTURES * 64
    for word in ("passed", "blocked", "threshold", "margin", "contact-sheet.png"):
        assert word in answer.stdout
    assert not RedisPlace.of(data).is_up(), "Redis was left running"
