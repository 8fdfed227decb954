"""Two maps that need no head: where attention leads over many blocks (rollout), and how alike two tokens are.

Shapes: L blocks, B images, H heads, N tokens of D channels, prefix tokens among them.
"""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError


def attention_rollout(maps: Tensor) -> Tensor:
    """How much of each input token arrives at each token of block l: (L, B, H, N, N) -> (L, B, N, N), rows sum to 1.

    Half of what enters a block takes the skip connection, half is mixed by the mean of its heads; rows are renormalised, and
    the blocks up to l multiplied (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3). Values,
    MLPs and the true weight of the skip connection are left out: it is a bookkeeping of attention, not of information.
    Raises CourseError for attention of another shape.
    """
    if maps.ndim != 5 or maps.shape[3] != maps.shape[4] or 0 in maps.shape:
        raise CourseError(f"rollout got attention of shape {tuple(maps.shape)}; expected (layers, images, heads, tokens, "
                          "tokens), as attention_maps gives it")
    tokens = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    arrived, found = tokens.expand(maps.shape[1], -1, -1), []                    # (B, N, N), before the first block
    for attention in maps:
        mixed = (attention.mean(1) + tokens) / 2                                 # (B, N, N)
        arrived = mixed / mixed.sum(-1, keepdim=True) @ arrived
        found.append(arrived)
    return torch.stack(found)


def token_cosines(tokens: Tensor) -> Tensor:
    """Cosine of every two tokens of an image: (..., N, D) -> (..., N, N), from -1 to 1, 1 on the diagonal.

    The mean over pairs of patches is `lib.analysis.attention.TokenSimilarity`.
    """
    units = F.normalize(tokens.float(), dim=-1)
    return (units @ units.mT).clamp(-1, 1)
