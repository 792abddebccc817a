"""A job made again, picture by picture beside the one before, as both are delivered: blurred, or as a JPEG is read.

Nothing is told of a picture that is withheld, then or now.
"""

import hashlib
import io
import logging
from collections.abc import Sequence

import numpy as np
import obstore
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from PIL import Image

from contract.job import Job, Original, picture_key
from contract.model import ModelInfo
from contract.result import ReproducedPicture, Reproduction
from contract.verdict import Verdict
from workers.encode import encode
from workers.results import Judged

log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB


def reproduction_of(job: Job, judged: Sequence[Judged], store: ObjectStore, info: ModelInfo) -> Reproduction | None:
    """How a job's pictures, not yet stored, differ from those before; None of a job that makes none again."""
    if (original := job.original) is None:
        return None
    return Reproduction(
        of=original.job,
        same_weights=original.weights_sha256 == info.weights_sha256,
        images=tuple(
            _beside(one, before, job, original, store) for one, before in zip(judged, original.verdicts, strict=True)
        ),
    )


def _beside(one: Judged, before: Verdict, job: Job, original: Original, store: ObjectStore) -> ReproducedPicture:
    told = dict.fromkeys(("same_pixels", "max_difference", "mean_difference", "different_share"))
    index, old = one.picture.index, None
    if one.pixels is not None and before is Verdict.PASSED:
        old = _kept(store, picture_key(original.job, job.tenant, original.attempt, index, job.output_format))
    if one.pixels is not None and old is not None:
        told |= differences(old, _decoded(encode(one.pixels, job.output_format)))
    return ReproducedPicture(index=index, verdict_before=before, **told)


def differences(old: Pixels, new: Pixels) -> dict[str, bool | int | float]:
    """Of two pictures of one size: the fields of a `ReproducedPicture` that tell of pixels."""
    distance = np.abs(old.astype(np.int16) - new)
    return {
        "same_pixels": _sha256(old) == _sha256(new),
        "max_difference": int(distance.max()),
        "mean_difference": round(float(distance.mean()), 4),
        "different_share": round(float(distance.any(axis=2).mean()), 6),
    }


def _kept(store: ObjectStore, key: str) -> Pixels | None:
    try:
        return _decoded(bytes(obstore.get(store, key).bytes()))
    except (BaseError, OSError) as error:
        log.warning("%s cannot be read again: %s", key, type(error).__name__)
        return None


def _decoded(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
