"""A variant's card: how its weights came to be, from which model, and what they were measured to do."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, JsonValue, StringConstraints

from contract.concept_text import ConceptText
from contract.gate import Assessment
from contract.model import ErasureEffect, VariantStatus
from contract.steering import VariantName
from contract.strict import Strict

CARD, WEIGHTS = "card.json", "variant.safetensors"
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Kind(StrEnum):
    """Which part of the UNet differs from the base: what serving it costs follows from this."""

    KV_ONLY = "kv_only"  # cross-attention's keys and values
    ATTN2_ONLY = "attn2_only"  # cross-attention
    FULL = "full"  # anything else


def kind_of(names: list[str] | tuple[str, ...]) -> Kind:
    """The kind of a variant with tensors of these names."""
    if all(is_key_or_value(name) for name in names):
        return Kind.KV_ONLY
    return Kind.ATTN2_ONLY if all(is_cross_attention(name) for name in names) else Kind.FULL


def is_cross_attention(name: str) -> bool:
    """Whether a tensor of the UNet belongs to cross-attention."""
    return "attn2" in name.split(".")


def is_key_or_value(name: str) -> bool:
    """Whether a tensor of the UNet projects the text to cross-attention's keys or values."""
    return name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))


class Base(Strict):
    """The model that was erased from."""

    name: str
    weights_sha256: Sha256 = Field(description="As `workers.checkpoint.hash_weights` has it and `/models` tells it.")


class StatusChange(Strict):
    """When and why a variant was promoted or retired."""

    at: AwareDatetime
    status: VariantStatus
    reason: str = Field(min_length=1)
    forced: bool = Field(False, description="Promoted without having passed a gate.")


class VariantCard(Strict):
    """What `card.json` holds."""

    format: Literal[1] = 1
    name: VariantName
    method: Literal["esd-x", "esd-x-strict", "esd-u", "sdd", "uce", "imported"]
    concepts: tuple[ConceptText, ...] = ()
    preserved: tuple[ConceptText, ...] = ()
    base: Base
    kind: Kind
    tensors: tuple[str, ...] = Field(min_length=1, description="Names of the changed tensors, sorted.")
    dtype: str = Field(description="In which the tensors are stored.")
    weights_sha256: Sha256 = Field(description="Of `variant.safetensors`.")
    hyperparameters: dict[str, JsonValue] = Field({})
    training: dict[str, JsonValue] = Field({}, description="What was seen while training: losses, seconds.")
    effects: tuple[ErasureEffect, ...] = ()
    status: VariantStatus = VariantStatus.AVAILABLE
    gate: Assessment | None = Field(None, description="null: held against none.")
    history: tuple[StatusChange, ...] = Field((), description="Of the status, oldest first.")
    job: str | None = Field(None, description="Id of the erasure that made it; null: the command line did.")
    chosen_by: str = Field("", description="How the hyper-parameters were chosen.")
    command: str = ""
    licence: str = ""


def read_card(folder: Path) -> VariantCard:
    """The card of a variant's folder.

    Raises:
        OSError: there is none to read.
        ValueError: it is not as this version writes it; the message names the field.
    """
    return VariantCard.model_validate_json((folder / CARD).read_bytes())


def write_card(folder: Path, card: VariantCard) -> None:
    """Write a card in place of the one that was there, at once."""
    part = folder / f"{CARD}.part"
    part.write_text(card.model_dump_json(indent=2) + "\n")
    part.replace(folder / CARD)


def change_card(
    folder: Path, change: Callable[[VariantCard], VariantCard], weights_sha256: str | None = None
) -> VariantCard:
    """Write what `change` makes of a card; no other process of this machine changes it meanwhile.

    weights_sha256: of the weights that the change is about; null: of whichever are there

    Raises:
        OSError, ValueError: there is no readable card, or one of other weights by now.
    """
    with held(folder) as card:
        if weights_sha256 not in (None, card.weights_sha256):
            raise ValueError(f"the variant {card.name!r} was made anew meanwhile: measure it again")
        card = change(card)
        write_card(folder, card)
    return card


@contextmanager
def held(folder: Path) -> Iterator[VariantCard]:
    """The card of a variant's folder, which no other process of this machine changes meanwhile.

    Raises:
        OSError, ValueError: there is no readable one.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield read_card(folder)
    finally:
        os.close(handle)
