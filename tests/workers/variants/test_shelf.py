"""The shelf: what it offers, what it refuses, and how much it keeps."""

import re
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from contract.plan import SafetyPlan
from tests import engines
from tests.workers.variants.conftest import CHOSEN, write
from workers.models import LoadedModel
from workers.variants.card import Base
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import NoRoom, VariantShelf
from workers.variants.standing import retire


def test_every_card_of_this_model_is_offered(shelf: VariantShelf) -> None:
    assert [info.name for info in shelf.listed()] == sorted(CHOSEN)
    assert {info.name: info.changes for info in shelf.listed()}["attention"] == "attn2_only"


def test_no_folder_is_an_empty_shelf(tmp_path: Path, model: LoadedModel) -> None:
    shelf = VariantShelf(tmp_path / "none", model.parts, model.info.weights_sha256, 1 << 30)
    assert shelf.listed() == ()
    with pytest.raises(UnusableVariant, match="no variant 'keys-1'"):
        shelf.get("keys-1")


def test_variants_come_and_go_without_a_restart(shelf: VariantShelf, folder: Path, model: LoadedModel) -> None:
    held = shelf.get("keys-1")
    shutil.rmtree(folder / "keys-1")
    assert "keys-1" not in {info.name for info in shelf.listed()}
    with pytest.raises(UnusableVariant, match="no variant"):
        shelf.get("keys-1")
    write(folder / "keys-1", model, seed=99)
    assert shelf.get("keys-1").description["weights_sha256"] != held.description["weights_sha256"]


def test_what_was_loaded_is_not_loaded_again(shelf: VariantShelf) -> None:
    assert shelf.get("attention") is shelf.get("attention")


def test_a_variant_of_another_model_is_not_offered(
    shelf: VariantShelf, folder: Path, model: LoadedModel, caplog: pytest.LogCaptureFixture
) -> None:
    write(folder / "keys-1", model, base=Base(name="other", weights_sha256="f" * 64))
    assert "keys-1" not in {info.name for info in shelf.listed()}
    reason = f"was made from 'other' with weights ffffffffffff…, this model's are {model.info.weights_sha256[:12]}…"
    assert reason in caplog.text
    assert reason in shelf.refused()["keys-1"]
    with pytest.raises(UnusableVariant, match=re.escape(f"the variant 'keys-1' {reason}: make it anew")):
        shelf.get("keys-1")


@pytest.mark.parametrize("broken", ["{", '{"name": "keys-1"}', ""])
def test_an_unreadable_card_hides_only_its_own_variant(shelf: VariantShelf, folder: Path, broken: str) -> None:
    (folder / "keys-1" / "card.json").write_text(broken)
    assert [info.name for info in shelf.listed()] == sorted(set(CHOSEN) - {"keys-1"})
    with pytest.raises(UnusableVariant, match="'keys-1' has no readable card"):
        shelf.get("keys-1")


def test_a_folder_of_another_name_than_its_variant_is_refused_by_both(shelf: VariantShelf, folder: Path) -> None:
    (folder / "keys-1").rename(folder / "renamed")
    for name, told in (("renamed", "says of itself that it is 'keys-1'"), ("keys-1", "there is no variant")):
        with pytest.raises(UnusableVariant, match=told):
            shelf.get(name)


def test_a_truncated_file_is_refused_and_the_others_are_not(shelf: VariantShelf, folder: Path) -> None:
    file = folder / "keys-1" / "variant.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UnusableVariant, match="truncated or damaged"):
        shelf.get("keys-1")
    assert shelf.get("keys-2").name == "keys-2"


def test_memory_is_bounded_and_the_longest_unused_goes_first(folder: Path, model: LoadedModel) -> None:
    roomy = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30)
    size = roomy.get("keys-1").project_text.weight.nbytes
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, 2 * size)
    first, second = weakref.ref(shelf.get("keys-1")), weakref.ref(shelf.get("keys-2"))
    assert shelf.get("keys-1") is first()
    shelf.get("keys-3")
    assert second() is None
    assert shelf.get("keys-1") is first()
    assert shelf.held_bytes == 2 * size
    with pytest.raises(UnusableVariant, match="SEEMLY_VARIANT_BYTES allows"):
        shelf.get("all")


def test_what_is_served_no_longer_leaves_memory_at_the_next_look(
    shelf: VariantShelf, folder: Path, model: LoadedModel
) -> None:
    for name in ("keys-1", "keys-2", "keys-3", "keys-4"):
        shelf.get(name)
    one = shelf.held_bytes // 4
    write(folder / "keys-4", model, seed=99)
    retire(folder / "keys-1", "test")
    shutil.rmtree(folder / "keys-2")
    assert {info.name: info.status.value for info in shelf.listed()}["keys-1"] == "retired"
    assert shelf.held_bytes == one


def test_a_dropped_variant_stays_with_its_pictures(folder: Path, model: LoadedModel) -> None:
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, 1 << 30)
    weights = shelf.get("keys-1")
    tight = VariantShelf(folder, model.parts, model.info.weights_sha256, weights.project_text.weight.nbytes)
    plan = SafetyPlan.from_short_form(["erased:keys-1", "filter"])
    in_flight = engines.spec(0, plan=plan, weights=tight.get("keys-1"))
    with pytest.raises(NoRoom, match="pictures that are being made hold"):
        tight.get("keys-2")
    assert tight.get("keys-1") is in_flight.weights  # dropped, and not loaded a second time
    assert engines.run(engines.engine(model), [in_flight])[0].failure is None
    del in_flight
    assert tight.get("keys-2").name == "keys-2"


def test_what_the_system_refuses_is_told_as_the_reason(
    shelf: VariantShelf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "keys-1" / "variant.safetensors"
    file.unlink()
    file.symlink_to("/proc/self/mem")  # as a bad disk answers
    with pytest.raises(UnusableVariant, match="cannot be read \\(Input/output error\\)"):
        shelf.get("keys-1")
    monkeypatch.setattr(torch, "empty_like", _out_of_memory)
    with pytest.raises(UnusableVariant, match=r"'all' cannot be loaded: OutOfMemoryError no memory is left$"):
        shelf.get("all")
    monkeypatch.undo()
    assert shelf.get("all").name == "all"


def _out_of_memory(_: torch.Tensor) -> torch.Tensor:
    raise torch.OutOfMemoryError("no memory is left\nand more lines")
