"""A certificate to sign pictures with while developing: its own authority, a certificate under it, and its key.

What it signs is valid and not trusted by anybody else: for that, a certificate from an authority on C2PA's trust list
is needed, which is used in the same place.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from seemly.errors import SeemlyError

CHAIN, KEY, ANCHOR = "certificate.pem", "key.pem", "authority.pem"


@dataclass(frozen=True)
class Written:
    """The files of a certificate."""

    chain: Path
    key: Path
    anchor: Path


def make_certificate(folder: Path, name: str, valid_for: timedelta) -> Written:
    """A chain (the certificate, then its authority), the certificate's key, readable by its owner only, and the
    authority alone, for those who are to trust it. The authority's key is kept nowhere.

    Raises:
        SeemlyError: there is a certificate already, or no library to make one with.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        message = f'certificates need a package that is not here ({error}): pip install -e ".[provenance]"'
        raise SeemlyError(message) from None
    written = Written(folder / CHAIN, folder / KEY, folder / ANCHOR)
    for path in (written.chain, written.key, written.anchor):
        if path.exists():
            raise SeemlyError(f"{path} is there already; name another folder, or remove it")

    def named(common: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, name), x509.NameAttribute(NameOID.COMMON_NAME, common)]
        )

    now = datetime.now(UTC)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def certificate(subject: x509.Name, of: ec.EllipticCurvePrivateKey, is_authority: bool) -> x509.Certificate:
        usage = x509.KeyUsage(
            digital_signature=not is_authority,
            key_cert_sign=is_authority,
            crl_sign=is_authority,
            **dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
                 "decipher_only"),
                False,
            ),
        )  # fmt: skip
        building = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(named("development authority"))
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + valid_for)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        )
        if not is_authority:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            building = building.add_extension(purposes, critical=False)
        return building.sign(authority_key, hashes.SHA256())

    authority = certificate(named("development authority"), authority_key, is_authority=True)
    own = certificate(named("development"), key, is_authority=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(written.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    written.chain.write_bytes(own.public_bytes(pem) + authority.public_bytes(pem))
    written.anchor.write_bytes(authority.public_bytes(pem))
    return written
