"""Where a picture came from: told in its file, signed, and read back by C2PA's own library."""

import io
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from contract.provenance import DIGITAL_SOURCE, NoLibrary, Origin, Signature, UnusableCertificate, manifest_in
from contract.request import OutputFormat
from seemly.certificates import Written, make_certificate
from seemly.cli import app
from tests.service.parts import model_info, some_job
from workers.encode import encode
from workers.main import UnusableSetting, signature_of
from workers.marking import Marking
from workers.settings import Settings

PIXELS = np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8)
ORIGIN = Origin(
    job="7" * 32,
    picture=3,
    model='a "quoted" <model> & more',
    weights_sha256="1" * 64,
    plan="sld+filter",
    policy="strict@4",
    detectors="clip-checker@1 q16@2",
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return make_certificate(tmp_path_factory.mktemp("certificate"), "Somebody", timedelta(days=1))


@pytest.fixture(scope="module")
def signature(certificate: Written) -> Signature:
    return Signature(certificate.chain.read_bytes(), certificate.key.read_bytes())


def pixels_of(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("picture_format", OutputFormat)
def test_the_packet_is_in_every_format_and_changes_no_pixel(picture_format: OutputFormat) -> None:
    plain, told = encode(PIXELS, picture_format), encode(PIXELS, picture_format, ORIGIN.packet)
    assert Origin.found_in(told) == ORIGIN
    assert Origin.found_in(plain) is None
    np.testing.assert_array_equal(pixels_of(plain), pixels_of(told))
    assert DIGITAL_SOURCE.encode() in told


@pytest.mark.parametrize("picture_format", OutputFormat)
def test_the_manifest_is_read_back_by_the_librarys_own_reader(
    picture_format: OutputFormat, signature: Signature, certificate: Written
) -> None:
    file = signature.signed(encode(PIXELS, picture_format, ORIGIN.packet), picture_format, ORIGIN)
    with c2pa.Reader(f"image/{picture_format.value}", io.BytesIO(file)) as reader:
        read = json.loads(reader.json())
    active = read["manifests"][read["active_manifest"]]
    assert read["validation_state"] == "Valid"
    [action] = next(each for each in active["assertions"] if each["label"] == "c2pa.actions.v2")["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", DIGITAL_SOURCE)
    assert active["signature_info"]["issuer"] == "Somebody"
    found = manifest_in(file, picture_format)
    assert found is not None
    assert (found.state, found.origin, found.digital_source) == ("Valid", ORIGIN, DIGITAL_SOURCE)
    assert found.problems == ("signingCredential.untrusted",)
    trusted = manifest_in(file, picture_format, certificate.anchor.read_text())
    assert trusted is not None
    assert (trusted.state, trusted.problems) == ("Trusted", ())
    np.testing.assert_array_equal(pixels_of(file), pixels_of(encode(PIXELS, picture_format)))
    assert Origin.found_in(file) == ORIGIN


def test_one_changed_byte_is_seen(signature: Signature) -> None:
    file = bytearray(signature.signed(encode(PIXELS, OutputFormat.PNG), OutputFormat.PNG, ORIGIN))
    assert manifest_in(bytes(file), OutputFormat.PNG).state == "Valid"  # type: ignore[union-attr]
    file[-30] ^= 1
    changed = manifest_in(bytes(file), OutputFormat.PNG)
    assert changed is not None
    assert (changed.state, "assertion.dataHash.mismatch" in changed.problems) == ("Invalid", True)
    assert manifest_in(encode(PIXELS, OutputFormat.PNG), OutputFormat.PNG) is None


def test_a_picture_is_marked_with_what_made_it_and_not_with_what_was_asked(signature: Signature) -> None:
    job = some_job(prompt="a secret garden", negative_prompt="nettles", seeds=(41, 42))
    for marking in (Marking(model_info()), Marking(model_info(), signature=signature)):
        file = marking.file_of(PIXELS, job, 1)
        origin = Origin.found_in(file)
        assert origin is not None
        assert (origin.job, origin.picture, origin.plan, origin.policy) == (job.id, 1, "filter", "default@1")
        assert not any(word in file for word in (b"secret garden", b"nettles"))
        assert origin.variant == ""
        erased = {"weights": {"variant": "sdd-weapons", "weights_sha256": "2" * 64}}
        origin = Origin.found_in(marking.file_of(PIXELS, job, 1, erased))
        assert origin is not None
        assert origin.variant == f"sdd-weapons@{'2' * 64}"
    assert Origin.found_in(Marking(model_info(), is_telling=False).file_of(PIXELS, job, 1)) is None


def test_what_cannot_sign_keeps_the_worker_from_starting(
    certificate: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_certificate(tmp_path / "other", "Else", timedelta(days=1))
    (tmp_path / "text.pem").write_text("no certificate")
    good = {"provenance": "signed", "provenance_certificate": certificate.chain, "provenance_key": certificate.key}
    assert signature_of(Settings.model_validate(good)) is not None
    for changes, told in (
        ({"provenance_key": None}, "SEEMLY_PROVENANCE=signed needs SEEMLY_PROVENANCE_KEY"),
        ({"provenance_certificate": tmp_path / "nowhere"}, "SEEMLY_PROVENANCE_CERTIFICATE=.*No such file"),
        ({"provenance_certificate": tmp_path / "text.pem"}, "SEEMLY_PROVENANCE: the picture could not be signed"),
        ({"provenance_key": other.key}, "SEEMLY_PROVENANCE: the picture could not be signed"),
    ):
        with pytest.raises(UnusableSetting, match=told):
            signature_of(Settings.model_validate(good | changes))
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(UnusableSetting, match=r'pip install -e "\.\[provenance\]"'):
        signature_of(Settings.model_validate(good))
    with pytest.raises(NoLibrary):
        manifest_in(b"", OutputFormat.PNG)
    assert issubclass(UnusableCertificate, ValueError)


def test_the_command_makes_a_certificate_once_and_guards_its_key(tmp_path: Path) -> None:
    def run() -> Any:
        return CliRunner().invoke(app, ["provenance", "certificate", "--out", str(tmp_path / "made"), "--json"])

    made = run()
    assert made.exit_code == 0, made.output
    files = {name: Path(path) for name, path in json.loads(made.stdout).items()}
    assert files["key"].stat().st_mode & 0o077 == 0
    chain = Signature(files["certificate"].read_bytes(), files["key"].read_bytes())
    assert chain.signed(encode(PIXELS, OutputFormat.JPEG), OutputFormat.JPEG, ORIGIN)
    again = run()
    assert again.exit_code == 1
    assert "is there already" in again.stderr
