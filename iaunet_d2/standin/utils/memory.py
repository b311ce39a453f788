"""What to do when the GPU's memory is full."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["retry_if_cuda_oom"]

logger = logging.getLogger("detectron2.utils.memory")


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError) or "CUDA out of memory. " in str(error)


def _on_cpu(value: Any) -> Any:
    """``value`` moved to the CPU where it is a CUDA tensor, or like one."""
    on_gpu = getattr(getattr(value, "device", None), "type", None) == "cuda"
    return value.to(device="cpu") if on_gpu and hasattr(value, "to") else value


def retry_if_cuda_oom(func: Callable[..., Any]) -> Callable[..., Any]:
    """Make a stateless function survive a full GPU: again with an empty cache, at last on the CPU.

    Tensors inside nested structures stay where they are. The result may lie on the CPU.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for _ in range(2):
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
            # Outside the handler: the exception holds the frames that hold the memory.
            torch.cuda.empty_cache()
        logger.info("CUDA is out of memory: %s goes on with its inputs on the CPU", func)
        return func(*map(_on_cpu, args), **{k: _on_cpu(v) for k, v in kwargs.items()})

    return wrapped
