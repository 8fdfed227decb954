"""Networks that one GPU cannot hold: every process keeps a share of each weight, its gradient and its optimiser state.

PyTorch's `fully_shard` (FSDP2) brings the weights of a block together when the block is at work, and drops them after. A
checkpoint is written whole, so that any number of processes, sharded or not, can go on from it.
"""
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from lib import distributed


def shard(objective: nn.Module, device: str) -> None:
    """Split all parameters over the processes, in place: block by block, and the rest together."""
    mesh = init_device_mesh(device, (distributed.world_size(),))
    for block in blocks(objective):
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def compile_blocks(objective: nn.Module) -> None:
    """Compile what each block computes. To be done first: what checkpoints and shards a block calls it, and is not compiled."""
    for block in blocks(objective):
        block.forward = torch.compile(block.forward)


def blocks(objective: nn.Module) -> list[nn.Module]:
    """What is brought together, and compiled, as one."""
    return [m for m in objective.modules() if isinstance(m, Block)]


def full(x: Tensor) -> Tensor:
    """A tensor of which each process may hold a shard, all of it, where it is. All processes must call it."""
    return x.full_tensor().detach() if isinstance(x, DTensor) else x


def whole(x):
    """Every shard in a tensor, dict or list brought together, on the CPU; the rest as it is. All processes must call it."""
    if isinstance(x, DTensor):
        return full(x).cpu()
    if isinstance(x, dict):
        return {name: whole(value) for name, value in x.items()}
    return [whole(value) for value in x] if isinstance(x, list) else x


def like(x: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor split as a parameter is, if it is."""
    split = isinstance(parameter, DTensor) and x.shape == parameter.shape
    return distribute_tensor(x.to(parameter.device), parameter.device_mesh, parameter.placements) if split else x


def load_weights(objective: nn.Module, state: dict[str, Tensor]) -> None:
    """A whole state_dict into a network, sharded or not."""
    mine = objective.state_dict()
    objective.load_state_dict({name: like(x, mine.get(name)) for name, x in state.items()})


def load_optimizer(optimizer: Optimizer, state: dict) -> None:
    """A whole state_dict into an optimiser whose parameters are sharded or not. Raises ValueError where shapes differ."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for k, values in state["state"].items():
        if k >= len(parameters) or any(values[name].shape != parameters[k].shape for name in ("exp_avg", "exp_avg_sq")):
            raise ValueError(f"what the optimiser remembers of parameter {k} does not fit it")   # PyTorch would crash
    split = {k: {name: like(x, parameters[k]) if isinstance(x, Tensor) else x for name, x in values.items()}
             for k, values in state["state"].items()}
    optimizer.load_state_dict(state | {"state": split})
