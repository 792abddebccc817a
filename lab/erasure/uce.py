"""UCE, unified concept editing (Gandikota et al. 2024, https://arxiv.org/abs/2308.14761, eq. 7), in closed form.

    W = (λ W₀ + Σ_e W₀ g cₑᵀ + Σ_p W₀ p pᵀ) (λ I + Σ_e cₑ cₑᵀ + Σ_p p pᵀ)⁻¹

for every W₀ of cross-attention's to_k and to_v: the least-squares answer to "each erased concept gets the guide's
output, each preserved one keeps its own, and W stays near W₀".

    symbol  here                    meaning
    c, g, p concepts, guide, kept   (n, dim) embeddings, each a text's last own token; g that of the empty prompt
    λ       regularisation          0.5
"""

import torch
from torch import Tensor

from contract.recipe import Uce
from lab.erasure.original import Original
from workers.variants.card import is_key_or_value
from workers.variants.writing import UnusableWeights


def edit(weight: Tensor, concepts: Tensor, guide: Tensor, kept: Tensor, regularisation: float) -> Tensor:
    """One projection (out, dim), edited; `guide` (dim,), the others (n, dim), computed in `weight`'s dtype.

    The inverse's matrix is symmetric and, with λ > 0, positive definite: solved by Cholesky, never inverted.
    """
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    gram = regularisation * identity + concepts.T @ concepts + kept.T @ kept
    wanted = regularisation * identity + guide[:, None] * concepts.sum(0) + kept.T @ kept
    return torch.cholesky_solve((weight @ wanted).T, torch.linalg.cholesky(gram)).T


@torch.no_grad()
def erase(original: Original, recipe: Uce) -> dict[str, Tensor]:
    """The edited projections by name, in float32.

    Raises:
        UnusableConcept: a text is longer than the text encoder reads.
        UnusableWeights: λ is too small for the equations to have an answer in float32.
    """
    concepts = torch.stack([original.last_token(text) for text in recipe.concepts]).float()
    guide = original.last_token(recipe.guide).float()
    preserved = [original.last_token(text) for text in recipe.preserved]
    kept = torch.stack(preserved).float() if preserved else concepts[:0]
    try:
        return {
            name: edit(tensor.float(), concepts, guide, kept, recipe.regularisation)
            for name, tensor in original.unet.state_dict().items()
            if is_key_or_value(name)
        }
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it is, and documented
        raise UnusableWeights(
            f"regularisation {recipe.regularisation:g} is too small: the equations have no answer in float32;"
            " raise it, the published value is 0.5"
        ) from None
