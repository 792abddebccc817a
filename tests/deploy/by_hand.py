"""`python -m tests.deploy.by_hand IMAGES`: docker-compose.yml without an engine, every command as it is written there.

    unshare --net --mount python -m tests.deploy.by_hand IMAGES     as root, since it mounts and changes users

IMAGES holds a root file system for each image: `gateway` and `worker-cpu` from `tests.deploy.build`, `others` with
Debian's redis-server, prometheus and prometheus-alertmanager. Every service of the profiles `cpu` and `lab-cpu` gets
its user, its environment (.env.example, filled in as it asks), its read-only root, its volumes and tmpfs, in the order
of `depends_on`, and is waited for by its own health command; then a picture, an erasure, a webhook's worth of alerts go
through them, and `model` fetches two revisions out of a folder. What no Debian package has is told: moto, an S3 server,
takes the object store's part; Grafana, the collector and the GPU are left out.

All of it shares one network, where two cannot listen on one port: the lab's metrics are at 9102, its health at 8003.
Prometheus looks for workers and labs by DNS, which nobody answers here.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.compose import ROOT, SERVICES, env, environment, filled
from tests.deploy.dockerfile import stages

# The image of a GPU's workers is built of Ubuntu's packages; `model` runs as well in the other.
IMAGES = {"seemly-gateway": "gateway", "seemly-worker-cpu": "worker-cpu", "seemly-worker": "worker-cpu"}
NAMES = " ".join(SERVICES)
HEALTHY_WITHIN_S = 300
STAND_IN = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "7070"]
OF_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OF_THE_LAB = {"9100": "9102", "8001": "8003"}
ALERTS_PORT = 9999


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


class ByHand:
    """The services of the compose file, in a network of their own."""

    def __init__(self, images: Path, work: Path, stack: ExitStack) -> None:
        self.variables = env(lambda name: secrets.token_hex(32))
        self.variables |= {"ALERTS_URL": f"http://127.0.0.1:{ALERTS_PORT}/", "SEEMLY_MODEL": "/models/source"}
        self.images, self.work, self.stack = images, work, stack
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, name: str) -> dict[str, str]:
        """The image's, and the service's own."""
        found = {"PATH": OF_SYSTEM}
        for step in stages()[SERVICES[name]["build"]["target"]].steps if "build" in SERVICES[name] else ():
            if step.word == "ENV":
                words = (word.partition("=") for word in step.text.split())
                found |= {key: value.replace("$PATH", OF_SYSTEM) for key, _, value in words}
        told = environment(name, self.variables)
        return found | {
            key: OF_THE_LAB.get(value, value) if name == "lab-cpu" else value for key, value in told.items()
        }

    def root(self, name: str) -> Path:
        """The service's file system, as the compose file wants it."""
        service, root = SERVICES[name], self.work / name
        if root.exists():
            return root
        image = self.images / IMAGES.get(service["image"], "others")
        (image / "etc" / "hosts").write_text(f"127.0.0.1 localhost {NAMES}\n")
        volumes = [one.split(":") for one in service.get("volumes", [])]
        for place in ("proc", "dev", *service.get("tmpfs", []), *(volume[1] for volume in volumes)):
            (image / place.lstrip("/")).mkdir(parents=True, exist_ok=True)
        root.mkdir()
        mount("--bind", image, root)
        if service["read_only"]:
            mount("-o", "remount,ro,bind", root)
        mount("--bind", "/dev", root / "dev")
        mount("-t", "proc", "proc", root / "proc")
        for place in service.get("tmpfs", []):
            mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}{place}")
        for source, target, *options in volumes:
            held = ROOT / source if source.startswith(".") else self.volume(source, name, image / target.lstrip("/"))
            mount("--bind", held, f"{root}{target}")
            if options:
                mount("-o", "remount,ro,bind", f"{root}{target}")
        return root

    def volume(self, source: str, name: str, in_image: Path) -> Path:
        """A named volume: as the image has it when it is new."""
        held = self.work / f"volume-{source}"
        if not held.exists():
            held.mkdir()
            os.chown(held, int(SERVICES[name].get("user", "65534").partition(":")[0]), -1)
            if any(in_image.iterdir()):
                subprocess.run(["cp", "-a", f"{in_image}/.", f"{held}/"], check=True)
        return held

    def run(self, name: str, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        """A command in a service, as `docker compose exec` and `run` run it."""
        told = self.environment(name) | variables
        return subprocess.run(self.command(name, words), env=told, capture_output=True, text=True, check=False)

    def command(self, name: str, words: Any) -> list[str]:
        user = SERVICES[name].get("user", "65534:65534")
        return ["/usr/sbin/chroot", f"--userspec={user}", str(self.root(name)), *filled(list(words), self.variables)]

    def start(self, name: str) -> None:
        """Start a service; its log lies beside its root."""
        service = SERVICES[name]
        words = [*service.get("entrypoint", []), *service.get("command", [])]
        command = self.command(name, ["prometheus", *words] if name == "prometheus" else words)
        told = self.environment(name) if name != "store" else {"PATH": os.environ["PATH"]}
        log = self.stack.enter_context((self.work / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            STAND_IN if name == "store" else command, env=told, stdout=log, stderr=log, start_new_session=True
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        self.processes[name] = process

    def wait(self, name: str) -> None:
        """Until it is healthy, by its own command; wget is this machine's, as busybox' is in the images."""
        begun, words = time.monotonic(), SERVICES[name]["healthcheck"]["test"][1:]
        words = [word.replace("/health", "/moto-api/") for word in words] if name == "store" else words
        words = [word.replace("8001", OF_THE_LAB["8001"]) for word in words] if name == "lab-cpu" else words
        while (subprocess.run(words, check=False) if words[0] == "wget" else self.run(name, *words)).returncode:
            log = (self.work / f"{name}.log").read_text()
            assert self.processes[name].poll() is None, log
            assert time.monotonic() - begun < HEALTHY_WITHIN_S, log
            time.sleep(0.5)
        say(f"{name}: healthy after {time.monotonic() - begun:.1f} s")

    def up(self, *names: str) -> None:
        for name in names:
            self.start(name)
            self.wait(name)


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def ask(address: str, key: str = "", body: Any = None, **headers: str) -> Any:
    """A GET, or a POST where there is a body."""
    told = ({"Authorization": f"Bearer {key}"} if key else {}) | headers
    answer = httpx.request("GET" if body is None else "POST", address, json=body, headers=told, timeout=120)
    assert answer.is_success, f"{address}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


@contextmanager
def told_of_alerts() -> Iterator[list[Any]]:
    """Takes what Alertmanager posts."""
    found: list[Any] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", ALERTS_PORT), Taker)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()


def make(at: ByHand, key: str) -> None:
    """A picture, then erased weights, promoted."""
    gateway = "http://127.0.0.1:8000"
    asked = {"prompt": "a pirate scene", "safety": "filter", "num_images": 2, "seed": 7}
    job = ask(f"{gateway}/generate", key, asked, Prefer="wait=60")
    say(f"job: {job['status']}, {[picture['verdict'] for picture in job['images']]}")
    picture = next(one for one in job["images"] if one["url"])
    content = httpx.get(f"{gateway}{picture['url']}", headers={"Authorization": f"Bearer {key}"}).content
    say(f"picture: {len(content)} bytes, begins with {content[:4]!r}")
    wanted = {"name": "uce-by-hand", "recipe": {"method": "uce", "concepts": ["knife"]}, "prompts": 1}
    erasure = ask(f"{gateway}/erasures", key, wanted)
    address, begun = f"{gateway}/erasures/{erasure['id']}", time.monotonic()
    while (told := ask(address, key))["status"] in ("queued", "running"):
        assert time.monotonic() - begun < HEALTHY_WITHIN_S, told
        time.sleep(1)
    say(f"erasure: {told['status']} after {time.monotonic() - begun:.0f} s")
    time.sleep(25)  # workers look at the shelf with each lease
    promoted = ask(f"{gateway}/variants/uce-by-hand/promote", key, {"force": "by hand"})
    say(f"promoted: {promoted['status']}; the volume holds {sorted(os.listdir(at.work / 'volume-erased-demo'))}")


def fetch(at: ByHand) -> None:
    """The service `model`, for two revisions, and the first again."""
    at.root("model")
    volume = at.work / "volume-models"
    os.chown(volume, 10001, 10001)  # as the folder is in the image that this one stands in for
    shutil.copytree(ROOT / "models" / "demo", volume / "source")
    for revision in ("first", "second", "first"):
        at.variables["SEEMLY_MODEL_REVISION"] = revision
        done = at.run("model", *SERVICES["model"]["command"])
        told = sorted(path.name for path in (volume / "sd15").iterdir())
        say(f"model: at {revision} it ends with {done.returncode}, {told} are there {done.stderr}")


def main(images: str) -> None:
    """Bring everything up, send jobs through, end everything. The mounts end with the namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    work = Path(tempfile.mkdtemp(prefix="by-hand-"))  # never removed here: this machine's /dev is mounted below it
    say(f"logs and volumes: {work}")
    alertmanager = Path(images) / "others" / "usr" / "local" / "bin" / "alertmanager"
    if not alertmanager.is_symlink():
        alertmanager.symlink_to("/usr/bin/prometheus-alertmanager")  # Debian's name for it
    with ExitStack() as stack:
        at = ByHand(Path(images), work, stack)
        at.up("redis")
        at.start("bucket")
        say(f"bucket: ended with {at.processes['bucket'].wait()}, {os.listdir(at.work / 'volume-pictures')} is there")
        at.up("store")
        scope = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        httpx.put("http://127.0.0.1:7070/pictures", headers={"Authorization": scope}).raise_for_status()
        at.up("webhooks")
        at.start("gateway")
        say(f"gateway: without keys it ends with {at.processes['gateway'].wait(30)}")
        scopes = [("--scope", "generate", "--scope", "admin"), ("--scope", "admin")]
        made = [at.run("commands", "seemly", "keys", "create", "acme", "--json", *more) for more in scopes]
        assert not any(one.returncode for one in made), made
        key, metrics = (json.loads(one.stdout)["key"] for one in made)
        metrics_key = ROOT / "deploy" / "secrets" / "prometheus" / "metrics-key"
        metrics_key.write_text(metrics)
        stack.callback(metrics_key.unlink)
        at.up("gateway", "worker-cpu", "lab-cpu", "prometheus", "alertmanager")
        make(at, key)
        fetch(at)
        extras = at.run("worker-cpu", "python", "-c", "import boto3, c2pa, nudenet, opentelemetry.sdk")
        say(f"worker-cpu: packages of its settings are there: {extras.returncode == 0} {extras.stderr}")
        for name, of in (("commands", ()), *((one, ("--of", one.removesuffix("-cpu"))) for one in LOOKED_AT)):
            done = at.run(name, "seemly", "doctor", *of)
            say(f"{name}: seemly doctor ends with {done.returncode}\n{done.stdout}{done.stderr}")
        with told_of_alerts() as alerts:
            ask("http://127.0.0.1:9093/api/v2/alerts", "", [{"labels": {"alertname": "ByHand", "severity": "page"}}])
            time.sleep(40)  # alerts of a group wait 30 s for one another
            say(f"alertmanager: told of {[one['commonLabels'] for one in alerts]}")
        up = ask("http://127.0.0.1:9090/api/v1/query?query=up")["data"]["result"]
        say(f"prometheus: up { ({one['metric']['job']: one['value'][1] for one in up}) }")
        known = ask("http://127.0.0.1:9090/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
        say(f"prometheus: tells {known}")
        for name in ("lab-cpu", "worker-cpu"):
            at.processes[name].terminate()
            say(f"{name}: told to end, it ends with {at.processes[name].wait(60)}")


LOOKED_AT = ("webhooks", "gateway", "worker-cpu")

if __name__ == "__main__":
    main(*sys.argv[1:])
