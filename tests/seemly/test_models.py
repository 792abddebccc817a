"""`seemly models`: what is fetched is complete and as pinned, or is not there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects
from typer.testing import CliRunner

from seemly.models import app
from workers import checkpoint
from workers.checkpoint import hash_weights


def run(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*map(str, words)])
    return done.exit_code, " ".join(done.output.split())


def test_a_pinned_model_is_fetched_once_and_checked_again(tiny_folder: Path, tmp_path: Path) -> None:
    pinned, into = hash_weights(tiny_folder), tmp_path / "models" / "tiny"
    for _ in range(2):
        assert run("fetch", tiny_folder, "--into", into, "--sha256", pinned)[0] == 0
    assert json.loads(CliRunner().invoke(app, ["hash", str(into), "--json"]).stdout)["weights_sha256"] == pinned
    (into / "unet" / "config.json").write_text("{}")
    code, told = run("fetch", tiny_folder, "--into", into, "--sha256", pinned)
    assert (code, "is pinned" in told) == (1, True)


def test_another_revision_does_not_pass_for_the_one_that_is_there(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a pinned hash as well, and without a trace of what was asked for in vain."""

    def snapshot(source: str, **wanted: Any) -> str:
        made = shutil.copytree(tiny_folder, wanted["local_dir"])
        (made / "unet" / "config.json").write_text(json.dumps({"revision": wanted["revision"]}))
        return str(made)

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    into, beside = tmp_path / "sd" / "first", tmp_path / "sd" / "second"
    for _ in range(2):
        assert run("fetch", "owner/name", "--revision", "first", "--into", into)[0] == 0
    held = hash_weights(into)
    for words in (["owner/name", "--revision", "second"], ["owner/other", "--revision", "first"], ["owner/name"]):
        code, told = run("fetch", *words, "--into", into)
        assert (code, "holds owner/name at first, and not" in told) == (1, True)
    assert run("fetch", "owner/name", "--revision", "second", "--into", beside)[0] == 0
    assert hash_weights(into) == held != hash_weights(beside)
    code, told = run("fetch", "owner/name", "--revision", "second", "--into", into, "--sha256", hash_weights(beside))
    assert (code, "is pinned" in told) == (1, True)
    assert run("fetch", "owner/name", "--revision", "second", "--into", into, "--sha256", held)[0] == 0
    (into / "origin.json").unlink()
    code, told = run("fetch", "owner/name", "--revision", "first", "--into", into)
    assert (code, "unknown origin" in told) == (1, True)
    assert sorted(path.name for path in (tmp_path / "sd").iterdir()) == ["first", "second"]


def test_what_is_not_as_pinned_or_has_no_detector_is_never_put_there(tiny_folder: Path, tmp_path: Path) -> None:
    code, told = run("fetch", tiny_folder, "--into", tmp_path / "to" / "it", "--sha256", "0" * 64)
    assert (code, hash_weights(tiny_folder) in told) == (1, True)
    blind = shutil.copytree(tiny_folder, tmp_path / "blind", ignore=shutil.ignore_patterns("safety_checker"))
    code, told = run("fetch", blind, "--into", tmp_path / "to" / "it")
    assert (code, "no usable safety checker" in told) == (1, True)
    assert list((tmp_path / "to").iterdir()) == []


def test_a_hub_is_asked_for_the_pinned_revision_and_for_nothing_that_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub itself is the outside network: in its place, a copy by the client's own rules of what is wanted."""
    asked = []

    def snapshot(source: str, **wanted: Any) -> str:
        asked.append((source, wanted["revision"]))
        (tiny_folder / "evil.py").touch()
        names = [str(path.relative_to(tiny_folder)) for path in tiny_folder.rglob("*") if path.is_file()]
        kept = filter_repo_objects(
            names, allow_patterns=wanted["allow_patterns"], ignore_patterns=wanted["ignore_patterns"]
        )
        for name in kept:
            (wanted["local_dir"] / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tiny_folder / name, wanted["local_dir"] / name)
        return str(wanted["local_dir"])

    monkeypatch.setattr(checkpoint, "snapshot_download", snapshot)
    pinned = hash_weights(tiny_folder)
    code, _ = run("fetch", "owner/name", "--revision", "abc123", "--into", tmp_path / "one", "--sha256", pinned)
    (tiny_folder / "evil.py").unlink()
    assert (code, asked) == (0, [("owner/name", "abc123")])
    assert not (tmp_path / "one" / "evil.py").exists()


def test_no_hub_and_no_folder_is_told(tmp_path: Path) -> None:
    code, told = run("hash", tmp_path / "nowhere")
    assert (code, "neither a folder nor a hub id" in told) == (1, True)
