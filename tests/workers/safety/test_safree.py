"""SAFREE on embeddings made for the purpose."""

import math

import torch
from torch import Tensor

from workers.safety.protocol import PromptTokens
from workers.safety.safree import SteeredPrompt, project, projection, steer, trigger_words

DIM = 16


def concepts() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, DIM, dtype=torch.float64)


def prompt(words: int, seed: int = 1) -> PromptTokens:
    torch.manual_seed(seed)
    return PromptTokens(torch.randn(words + 4, DIM, dtype=torch.float64), torch.randn(words, DIM, dtype=torch.float64))


def test_projection_is_idempotent_and_keeps_its_columns() -> None:
    columns = concepts().T
    onto = projection(columns)
    assert (onto @ onto - onto).abs().max() <= 1e-10
    assert (onto @ columns - columns).abs().max() <= 1e-9


def test_the_word_whose_masking_leaves_the_concepts_is_the_trigger() -> None:
    """Masked embeddings lie in the concepts' subspace but for the one in which the unsafe word is masked."""
    inside = concepts()
    torch.manual_seed(2)
    masked = torch.stack([inside[i % 3] + 0.01 * torch.randn(DIM, dtype=torch.float64) for i in range(5)])
    masked[3] = torch.randn(DIM, dtype=torch.float64)
    assert trigger_words(masked, inside).tolist() == [False, False, False, True, False]


def test_the_pairwise_means_are_those_of_a_loop() -> None:
    masked = prompt(6).masked
    onto = projection(concepts().T)
    distances = [float((m - onto @ m).norm()) for m in masked]
    expected = []
    for i, distance in enumerate(distances):
        others = distances[:i] + distances[i + 1 :]
        expected.append(distance >= 1.01 * sum(others) / len(others))
    assert trigger_words(masked, concepts()).tolist() == expected


def test_only_trigger_words_change_and_they_leave_the_concepts_subspace() -> None:
    tokens = prompt(6)
    triggers = torch.tensor([False, True, False, False, True, False])
    steered = steer(tokens.embedding, project(tokens, concepts()), triggers)
    untouched = [0, 1, 3, 4, 6, 7, 8, 9]
    assert torch.equal(steered[untouched], tokens.embedding[untouched])
    assert (steered[[2, 5]] @ projection(concepts().T)).abs().max() <= 1e-9


def test_a_prompt_of_one_word_is_handled() -> None:
    inside = PromptTokens(prompt(1).embedding, concepts()[:1].clone())
    assert trigger_words(inside.masked, concepts()).tolist() == [True]
    outside = prompt(1)
    safree = SteeredPrompt(outside, concepts(), ("a", "b", "c"))
    assert torch.isfinite(safree.embedding(0)).all()


def test_duplicated_concepts_change_nothing() -> None:
    tokens = prompt(5)
    once, twice = (SteeredPrompt(tokens, c, ()) for c in (concepts(), concepts().repeat(2, 1)))
    assert (once.embedding(0) - twice.embedding(0)).abs().max() <= 1e-9


def test_it_acts_for_its_number_of_steps_and_then_no_more() -> None:
    """A prompt that is nothing but a concept moves as far as can be: ten steps."""
    tokens = PromptTokens(prompt(1).embedding, concepts()[:1].clone())
    safree = SteeredPrompt(tokens, concepts(), ("a", "b", "c"))
    assert safree.acting_steps == 10
    assert not torch.equal(safree.embedding(9), tokens.embedding)
    assert torch.equal(safree.embedding(10), tokens.embedding)


def test_a_prompt_that_does_not_move_is_not_steered() -> None:
    """All tokens lie in the prompt's own space and off the concepts."""
    torch.manual_seed(3)
    masked = torch.randn(6, DIM, dtype=torch.float64)
    masked -= masked @ projection(concepts().T)
    tokens = PromptTokens(torch.randn(10, 6, dtype=torch.float64) @ masked, masked)
    safree = SteeredPrompt(tokens, concepts(), ("a", "b", "c"))
    assert safree.acting_steps == 0
    assert torch.equal(safree.embedding(0), tokens.embedding)


def test_the_number_of_steps_follows_the_whole_prompt_not_only_its_triggers() -> None:
    """β over the begin mark, every word and the end mark, as a loop over the authors' formula has it."""
    for seed in range(8):
        tokens = prompt(6, seed)
        onto_prompt, onto_concepts = projection(tokens.masked.T), projection(concepts().T)
        cosines = []
        for token in tokens.embedding[: 6 + 2]:
            moved = (torch.eye(DIM) - onto_concepts).double() @ onto_prompt @ token
            cosines.append(float(token @ moved / (token.norm() * moved.norm())))
        beta = 1 - sum(cosines) / len(cosines)
        expected = round(10 / (1 + math.exp(-5 * (10 * beta - 5.333))))
        assert SteeredPrompt(tokens, concepts(), ()).acting_steps == expected
