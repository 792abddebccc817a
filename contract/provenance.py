"""What a picture says of where it came from: an XMP packet with ids and hashes, and a signed manifest (C2PA 2.1).

Both name what made it `trainedAlgorithmicMedia` (IPTC), which is how others learn that a picture was generated. There
is nothing of the prompt in either. A packet is a claim that anybody can write or remove; a manifest is signed.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Literal
from xml.sax.saxutils import quoteattr, unescape

from pydantic import Field

from contract.request import OutputFormat
from contract.strict import Strict

NAMESPACE: Final = "https://github.com/seemly/ns/1.0/"
DIGITAL_SOURCE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
LABEL: Final = "org.seemly.origin"  # of the assertion in a manifest
_FIELD: Final = re.compile(r'\bseemly:([a-z_0-9]{1,40})=(?:"([^"]{0,2000})"|\'([^\']{0,2000})\')')
_LONGEST: Final = 1 << 16

# Nothing is fetched, whatever a manifest asks for, and no trust list is asked for either.
_READING: Final = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True}}


_WRITING: Final = {"builder": {"thumbnail": {"enabled": False}}}  # the picture is its own


class NoLibrary(ImportError):
    """c2pa-python is not installed."""


class UnusableCertificate(ValueError):
    """The certificate or its key cannot sign."""


class Origin(Strict):
    """What made a picture: ids and hashes, nothing that was asked for."""

    job: str
    picture: int
    model: str
    weights_sha256: str
    variant: str = ""  # of erased weights, name@SHA-256; none: of the model's own
    plan: str  # its methods, as in `sld+filter`
    policy: str  # id@version
    detectors: str  # name@version, separated by blanks

    @property
    def packet(self) -> bytes:
        """It as an XMP packet."""
        fields = " ".join(f"seemly:{name}={quoteattr(str(value))}" for name, value in self.model_dump().items())
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
            '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
            ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
            f' xmlns:seemly="{NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE}" {fields}/>'
            '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
        ).encode()

    @classmethod
    def found_in(cls, content: bytes) -> "Origin | None":
        """What a file's packet says; None where there is none of ours. Nothing of the file is decoded."""
        start = content.find(b"<x:xmpmeta")
        text = content[start : start + _LONGEST].decode("utf-8", errors="replace") if start >= 0 else ""
        entities = {"&quot;": '"', "&apos;": "'"}
        read = {name: unescape(one or other, entities) for name, one, other in _FIELD.findall(text)}
        try:
            return cls.model_validate(read)
        except ValueError:
            return None


class Manifest(Strict):
    """What a signed manifest says, and whether it holds."""

    state: Literal["Valid", "Trusted", "Invalid"] = Field(
        description="Valid: signed, and the file is as it was signed. Trusted: by somebody that this service trusts."
    )
    issuer: str | None = Field(description="Who signed, as the certificate says.")
    generator: str | None = Field(description="The program that made it.")
    digital_source: str | None = Field(description="IPTC's kind of source.", examples=[DIGITAL_SOURCE])
    origin: Origin | None = Field(description="Of a picture made here.")
    problems: tuple[str, ...] = Field(description="C2PA's codes of what is wrong.")


class Provenance(Strict):
    """What one file says of where it came from, and how much of that holds."""

    index: int
    sha256: str
    packet: Origin | None = Field(description="From XMP: anybody can write one. Null: there is none of ours.")
    manifest: Manifest | None = Field(description="The signed one; null: none, or none that could be read here.")
    manifest_read: bool = Field(description="Whether this service can read manifests: it needs the extra provenance.")
    delivered: bool = Field(
        description="Whether this very file, byte by byte, is on record as a passed picture of one of your jobs."
    )


class Provenances(Strict):
    """The same of each file, in order."""

    images: tuple[Provenance, ...]


def library() -> Any:
    """c2pa-python.

    Raises:
        NoLibrary: it comes with the extra `provenance`.
    """
    try:
        return import_module("c2pa")
    except ImportError as error:
        raise NoLibrary(f'C2PA needs a package that is not here ({error}): pip install -e ".[provenance]"') from None


@dataclass(frozen=True)
class Signature:
    """Signs pictures with a certificate chain and its key, both in PEM; ES256."""

    chain: bytes
    key: bytes

    def signed(self, content: bytes, picture_format: OutputFormat, origin: Origin) -> bytes:
        """The file with a manifest in it.

        Raises:
            NoLibrary
            UnusableCertificate: the certificate does not do for C2PA, or is not the key's.
        """
        c2pa, signed = library(), io.BytesIO()
        info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=self.chain, private_key=self.key, ta_url=None)
        try:
            with (
                c2pa.Context.from_dict(_WRITING) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(_manifest_of(origin), context) as builder,
            ):
                builder.sign(signer, f"image/{picture_format.value}", io.BytesIO(content), signed)
        except c2pa.C2paError as error:
            raise UnusableCertificate(f"the picture could not be signed: {error}") from None
        return signed.getvalue()


def manifest_in(content: bytes, picture_format: OutputFormat, anchors: str | None = None) -> Manifest | None:
    """A file's manifest, checked against the file and, where given, trust anchors in PEM; None without one.

    Raises:
        NoLibrary
    """
    c2pa = library()
    trust = {"trust": {"user_anchors": anchors}} if anchors else {}
    with _read(c2pa, content, picture_format, _READING | trust) as read:
        if read is None:
            return None
        return _told(read)


@contextmanager
def _read(c2pa: Any, content: bytes, picture_format: OutputFormat, settings: Mapping[str, Any]) -> Iterator[Any]:
    with c2pa.Context.from_dict(dict(settings)) as context:
        try:
            reader = c2pa.Reader.try_create(f"image/{picture_format.value}", io.BytesIO(content), context=context)
        except c2pa.C2paError:
            reader = None
        if reader is None:
            yield None
        else:
            with reader:
                yield json.loads(reader.json())


def _told(read: dict[str, Any]) -> Manifest:
    active = read.get("manifests", {}).get(read.get("active_manifest"), {})
    assertions = {each["label"]: each["data"] for each in active.get("assertions", ())}
    actions = [
        action
        for label, data in assertions.items()
        if label.startswith("c2pa.actions")
        for action in data.get("actions", ())
    ]
    generators = active.get("claim_generator_info") or [{}]
    try:
        origin = Origin.model_validate(assertions.get(LABEL))
    except ValueError:
        origin = None
    failures = read.get("validation_results", {}).get("activeManifest", {}).get("failure", ())
    return Manifest(
        state=read.get("validation_state", "Invalid"),
        issuer=(active.get("signature_info") or {}).get("issuer"),
        generator=generators[0].get("name"),
        digital_source=next((each["digitalSourceType"] for each in actions if "digitalSourceType" in each), None),
        origin=origin,
        problems=tuple(dict.fromkeys(str(failure.get("code")) for failure in failures)),
    )


def _manifest_of(origin: Origin) -> dict[str, Any]:
    created = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE}
    return {
        "claim_generator_info": [{"name": "Seemly", "version": "0.1.0"}],
        "title": f"{origin.job}-{origin.picture}",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": LABEL, "data": origin.model_dump(mode="json")},
        ],
    }
