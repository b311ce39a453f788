"""A moving average of the weights, which is evaluated and kept (Polyak and Juditsky, 1992)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from .evaluate import unwrapped


class AveragedWeights(HookBase):
    """Follow the weights by an exponential moving average, as YOLOX and Mask DINO do.

    Files hold the average as the model's weights, so that any program that reads them has it, and
    the weights that are trained as this hook's state, so that a resumed run goes on with them.

    Args:
        decay: of the average per iteration; at iteration t it is at most (1 + t) / (10 + t), so
            that the first weights are soon forgotten. 0 turns it off.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}

    def _weights(self) -> dict[str, Tensor]:
        """Parameters and running statistics; they share memory with the model."""
        model: nn.Module = unwrapped(self.trainer.model)
        return {name: value.detach() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the average towards the weights of the step."""
        if not self.decay:
            return
        weights, done = self._weights(), self.trainer.iter
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        if not self.average:
            self.average = {name: value.clone() for name, value in weights.items()}
        for name, value in weights.items():
            if value.is_floating_point():
                self.average[name].lerp_(value, share)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the average inside; as it was where there is none yet."""
        if not self.average or self._trained:
            yield
            return
        self._trained = {name: value.clone() for name, value in self._weights().items()}
        self._take(self.average)
        try:
            yield
        finally:
            self._take(self._trained)
            self._trained = {}

    @torch.no_grad()
    def _take(self, source: dict[str, Tensor]) -> None:
        for name, value in self._weights().items():
            value.copy_(source[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are trained, while the average is the model's."""
        return {"trained": self._trained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the model's weights as the average, and train on with those of the state."""
        if state["trained"] and self.decay:
            self.average = {name: value.clone() for name, value in self._weights().items()}
            self._take(state["trained"])
