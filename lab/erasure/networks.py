"""One UNet in memory, called as student, as frozen original and as teacher: only trained tensors are kept thrice."""

from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.func import functional_call

Predict = Callable[[Tensor, Tensor, Tensor], Tensor]  # latents (n, 4, h, w), timestep, texts (n, tokens, dim) → output


class Networks:
    """The student is the UNet itself; the original and the teacher are its trained tensors at other values."""

    def __init__(self, unet: UNet2DConditionModel, is_trained: Callable[[str], bool]) -> None:
        self._unet = unet
        self.trained: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in unet.named_parameters() if is_trained(name)
        }
        if not self.trained:
            raise ValueError("this UNet has no tensor that the method trains: it has no cross-attention")
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        self.original = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.average = {name: tensor.clone() for name, tensor in self.original.items()}

    def student(self, latents: Tensor, timestep: Tensor, texts: Tensor) -> Tensor:
        """The weights being trained."""
        output: Tensor = self._unet(latents, timestep, encoder_hidden_states=texts, return_dict=False)[0]
        return output

    @torch.no_grad()
    def frozen(self, latents: Tensor, timestep: Tensor, texts: Tensor) -> Tensor:
        """The weights as they were."""
        return self._with(self.original, latents, timestep, texts)

    @torch.no_grad()
    def teacher(self, latents: Tensor, timestep: Tensor, texts: Tensor) -> Tensor:
        """The moving average of the student's weights."""
        return self._with(self.average, latents, timestep, texts)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Move the teacher towards the student."""
        students = [parameter.detach() for parameter in self.trained.values()]
        torch._foreach_lerp_(list(self.average.values()), students, 1 - decay)

    def _with(self, tensors: dict[str, Tensor], latents: Tensor, timestep: Tensor, texts: Tensor) -> Tensor:
        told = {"encoder_hidden_states": texts, "return_dict": False}
        output: Tensor = functional_call(self._unet, tensors, (latents, timestep), told)[0]
        return output
