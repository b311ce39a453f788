"""Talk between the processes of one training run; in a single process, no communication."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_NO_LOCAL_GROUP = (
    "the process group of this machine does not exist yet: start with launch(), or call "
    "comm.create_local_process_group(processes_per_machine) after init_process_group()"
)

# "local": the processes of this machine and their number; "gloo": all processes over the CPU.
_groups: dict[str, Any] = {}


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _running() else 1


def get_rank() -> int:
    """Index of this process among all."""
    return dist.get_rank() if _running() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and logs."""
    return get_rank() == 0


def create_local_process_group(num_workers_per_machine: int) -> None:
    """Group the processes by machine. Every process calls it; a second call changes nothing.

    Raises:
        ValueError: the processes are not a multiple of ``num_workers_per_machine``.
        RuntimeError: the groups exist, for another number of processes.
    """
    size = get_world_size()
    if "local" in _groups:
        if _groups["local"][1] != num_workers_per_machine:
            raise RuntimeError(f"the machines are grouped by {_groups['local'][1]} already")
        return
    if size % num_workers_per_machine:
        raise ValueError(f"{size} processes are not a multiple of {num_workers_per_machine}")
    for first in range(0, size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)  # every process takes part in making every group
        if get_rank() in ranks:
            _groups["local"] = (group, num_workers_per_machine)


def get_local_process_group() -> Any:
    """The group of the processes on this machine.

    Raises:
        RuntimeError: :func:`create_local_process_group` was not called.
    """
    if "local" not in _groups:
        raise RuntimeError(_NO_LOCAL_GROUP)
    return _groups["local"][0]


def get_local_rank() -> int:
    """Index of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _running() else 0


def get_local_size() -> int:
    """Number of processes on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _running() else 1


def synchronize() -> None:
    """Wait until every process has come to this line."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(
            device_ids=[torch.cuda.current_device()]
        )  # NCCL guesses the device, with a warning, without it
    else:
        dist.barrier()


def _object_group() -> Any:
    """All processes, over the CPU, so that gathered objects take no GPU memory."""
    if dist.get_backend() != dist.Backend.NCCL:
        return dist.group.WORLD
    if "gloo" not in _groups:
        _groups["gloo"] = dist.new_group(backend="gloo")
    return _groups["gloo"]


def all_gather(data: Any, group: Any = None) -> list[Any]:
    """Every process's ``data`` (anything that pickles), in the order of ranks, on every process."""
    if get_world_size() == 1:
        return [data]
    group = _object_group() if group is None else group
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: Any = None) -> list[Any]:
    """Every process's ``data`` in the order of ranks on process ``dst``; elsewhere nothing."""
    if get_world_size() == 1:
        return [data]
    group = _object_group() if group is None else group
    size = dist.get_world_size(group)
    if size == 1:
        return [data]
    receives = dist.get_rank(group) == dst
    gathered: list[Any] | None = [None] * size if receives else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """A random number below 2**31, the same on all processes; each has to ask for it."""
    return all_gather(int(np.random.randint(2**31)))[0]  # follows seed_all_rng


def reduce_dict(
    input_dict: dict[str, torch.Tensor], average: bool = True
) -> dict[str, torch.Tensor]:
    """Sum or average scalars over all processes; only the main process has the result.

    Args:
        input_dict: scalar tensors under the same names on every process, on the backend's device.
        average: divide the sum by the number of processes.
    """
    size = get_world_size()
    if size == 1:
        return input_dict
    names = sorted(input_dict)  # the same order on every process
    with torch.no_grad():
        packed = torch.stack([input_dict[name] for name in names])
        dist.reduce(packed, dst=0)
        if average and is_main_process():
            packed /= size
    return dict(zip(names, packed, strict=True))
