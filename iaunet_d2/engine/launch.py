"""Starting processes: on GPUs by Detectron2, on CPUs by ourselves, or by torchrun."""

import hashlib
import os
import socket
import tempfile
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.engine import launch as gpu_launch
from detectron2.utils import comm

from .errors import ConfigError
from .preflight import check_device

TIMEOUT = timedelta(minutes=30)

AUTO = "auto"  # Detectron2's word for a free port of this machine

# Processes that were started together find here what one of them has told: a folder, or a store.
TOLD_VARIABLE = "IAUNET_D2_TOLD"
_stores: list[dist.Store] = []

Run = Callable[[Namespace], int]


def start(run: Run, args: Namespace, device: str, default_url: str) -> int:
    """Call ``run(args)`` in as many processes as asked for, and wait for them.

    Args:
        run: a module-level function; gives the exit code of its process.
        args: of Detectron2's argument parser.
        device: ``MODEL.DEVICE`` of the config: decides between NCCL and Gloo.
        default_url: the value of ``args.dist_url`` that means "nothing was asked for".

    Returns:
        The exit code: 0, or the first that was not.

    Raises:
        ConfigError: more GPUs are asked for than there are.
    """
    if "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _in_torchrun(run, args, device)
    if args.num_gpus * args.num_machines <= 1:
        return run(args)
    on_gpu = device.startswith("cuda")
    if on_gpu and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus {args.num_gpus}: this machine has {torch.cuda.device_count()}; for "
            "processes on the CPU set "
            "MODEL.DEVICE cpu"
        )
    url = args.dist_url
    if url in (default_url, AUTO) and args.num_machines == 1:
        url = f"tcp://127.0.0.1:{_free_port()}"  # two runs of one user must not meet
    if url == AUTO:
        raise ConfigError("--dist-url auto works on one machine; give tcp://<machine 0>:<port>")
    with tempfile.TemporaryDirectory(prefix="iaunet_d2_") as told:
        os.environ[TOLD_VARIABLE] = told
        try:
            return _spawn(run, args, url, on_gpu)
        finally:
            del os.environ[TOLD_VARIABLE]


def first_to_tell(message: str) -> bool:
    """Whether no process of this run has told ``message`` yet; the one that asks then must.

    An error that all processes meet is thus told once, by whichever comes first: the others may be
    ended before they can speak.
    """
    digest = hashlib.sha256(message.encode()).hexdigest()[:16]
    if _stores:
        return _stores[0].add(f"{TOLD_VARIABLE}/{digest}", 1) == 1
    folder = os.environ.get(TOLD_VARIABLE)
    if not folder:
        return True
    try:
        Path(folder, digest).touch(exist_ok=False)
    except FileExistsError:
        return False
    except FileNotFoundError:  # the process that started this one has ended
        return True
    return True


def _spawn(run: Run, args: Namespace, url: str, on_gpu: bool) -> int:
    method = mp.get_start_method()
    try:
        if on_gpu:
            gpu_launch(
                _exit_with,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=url,
                args=(run, args, method),
            )
        else:
            mp.spawn(_cpu_worker, (run, args, url, method), nprocs=args.num_gpus)
    except mp.ProcessExitedException as error:
        return error.exit_code
    return 0


def _in_torchrun(run: Run, args: Namespace, device: str) -> int:
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    on_gpu = device.startswith("cuda")
    if on_gpu:
        check_device(f"cuda:{local_rank}")
        torch.cuda.set_device(local_rank)
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
    )
    _stores.append(store)
    try:
        comm.create_local_process_group(local_size)
        return run(args)
    finally:
        _stores.clear()
        dist.destroy_process_group()


def _cpu_worker(local_rank: int, run: Run, args: Namespace, url: str, method: str) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    dist.init_process_group(
        "gloo",
        init_method=url,
        world_size=args.num_gpus * args.num_machines,
        rank=args.machine_rank * args.num_gpus + local_rank,
        timeout=TIMEOUT,
    )
    try:
        comm.create_local_process_group(args.num_gpus)
        _exit_with(run, args, method)
    finally:
        dist.destroy_process_group()


def _exit_with(run: Run, args: Namespace, method: str) -> None:
    # A spawned process would spawn its data-loading workers too, and each would import torch for
    # seconds at every evaluation. The platform's own method (fork on Linux) starts them at once.
    mp.set_start_method(method, force=True)
    code = run(args)
    if code:
        raise SystemExit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
