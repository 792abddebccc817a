"""Pictures that passed become files that say where they came from: ids and hashes in XMP, signed where it is set up."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.job import Job
from contract.model import ModelInfo
from contract.provenance import Origin, Signature
from contract.request import OutputFormat
from workers.encode import encode

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Marking:
    """How files are marked: `is_telling` puts a packet into them, a signature a manifest."""

    info: ModelInfo
    is_telling: bool = True
    signature: Signature | None = None

    def file_of(self, pixels: NDArray[np.uint8], job: Job, index: int, applied: Mapping[str, Any] = NOTHING) -> bytes:
        """(height, width, 3) RGB, as it is delivered → a file's bytes; an upload was not made here, and is not marked.

        Raises:
            UnusableCertificate: it could not be signed; it must not leave unsigned then.
        """
        if job.uploads:
            return encode(pixels, job.output_format)
        origin = self._origin(job, index, applied.get("weights") or {})
        file = encode(pixels, job.output_format, origin.packet if self.is_telling else None)
        return file if self.signature is None else self.signature.signed(file, job.output_format, origin)

    def _origin(self, job: Job, index: int, erased: Mapping[str, Any]) -> Origin:
        own = job.of_picture(index)
        return Origin(
            job=job.id,
            picture=index,
            model=self.info.name,
            weights_sha256=self.info.weights_sha256,
            variant=f"{erased['variant']}@{erased['weights_sha256']}" if erased else "",
            plan="+".join(own.plan.methods) or "none",
            policy=f"{job.policy.id}@{job.policy.version}",
            detectors=" ".join(f"{each.name}@{each.version}" for each in self.info.detectors),
        )


def try_out(signature: Signature) -> None:
    """Sign a small picture.

    Raises:
        NoLibrary, UnusableCertificate: it cannot be signed.
    """
    origin = Origin(job="", picture=0, model="", weights_sha256="", plan="", policy="", detectors="")
    signature.signed(encode(np.zeros((16, 16, 3), np.uint8), OutputFormat.PNG), OutputFormat.PNG, origin)
