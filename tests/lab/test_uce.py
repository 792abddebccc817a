"""UCE's closed form is the answer of the least-squares problem it comes from."""

import pytest
import torch

from contract.recipe import Uce
from lab.erasure import uce
from lab.erasure.original import UnusableConcept
from tests.originals import tiny_original
from workers.variants.card import is_key_or_value


@pytest.mark.parametrize(("erased", "preserved"), [(1, 0), (3, 5), (20, 40)])
def test_the_closed_form_solves_the_least_squares_problem(erased: int, preserved: int) -> None:
    torch.manual_seed(erased)
    weight = torch.randn(12, 16, dtype=torch.float64)
    concepts = torch.randn(erased, 16, dtype=torch.float64)
    kept = torch.randn(preserved, 16, dtype=torch.float64)
    guide = torch.randn(16, dtype=torch.float64)
    # Least ‖W c − W₀ g‖² over concepts, ‖W p − W₀ p‖² over the preserved and λ‖W − W₀‖², as rows of one system.
    root = 0.5**0.5
    inputs = torch.cat([concepts, kept, root * torch.eye(16, dtype=torch.float64)])
    outputs = torch.cat([(weight @ guide).expand(erased, -1), kept @ weight.T, root * weight.T])
    wanted = torch.linalg.lstsq(inputs, outputs).solution.T
    torch.testing.assert_close(uce.edit(weight, concepts, guide, kept, 0.5), wanted, rtol=1e-9, atol=1e-11)


def test_only_keys_and_values_change_and_the_concept_moves_to_the_guide() -> None:
    original = tiny_original(torch.float32)
    recipe = Uce(concepts=("blood",), preserved=("cat",), regularisation=1e-3)
    edited = uce.erase(original, recipe)
    state = original.unet.state_dict()
    assert set(edited) == {name for name in state if is_key_or_value(name)}
    blood, cat, empty = (original.last_token(text) for text in ("blood", "cat", ""))
    for name, weight in edited.items():
        assert weight.dtype is torch.float32
        before = state[name]
        torch.testing.assert_close(weight @ blood, before @ empty, rtol=0.02, atol=0.02)
        torch.testing.assert_close(weight @ cat, before @ cat, rtol=0.02, atol=0.02)
        assert (weight @ blood - before @ blood).norm() > 10 * (weight @ cat - before @ cat).norm()


def test_the_last_token_is_the_texts_own() -> None:
    original = tiny_original(torch.float32)
    letters = original.encode("abc")[0]
    assert torch.equal(original.last_token("abc"), letters[3])  # after the start token
    assert torch.equal(original.last_token(""), original.encode("")[0][0])


def test_a_text_too_long_is_refused() -> None:
    with pytest.raises(UnusableConcept, match="shorten it, or erase fewer"):
        tiny_original(torch.float32).encode("x" * 200)
