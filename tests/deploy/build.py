"""`python -m tests.deploy.build TARGET BASE INTO`: the Dockerfile's steps by hand, where no engine can be had.

Every stage that the target needs gets a copy of BASE, a root file system with what its base image brings (of the Python
images: `debootstrap --include=python3-venv,python3-pip bookworm BASE`). RUN runs in it by chroot, COPY copies what
.dockerignore lets through. Needs root. BIND names folders of this machine that pip may need, `:` between them.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.deploy.dockerfile import Stage, Step, stages

ROOT = Path(__file__).parents[2]
BINDS = [folder for folder in os.environ.get("BIND", "").split(":") if folder]
PASSED_ON = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTPS_", "HTTP_"))}


def needed(target: str) -> list[Stage]:
    """The target's stage and those it copies from, each after those that it needs."""
    stage = stages()[target]
    sources = [source for step in stage.steps for source in re.findall(r"--from=(\S+)", step.text)]
    names = [one.name for source in sources for one in needed(source)]
    return [stages()[name] for name in dict.fromkeys([*names, target])]


def copy(step: Step, root: Path, roots: dict[str, Path], workdir: str) -> None:
    """COPY, of a stage or of the context."""
    words = [word for word in step.text.split() if not word.startswith("--chown=")]
    origin = roots[words.pop(0).removeprefix("--from=")] if words[0].startswith("--from=") else ROOT
    *sources, target = words
    into = root / target.lstrip("/") if target.startswith("/") else root / workdir.lstrip("/") / target
    for source in sources:
        found = origin / source.lstrip("/")
        place = into / found.name if target.endswith("/") or (len(sources) > 1) else into
        place.parent.mkdir(parents=True, exist_ok=True)
        owner = re.search(r"--chown=(\S+)", step.text)
        if found.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__")
            shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=unwanted)
        else:
            shutil.copy2(found, place)
        if owner:
            subprocess.run(["chown", "--recursive", owner[1], str(place)], check=True)


def run(step: Step, root: Path, workdir: str) -> None:
    """RUN."""
    inside = f"cd {shlex.quote(workdir)} && {step.text}"
    command = ["chroot", str(root), "/bin/sh", "-ec", inside]
    path = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run(command, check=True, env=path | PASSED_ON)


def build(stage: Stage, base: Path, into: Path, roots: dict[str, Path]) -> Path:
    """One stage, in a root of its own."""
    root = into / stage.name
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    (root / "usr" / "local" / "bin" / "python").symlink_to("/usr/bin/python3")
    mounted = []
    try:
        for folder in BINDS:
            (root / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", "-o", "ro", folder, str(root / folder.lstrip("/"))], check=True)
            mounted.append(root / folder.lstrip("/"))
        workdir = "/"
        for step in stage.steps:
            match step.word:
                case "RUN":
                    sys.stdout.write(f"[{stage.name}] RUN {step.text}\n")
                    sys.stdout.flush()
                    run(step, root, workdir)
                case "COPY":
                    copy(step, root, roots, workdir)
                case "WORKDIR":
                    workdir = step.text
                    (root / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
    finally:
        for place in mounted:
            subprocess.run(["umount", str(place)], check=True)
    return root


def main(target: str, base: str, into: str) -> None:
    """Build a target and tell what it weighs beside its base."""
    roots: dict[str, Path] = {}
    for stage in needed(target):
        roots[stage.name] = build(stage, Path(base), Path(into), roots)
    sizes = [
        int(subprocess.run(["du", "-sm", str(root)], check=True, capture_output=True, text=True).stdout.split()[0])
        for root in (roots[target], Path(base))
    ]
    sys.stdout.write(f"{target}: {sizes[0]} MB, of these {sizes[1]} MB of the base\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
