"""The loop itself: a trainer runs the iterations, hooks do everything around them."""

import logging
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from ..utils.events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """Something done around the iterations.

    The trainer calls ``before_train`` once, then per iteration ``before_step``, ``after_backward``
    (gradients are there, the step is not taken) and ``after_step``, and at the end, or after an
    error, ``after_train``. Slow work belongs into ``after_step``, so that timers stay right.
    """

    # A weak reference, set by register_hooks.
    trainer: Any = None

    def before_train(self) -> None:
        """Called before the first iteration."""

    def after_train(self) -> None:
        """Called after the last iteration, and after an error."""

    def before_step(self) -> None:
        """Called before each iteration."""

    def after_backward(self) -> None:
        """Called between the backward pass and the optimizer's step."""

    def after_step(self) -> None:
        """Called after each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the hook; with state goes a ``load_state_dict``."""
        return {}


class TrainerBase:
    """A loop over iterations with hooks; subclasses say what one iteration is.

    Attributes:
        iter: the current iteration, from 0; ``max_iter`` once training has finished.
        start_iter: the iteration that training starts with.
        max_iter: the iteration that training stops before.
        storage: the metrics of the run, open during :meth:`train`.
    """

    max_iter: int
    storage: EventStorage

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0

    def register_hooks(self, hooks: Sequence[HookBase | None]) -> None:
        """Append hooks, which run in the order of registration; ``None`` is skipped.

        Raises:
            TypeError: one is no :class:`HookBase`.
        """
        for hook in hooks:
            if hook is None:
                continue
            if not isinstance(hook, HookBase):
                raise TypeError(f"a hook must derive from HookBase, {type(hook)} does not")
            # Trainer and hooks must not own each other: the model would outlive the trainer.
            hook.trainer = weakref.proxy(self)
            self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> Any:
        """Run iterations ``start_iter`` to ``max_iter - 1``. ``after_train`` runs in any case."""
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as storage:
            self.storage = storage
            try:
                self.before_train()
                for iteration in range(start_iter, max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                # Hooks tell a finished training (iter == max_iter) from a failed one by this.
                self.iter += 1
            except Exception:
                logger.exception("Exception during training, at iteration %d:", self.iter)
                raise
            finally:
                self.after_train()

    def run_step(self) -> None:
        """One iteration."""
        raise NotImplementedError

    def before_train(self) -> None:
        """Call the hooks' ``before_train``."""
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        """Call the hooks' ``after_train``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        """Call the hooks' ``before_step``."""
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        """Call the hooks' ``after_backward``."""
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        """Call the hooks' ``after_step``."""
        for hook in self._hooks:
            hook.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The iteration, and the state of hooks that have one by class name (first of a class)."""
        states: dict[str, Any] = {}
        for hook in self._hooks:
            name, state = type(hook).__qualname__, hook.state_dict()
            if state and name not in states:
                states[name] = state
        return {"iteration": self.iter, **({"hooks": states} if states else {})}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; the state of an absent hook is reported."""
        self.iter = state_dict["iteration"]
        by_name: dict[str, Any] = {}
        for hook in self._hooks:
            by_name.setdefault(type(hook).__qualname__, hook)
        for name, state in state_dict.get("hooks", {}).items():
            if name in by_name:
                by_name[name].load_state_dict(state)
            else:
                logger.warning("The checkpoint has state of a hook %r, which is not used now", name)
