"""What several processes need to act as one. In a single process every function here is the identity.

Start with torchrun: `torchrun --nproc-per-node 2 -m lib.training mocov3 --scale smoke`; on several nodes with torchrun's
--nnodes, --node-rank, --master-addr and --master-port too, or by SLURM: lib/training/slurm.sh.
"""
import math
import os
import warnings

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lib.errors import CourseError
from lib.precision import widen


def start(device: str) -> torch.device:
    """Join the processes that torchrun started, if it did, and return this process's device.

    Raises CourseError where the first of them cannot be reached.
    """
    if "WORLD_SIZE" not in os.environ:
        return torch.device(device)
    numbers = ("WORLD_SIZE", "RANK", "MASTER_PORT") + (("LOCAL_RANK",) if device == "cuda" else ())
    given = {name: os.environ.get(name, "") for name in numbers}
    if (not all(value.isdecimal() for value in given.values()) or "MASTER_ADDR" not in os.environ
            or not int(given["RANK"]) < int(given["WORLD_SIZE"])):
        said = {"MASTER_ADDR": os.environ.get("MASTER_ADDR", "")} | given
        raise CourseError(f"{' '.join(f'{name}={value}' for name, value in said.items())} do not describe one of several "
                          "processes; start with torchrun, or unset them")
    try:
        if device == "cuda":
            mine = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())     # it may see its own only
            torch.cuda.set_device(mine)
            dist.init_process_group("nccl", device_id=mine)
            return mine
        dist.init_process_group("gloo")
    except (dist.DistNetworkError, dist.DistStoreError):
        raise CourseError(f"process {os.environ.get('RANK')} found no other at MASTER_ADDR {os.environ.get('MASTER_ADDR')}, "
                          f"MASTER_PORT {os.environ.get('MASTER_PORT')}: the first node must have started, and be reached by "
                          "that name") from None
    return torch.device(device)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Until all processes have come here."""
    if dist.is_initialized():
        dist.barrier()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def replicate(module: nn.Module, **settings) -> DistributedDataParallel:
    """One copy of the module in each process, whose gradients are averaged. Its buffers stay each process's own."""
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")             # its new name does something else
    return DistributedDataParallel(module, broadcast_buffers=False, **settings)


def check_same(settings: dict) -> None:
    """Raises CourseError, in every process, unless all were given the same."""
    everywhere = [None] * world_size()
    if world_size() > 1:
        dist.all_gather_object(everywhere, settings)
        for k, theirs in enumerate(everywhere):
            differ = [name for name in everywhere[0] if theirs.get(name) != everywhere[0][name]]
            if differ:
                raise CourseError(f"process {k} has {differ[0]}={theirs.get(differ[0])}, process 0 has "
                                  f"{everywhere[0][differ[0]]}: start all with the same command, on the same data")


def gather(x: Tensor) -> Tensor:
    """Rows of all processes, in rank order, without gradient: (B, ...) -> (B * world_size, ...)."""
    if world_size() == 1:
        return x.detach()
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def share(n: int) -> Tensor:
    """Numbers of this process's part of n things, as many in each process: (ceil(n / world_size),). The last may come twice."""
    each = math.ceil(n / world_size())
    return torch.arange(rank() * each, (rank() + 1) * each).clamp(max=n - 1)


def gather_shares(x: Tensor, n: int) -> Tensor:
    """What the processes made of their `share` of n things, in the things' order: (ceil(n / world_size), ...) -> (n, ...)."""
    return gather(x)[:n]


def mean(x: Tensor) -> Tensor:
    """Average over processes, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x)
    return x / world_size()


def earliest(x: Tensor) -> Tensor:
    """The smallest value over processes, without gradient."""
    x = x.detach().clone()
    if world_size() > 1:
        dist.all_reduce(x, dist.ReduceOp.MIN)
    return x


class _Sum(torch.autograd.Function):
    """Sum over processes. Every process uses the sum, so the gradient is summed over processes too."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the global batch: (B, D) -> (B, D), statistics in float32 at least.

    `torch.nn.SyncBatchNorm` does the same on GPUs only; this one also runs on CPUs, so that a test without a GPU can
    show that two processes train like one. Keys and shapes are those of `nn.BatchNorm1d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            with torch.autocast(x.device.type, enabled=False):
                return super().forward(widen(x))
        x = widen(x)
        n = len(x) * world_size()
        mean = _Sum.apply(x.sum(0)) / n
        variance = _Sum.apply((x - mean).square().sum(0)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        x = (x - mean) / (variance + self.eps).sqrt()
        return x * self.weight + self.bias if self.affine else x
