"""Start one process per GPU, or per CPU worker where there is no GPU."""

import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)

logger = logging.getLogger(__name__)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in every process of a training; to be called once on every machine.

    A single process is this one. More are spawned and joined in a process group: NCCL where there
    is CUDA, else gloo on the CPU.

    Args:
        main_func: importable by the spawned processes.
        num_gpus_per_machine: processes on each machine.
        num_machines: machines in all.
        machine_rank: which of them this is.
        dist_url: where the processes meet, as ``tcp://host:port``; "auto" picks a free port on
            this machine, for a single machine only.
        args: arguments of ``main_func``.
        timeout: longest wait of one collective operation.

    Raises:
        ValueError: too few GPUs, or no meeting point that all machines can reach.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size <= 1:
        main_func(*args)
        return
    gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and num_gpus_per_machine > gpus:
        raise ValueError(f"{num_gpus_per_machine} GPUs were asked for, and this machine has {gpus}")
    if dist_url is None or (dist_url == "auto" and num_machines > 1):
        raise ValueError(f"--dist-url {dist_url!r}: give the address tcp://<machine 0>:<free port>")
    if dist_url == "auto":
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    if num_machines > 1 and dist_url.startswith("file://"):
        logger.warning("file:// is not a reliable meeting point of several machines: use tcp://")
    first_rank = machine_rank * num_gpus_per_machine
    group = {"init_method": dist_url, "world_size": world_size, "timeout": timeout}
    work = (first_rank, num_gpus_per_machine, group, main_func, args)
    mp.start_processes(_worker, args=work, nprocs=num_gpus_per_machine, start_method="spawn")


def _worker(
    local_rank: int,
    first_rank: int,
    processes_here: int,
    group: dict[str, Any],
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """Body of a spawned process: join the others, then run."""
    cuda = torch.cuda.is_available()
    try:
        dist.init_process_group("nccl" if cuda else "gloo", rank=first_rank + local_rank, **group)
    except Exception:
        logger.error("No process group could be formed at %s", group["init_method"])
        raise
    comm.create_local_process_group(processes_here)
    if cuda:
        torch.cuda.set_device(local_rank)
    comm.synchronize()  # nobody's first collective operation waits for a slow starter
    main_func(*args)
    dist.destroy_process_group()  # not after an error: the others may never come to it


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
