"""Learning-rate schedules on top of fvcore's, which map progress in [0, 1) to a factor."""

from typing import Any, Literal

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """``scheduler`` with a warm-up in place of its first part.

    Args:
        scheduler: the schedule after the warm-up.
        warmup_factor: first value, relative to ``scheduler(0)``.
        warmup_length: share of the training, in [0, 1].
        warmup_method: "linear" (rise to the schedule) or "constant" (stay at the first value).
        rescale_interval: True squeezes the whole schedule into what is left after the warm-up;
            False joins the schedule where it would be without one.

    Raises:
        ValueError: another ``warmup_method``.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: Literal["linear", "constant"] = "linear",
        rescale_interval: bool = False,
    ) -> None:
        first = warmup_factor * scheduler(0.0)
        if warmup_method == "linear":
            joined_at = 0.0 if rescale_interval else warmup_length
            warmup: ParamScheduler = LinearParamScheduler(first, scheduler(joined_at))
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(first)
        else:
            raise ValueError(f"Unknown warmup method {warmup_method!r}: use 'linear' or 'constant'")
        scaling = ["rescaled", "rescaled" if rescale_interval else "fixed"]
        super().__init__([warmup, scheduler], [warmup_length, 1 - warmup_length], scaling)


class LRMultiplier(LRScheduler):
    """Every group's learning rate is its initial one times ``multiplier(iteration / max_iter)``.

    PyTorch's "epoch" is one iteration here.

    Args:
        optimizer: the optimizer whose groups are scheduled.
        multiplier: an fvcore schedule.
        max_iter: iterations of the whole training.
        last_iter: the last finished iteration; -1 at the start.

    Raises:
        ValueError: ``multiplier`` is not an fvcore schedule.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"multiplier must be a fvcore ParamScheduler, not {multiplier!r}")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """Initial learning rates and the iteration; the schedule itself comes from the config."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """Learning rate of every group at the current iteration."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base * factor for base in self.base_lrs]
