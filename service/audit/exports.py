"""Exports of an audit: JSON Lines, one entry each as it hangs in the chain, and its signed head as the last line.

    {"sequence":1,"sha256":"…","link":"…","body":{"kind":"verdicts","tenant":"…",…}}
    {"kind":"head","head":{"tenant":"…","sequence":1,"link":"…","at":"…"},"hmac_sha256":"…"}

What stands after `"body":`, but for the last brace, is hashed byte by byte: `sha256sum` is enough to check it.
"""

import re
from collections.abc import Iterable

from pydantic import ValidationError

from service.audit.checking import Check
from service.audit.heads import Head, SignedHead
from service.audit.reading import Link

_LINE = re.compile(r'{"sequence":(\d{1,15}),"sha256":"([0-9a-f]{64})","link":"([0-9a-f]{64})","body":({.*})}')


def line_of(one: Link) -> str:
    """An entry's line, without its end."""
    return f'{{"sequence":{one.sequence},"sha256":"{one.sha256}","link":"{one.link}","body":{one.body}}}'


def check_export(lines: Iterable[str], key: bytes, heads: Iterable[Head] = ()) -> Check:
    """Check a whole export, and that its head was signed here; `heads` were kept from before.

    Raises:
        ValueError: it is none.
    """
    check: Check | None = None
    signed: SignedHead | None = None
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line.removesuffix("\n"))
        if found is None:
            signed = _head_in(line, number)
            check = check or Check(signed.head.tenant, tuple(heads))
            continue
        one = Link(int(found[1]), found[2], found[3], found[4])
        check = check or Check(_tenant_of(one), tuple(heads))
        if signed is not None:
            check.fault = check.fault or f"line {number} comes after the head"
        check.take(one)
    if check is None:
        raise ValueError("the file is empty")
    if signed is None:
        check.fault = check.fault or "its head is missing: the end of the export was cut off"
        return check
    if not signed.is_signed_with(key) or signed.head.tenant != check.tenant:
        check.fault = check.fault or "its head was not signed here, or was changed"
    check.end((signed.head.sequence, signed.head.link) if signed.head.sequence else None)
    return check


def head_of(lines: Iterable[str], key: bytes) -> Head:
    """The head at the end of an export, or of a file that holds nothing else.

    Raises:
        ValueError: there is none, or it was not signed here.
    """
    last, number = "", 0
    for number, last in enumerate(lines, start=1):  # noqa: B007 - the last one is wanted
        pass
    signed = _head_in(last, number)
    if not signed.is_signed_with(key):
        raise ValueError("its head was not signed here, or was changed")
    return signed.head


def _head_in(line: str, number: int) -> SignedHead:
    try:
        return SignedHead.model_validate_json(line)
    except ValidationError:
        raise ValueError(f"line {number} is neither an entry of an audit nor the head of one") from None


def _tenant_of(one: Link) -> str:
    try:
        return one.entry.tenant
    except ValueError:
        return ""
