"""The plain way to analyse attention, written for comparison: as the formulas are read, with nothing saved.

Attention of every block is kept at once, as probabilities over all tokens; prefix tokens are cut off and rows renormalised;
distances between patches are filled in by a double loop, for each block anew, and in numpy; mutual information makes the
joint distribution and the product of its margins in full; the Fourier transform takes all channels, in complex numbers.
Shares no code with lib.analysis.
"""
import math

import numpy as np
import torch
from torch import Tensor, nn


@torch.no_grad()
def attention_of_all_blocks(backbone: nn.Module, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """-> probabilities (B, H, N, N) of each block, and the residual stream (B, N, D) before the first and after each."""
    tokens = backbone.embed(images)
    attention, stream = [], [tokens]
    for block in backbone.blocks:
        x = block.norm1(tokens)
        batch, n, width = x.shape
        heads = block.attn.num_heads
        q, k, v = block.attn.qkv(x).reshape(batch, n, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        logits = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(width // heads)
        probabilities = torch.softmax(logits, dim=3)
        attention.append(probabilities)
        mixed = torch.matmul(probabilities, v).transpose(1, 2).reshape(batch, n, width)
        tokens = tokens + block.ls1(block.attn.proj(mixed))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
        stream.append(tokens)
    return attention, stream


def distance_matrix(side: int, patch: int) -> np.ndarray:
    """Pixels between the centres of two patches, by a double loop."""
    table = np.zeros((side * side, side * side))
    for i in range(side * side):
        for j in range(side * side):
            rows, columns = i // side - j // side, i % side - j % side
            table[i, j] = patch * math.sqrt(rows * rows + columns * columns)
    return table


def analyse(backbone: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """"distance" (pixels), "entropy" (nats) and "nmi", each (B, blocks, heads); "delta_log_amplitude" (B, 1 + blocks)."""
    side, patch = backbone.patch_embed.grid_size[0], backbone.patch_embed.patch_size[0]
    attention, stream = attention_of_all_blocks(backbone, images)
    found = {"distance": [], "entropy": [], "nmi": []}
    for probabilities in attention:
        a = probabilities[:, :, 1:, 1:]
        a = (a / a.sum(3, keepdim=True)).float().cpu().numpy()                     # (B, H, P, P)
        distances = distance_matrix(side, patch)
        found["distance"].append((a * distances).sum(3).mean(2))
        found["entropy"].append(-(a * np.log(a + 1e-20)).sum(3).mean(2))
        joint = a / a.shape[2]                                                     # p(q, k)
        queries, keys = joint.sum(3, keepdims=True), joint.sum(2, keepdims=True)
        information = (joint * (np.log(joint + 1e-20) - np.log(queries * keys + 1e-20))).sum((2, 3))
        of_queries = -(queries * np.log(queries)).sum((2, 3))
        of_keys = -(keys * np.log(keys + 1e-20)).sum((2, 3))
        found["nmi"].append(information / np.sqrt(of_queries * of_keys))
    result = {name: torch.from_numpy(np.stack(values, 1)) for name, values in found.items()}
    drops = []
    for tokens in stream:
        maps = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side).to(torch.complex64)
        amplitude = torch.log(torch.fft.fft2(maps).abs() + 1e-6).mean(1)           # (B, side, side)
        last = side // 2 - 1
        drops.append(amplitude[:, last, last] - amplitude[:, 0, 0])
    return result | {"delta_log_amplitude": torch.stack(drops, 1).cpu()}
