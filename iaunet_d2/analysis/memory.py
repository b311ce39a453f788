"""Peak memory, measured in a process that does nothing else.

On a GPU it is what torch has allocated at most. On the CPU it is the highest resident memory of the
process, less what the process had once the model was built, plus the model's weights: what
interpreter and libraries take is not counted, and neither is what building has left behind.
"""

import ctypes
import ctypes.util
import gc
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


class FreshProcessError(RuntimeError):
    """Work in a process of its own failed, or the process was killed."""


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a module-level function in a new process, and hand its result back.

    The process has this package imported and nothing else done; where the platform can fork, it
    starts within milliseconds.

    Raises:
        FreshProcessError: the function raised, or the process was killed, as systems do that run
            out of memory.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(["iaunet_d2.analysis.models"])
    receiving, sending = context.Pipe(duplex=False)
    # Plain bytes: tensors would travel as shared memory, of which containers have little.
    call = pickle.dumps((torch.get_num_threads(), function, args))
    process = context.Process(target=_answer, args=(sending, call))
    process.start()
    sending.close()
    try:
        kind, value = receiving.recv()
    except EOFError:
        process.join()
        raise FreshProcessError(_how_it_ended(process.exitcode)) from None
    finally:
        receiving.close()
        process.join()
    if kind == "error":
        raise FreshProcessError(value)
    return value


def _answer(sending: Connection, call: bytes) -> None:
    try:
        threads, function, args = pickle.loads(call)
        torch.set_num_threads(threads)
        answer = ("result", function(*args))
    except (RuntimeError, ValueError, ArithmeticError, OSError, MemoryError) as error:
        answer = ("error", f"{type(error).__name__}: {error}")
    sending.send(answer)
    sending.close()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"the process was killed (signal {-code}), probably for want of memory"
    return f"the process ended with exit code {code}; its error stands above"


class PeakMemory:
    """Peak memory of pieces of work with one model, in this process.

    Args:
        model: just built, on its device, not yet used.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device
        self.weights = sum(t.numel() * t.element_size() for t in tensors)
        self._before = None if self.device.type == "cuda" else _settled()

    def of(self, work: Callable[[], object]) -> int | None:
        """Bytes at the peak of ``work``, weights included; None where the system does not tell."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            work()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device)
        _settled()
        work()
        peak = _highest()
        if peak is None or self._before is None:
            return None
        return max(0, peak - self._before) + self.weights


def _settled() -> int | None:
    """Resident bytes after what is free was given back; the peak counts from here."""
    gc.collect()
    library = ctypes.util.find_library("c") if sys.platform == "linux" else None
    if library is not None:
        with suppress(AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(library).malloc_trim(0)
    with suppress(OSError):  # read-only in some containers: the peak is then that of all work
        _CLEAR.write_text("5", encoding="ascii")
    return _status("VmRSS") if _STATUS.exists() else _highest()


def _highest() -> int | None:
    if _STATUS.exists():
        return _status("VmHWM")
    if sys.platform == "win32":
        return None
    import resource

    # In bytes on macOS; elsewhere in KiB.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int | None:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    return None
