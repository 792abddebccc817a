"""The worker's process: what it cannot run with is told in one line, not in a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contract.health import HealthServer
from tests.redis_server import running_redis
from workers.checkpoint import hash_weights
from workers.main import UnusableSetting, _work, choose_device, prepare, refuse_unsafe
from workers.settings import Settings


def test_a_setting_that_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    """By the process itself; tests/deploy/test_settings.py has every setting."""
    environment = {"SEEMLY_DATA": str(tmp_path), "PATH": os.environ["PATH"], "SEEMLY_MODEL": "/nowhere"}
    done = subprocess.run([sys.executable, "-m", "workers.main"], env=environment, capture_output=True, text=True)
    assert done.returncode == os.EX_CONFIG
    assert "SEEMLY_MODEL: '/nowhere' is neither a folder nor a hub id" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lease_that_ends_between_heartbeats_is_refused() -> None:
    with pytest.raises(ValueError, match="raise SEEMLY_LEASE_S or lower SEEMLY_HEARTBEAT_S"):
        Settings(lease_s=3)


def test_a_store_of_no_known_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableSetting, match=r"^SEEMLY_STORE_URL: a store is named by file://, s3://"):
        prepare(Settings(data=tmp_path, store_url="ftp://here", device="cpu"))


def test_a_level_may_be_written_small() -> None:
    assert Settings(log_level="debug").log_level == "DEBUG"


def test_the_device_of_this_machine_is_found() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")


def test_who_asks_for_a_gpu_that_is_not_there_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UnusableSetting, match=r"^SEEMLY_DEVICE='cuda:99' .*; set it to auto or cpu, or give"):
        prepare(Settings(data=tmp_path, device="cuda:99"))


@pytest.mark.parametrize(
    "options", [("--appendonly", "no"), ("--maxmemory", "1gb", "--maxmemory-policy", "volatile-lru")]
)
def test_a_redis_that_loses_jobs_is_refused(options: tuple[str, ...], tmp_path: Path) -> None:
    with running_redis(tmp_path, *options) as server, server.client() as client:
        with pytest.raises(UnusableSetting, match="SEEMLY_ALLOW_UNSAFE_REDIS"):
            refuse_unsafe(client)
        client.config_set("appendonly", "yes")
        client.config_set("maxmemory-policy", "noeviction")
        refuse_unsafe(client)


def test_a_worker_does_not_start_over_one(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_redis(tmp_path, "--appendonly", "no") as server, HealthServer(0, "127.0.0.1") as health:
        settings = Settings(redis_url=server.url, data=tmp_path, device="cpu", model=str(tiny_folder))
        with pytest.raises(SystemExit) as end:
            _work(settings, health, threads=1)
    assert end.value.code == os.EX_CONFIG
    assert "set its appendonly to yes; or, for trials, accept it" in capsys.readouterr().err


def test_a_model_that_is_not_as_pinned_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, device="cpu", model=str(tiny_folder), model_sha256="0" * 64)
    with pytest.raises(UnusableSetting, match=hash_weights(tiny_folder)):
        prepare(settings)
