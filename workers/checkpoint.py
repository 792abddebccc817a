"""Checkpoints as files: found here or fetched from a hub, hashed, compared with what was pinned. Imports no torch."""

import errno
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from workers.safety.detectors.detector import hash_files

# What a download may bring: no pickles, no code, no single-file checkpoints, no second copies of the weights.
HUB_PATTERNS = ["*.json", "*/*.txt", "*/*.safetensors"]
HUB_EXCEPTIONS = ["*.fp16.*", "*.non_ema.*"]
WEIGHING = (".safetensors", ".json")  # files that shape pictures or scores

ORIGIN = "origin.json"  # beside a fetched checkpoint's parts, where no hash counts it: source and revision

# A tensor that is missing here would be made of ones on loading, and a picture flagged by none of its concepts.
DETECTOR_TENSORS = ("concept_embeds", "concept_embeds_weights", "special_care_embeds", "special_care_embeds_weights")


class UnusableModel(ValueError):
    """A checkpoint that cannot be served; the message says what it lacks."""


def find_folder(source: str, revision: str | None = None) -> Path:
    """The checkpoint on this machine, downloaded when `source` is a hub id and not a folder.

    Raises:
        UnusableModel: neither a folder nor to be had.
    """
    folder = Path(source)
    return folder if folder.is_dir() else _download(source, revision)


def _download(source: str, revision: str | None, into: Path | None = None) -> Path:
    """A hub's checkpoint, in a folder or in the hub's own cache."""
    if Path(source).is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise UnusableModel(f'{source!r} is neither a folder nor a hub id like "owner/name"')
    try:
        return Path(
            snapshot_download(
                source,
                revision=revision,
                local_dir=into,
                allow_patterns=HUB_PATTERNS,
                ignore_patterns=HUB_EXCEPTIONS,
            )
        )
    except Exception as error:
        raise UnusableModel(f"{source!r} is no folder here and could not be had from the hub: {error}") from error


def hash_weights(folder: Path) -> str:
    """SHA-256 over the sorted lines `<sha256>  <path>`, as `sha256sum` prints them, of all that shapes a picture or its
    scores: the weights, and the settings in the folders beside them."""
    return hash_files((p for p in folder.glob("*/*") if p.suffix in WEIGHING), folder)


def check_pin(folder: Path, pinned: str | None, *, name: str | None = None) -> str:
    """The checkpoint's hash, which is the pinned one where one is pinned. `name` is what people know the folder by.

    Raises:
        UnusableModel: it is another.
    """
    found = hash_weights(folder)
    if pinned is not None and found != pinned:
        raise UnusableModel(
            f"{name or folder} has the hash {found} and not {pinned}, which is pinned: its weights or settings are not"
            " those that were looked at. Fetch the pinned revision, or pin the new hash once it was measured"
        )
    return found


def check_detector(folder: Path) -> None:
    """See that the safety checker brings its concepts and their thresholds.

    Raises:
        UnusableModel: it does not, or there is none.
    """
    file = folder / "safety_checker" / "model.safetensors"
    without = "without it no picture could be judged"
    try:
        with safe_open(file, "np") as tensors:
            missing = set(DETECTOR_TENSORS) - set(tensors.keys())
            if missing:
                raise UnusableModel(f"{file} lacks {', '.join(sorted(missing))}; {without}")
            if not all(np.isfinite(tensors.get_tensor(name)).all() for name in DETECTOR_TENSORS):
                raise UnusableModel(f"{file} holds thresholds or concepts that are no numbers; {without}")
    except (OSError, SafetensorError) as error:
        raise UnusableModel(f"{folder} has no usable safety checker in safetensors; {without}: {error}") from error


def fetch(source: str, into: Path, *, revision: str | None, pinned: str | None) -> str:
    """Put a checkpoint into a folder, and return its hash. A folder that holds it already is left alone: by the pinned
    hash, or where none is pinned by the source and revision it was fetched from.

    What is incomplete or not as pinned never stands there under that name, and no other revision takes the place of one
    that workers may be reading: each has a folder of its own.

    Raises:
        UnusableModel: it cannot be had, is not as pinned, has no detector, or another one is there.
        OSError: the folder cannot be written.
    """
    if into.is_dir():
        if pinned is None:
            _check_origin(into, _origin(source, revision))
        check_detector(into)
        return check_pin(into, pinned)
    parts = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
    whole = parts / into.name
    try:
        if Path(source).is_dir():
            shutil.copytree(source, whole)
        else:
            _download(source, revision, whole)
        check_detector(whole)
        found = check_pin(whole, pinned, name=source)
        (whole / ORIGIN).write_text(json.dumps(_origin(source, revision)))
        try:
            whole.rename(into)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            return fetch(source, into, revision=revision, pinned=pinned)  # another process was here first
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return found


def _origin(source: str, revision: str | None) -> dict[str, str | None]:
    return {"source": source, "revision": revision}


def _check_origin(folder: Path, wanted: dict[str, str | None]) -> None:
    """See that a folder was fetched from where it would be fetched from now.

    Raises:
        UnusableModel: it was not, or nobody knows.
    """
    try:
        held = json.loads((folder / ORIGIN).read_text())
    except (OSError, ValueError):
        held = None
    if held != wanted:
        told = " at ".join(filter(None, held.values())) if isinstance(held, dict) else "a model of unknown origin"
        raise UnusableModel(
            f"{folder} holds {told}, and not {' at '.join(filter(None, wanted.values()))}: fetch each revision into a"
            " folder of its own, or pin the hash that this one must have"
        )
