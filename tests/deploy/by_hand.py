"""`python -m tests.deploy.by_hand IMAGES`: docker-compose.yml without an engine, every command as it is written there.

    unshare --net --mount python -m tests.deploy.by_hand IMAGES     as root, since it mounts and changes users

IMAGES holds a root file system for each image: `gateway` and `worker-cpu` from `tests.deploy.build`, `others` with
Debian's redis-server and prometheus. Every service of the profile `cpu` gets its user, its environment (.env.example,
filled in as it asks), its read-only root, its volumes and tmpfs, in the order of `depends_on`, and is waited for by its
own health command; then one job goes through all of them. What no Debian package has is told: the object store's part
is taken by moto, an S3 server, and Grafana is left out.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from tests.deploy.dockerfile import stages

ROOT = Path(__file__).parents[2]
IMAGES = {"seemly-gateway": "gateway", "seemly-worker-cpu": "worker-cpu"}
ORDER = ("redis", "bucket", "store", "webhooks", "gateway", "worker-cpu", "prometheus")
HEALTHY_WITHIN_S = 300
STAND_IN = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "7070"]
OF_SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


class ByHand:
    """The services of one compose file, in a network of their own."""

    def __init__(self, images: Path, work: Path, stack: ExitStack) -> None:
        self.services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        written = re.findall(r"^([A-Z_0-9]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
        self.variables = {name: value or secrets.token_hex(32) for name, value in written}
        self.images, self.work, self.stack = images, work, stack
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def filled(self, text: object) -> str:
        """A value with its variables in it, as compose fills them in."""
        found = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda it: self.variables.get(it[1]) or it[2], str(text))
        return re.sub(r"\$\{(\w+):\?[^}]*\}", lambda it: self.variables[it[1]], found)

    def environment(self, name: str) -> dict[str, str]:
        """The image's, .env's and the service's own."""
        service, found = self.services[name], {"PATH": OF_SYSTEM}
        for step in stages()[service["build"]["target"]].steps if "build" in service else ():
            if step.word == "ENV":
                found |= {k: v.replace("$PATH", OF_SYSTEM) for k, v in re.findall(r"([A-Z_]+)=(\S+)", step.text)}
        found |= self.variables if "env_file" in service else {}
        return found | {key: self.filled(value) for key, value in service.get("environment", {}).items()}

    def root(self, name: str) -> Path:
        """The service's file system, as the compose file wants it."""
        service, root = self.services[name], self.work / name
        if root.exists():
            return root
        image = self.images / IMAGES.get(service["image"], "others")
        (image / "etc" / "hosts").write_text(f"127.0.0.1 localhost {' '.join(ORDER)}\n")
        volumes = [self.filled(one).split(":") for one in service.get("volumes", [])]
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
            held = ROOT / source if source.startswith(".") else self.work / f"volume-{source}"
            if not held.exists():
                held.mkdir()
                os.chown(held, int(service.get("user", "65534").partition(":")[0]), -1)
            mount("--bind", held, f"{root}{target}")
            if options:
                mount("-o", "remount,ro,bind", f"{root}{target}")
        return root

    def run(self, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """A command in a service, as `docker compose exec` runs it."""
        command = self.command(name, words)
        return subprocess.run(command, env=self.environment(name), capture_output=True, text=True, check=False)

    def command(self, name: str, words: Any) -> list[str]:
        user = self.services[name].get("user", "65534:65534")
        return ["/usr/sbin/chroot", f"--userspec={user}", str(self.root(name)), *map(self.filled, words)]

    def start(self, name: str) -> None:
        """Start a service; its log lies beside its root."""
        words = self.services[name]["command"]
        command = self.command(name, ["prometheus", *words] if name == "prometheus" else words)
        environment = self.environment(name) if name != "store" else {"PATH": os.environ["PATH"]}
        log = self.stack.enter_context((self.work / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            STAND_IN if name == "store" else command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.terminate)
        self.processes[name] = process

    def wait(self, name: str) -> None:
        """Until it is healthy, by its own command; wget is this machine's, as busybox' is in the images."""
        begun, words = time.monotonic(), self.services[name]["healthcheck"]["test"][1:]
        words = [word.replace("/health", "/moto-api/") for word in words] if name == "store" else words
        while (subprocess.run(words, check=False) if words[0] == "wget" else self.run(name, *words)).returncode:
            log = (self.work / f"{name}.log").read_text()
            assert self.processes[name].poll() is None, log
            assert time.monotonic() - begun < HEALTHY_WITHIN_S, log
            time.sleep(0.5)
        say(f"{name}: healthy after {time.monotonic() - begun:.1f} s")


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(images: str) -> None:
    """Bring everything up, send one job through, end everything. The mounts end with the namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    work = Path(tempfile.mkdtemp(prefix="by-hand-"))  # never removed here: this machine's /dev is mounted below it
    say(f"logs and volumes: {work}")
    with ExitStack() as stack:
        at = ByHand(Path(images), work, stack)
        at.start("redis")
        at.wait("redis")
        at.start("bucket")
        say(f"bucket: ended with {at.processes['bucket'].wait()}, {os.listdir(at.work / 'volume-pictures')} is there")
        at.start("store")
        at.wait("store")
        scope = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        urlopen(Request("http://127.0.0.1:7070/pictures", method="PUT", headers={"Authorization": scope})).close()
        at.start("webhooks")
        at.wait("webhooks")
        at.start("gateway")
        say(f"gateway: without keys it ends with {at.processes['gateway'].wait(30)}")
        made = [at.run("webhooks", "seemly", "keys", "create", "acme", "--json", *more).stdout for more in ((), ADMIN)]
        key, admin = (json.loads(one)["key"] for one in made)
        metrics_key = ROOT / "deploy" / "secrets" / "metrics-key"
        metrics_key.write_text(admin)
        stack.callback(metrics_key.unlink)
        for name in ("gateway", "worker-cpu", "prometheus"):
            at.start(name)
            at.wait(name)
        asked = {"prompt": "a pirate scene", "safety": "filter", "num_images": 2, "seed": 7}
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=60", "Content-Type": "application/json"}
        job = json.load(urlopen(Request("http://127.0.0.1:8000/generate", json.dumps(asked).encode(), headers)))
        say(f"job: {job['status']}, {[picture['verdict'] for picture in job['images']]}")
        picture = next(one for one in job["images"] if one["url"])
        content = urlopen(Request(f"http://127.0.0.1:8000{picture['url']}", headers=headers)).read()
        say(f"picture: {len(content)} bytes, begins with {content[:4]!r}")
        for name in ("webhooks", "gateway", "worker-cpu"):
            done = at.run(name, "seemly", "doctor", "--of", name.removesuffix("-cpu"))
            say(f"{name}: seemly doctor ends with {done.returncode}\n{done.stdout}{done.stderr}")
        time.sleep(20)
        up = json.load(urlopen("http://127.0.0.1:9090/api/v1/query?query=up"))["data"]["result"]
        say(f"prometheus: up { ({one['metric']['job']: one['value'][1] for one in up}) }")
        at.processes["worker-cpu"].terminate()
        say(f"worker-cpu: told to end, it ends with {at.processes['worker-cpu'].wait(60)}")


ADMIN = ("--scope", "admin")

if __name__ == "__main__":
    main(*sys.argv[1:])
