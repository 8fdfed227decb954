"""What each head of a model does, and where a head stands among all of them."""
import torch
from torch import Tensor

from lib.analysis.attention import attention_distance, entropy, normalized_mutual_information


def head_statistics(maps: Tensor, prefix: int, distances: Tensor) -> dict[str, list]:
    """What each head does, mean over images: (L, B, H, N, N) -> {"distance": L lists of H values, "entropy": ..., "nmi": ...}.

    Attention among patches, renormalised, as in chapter 5: pixels, nats, and 0 to 1.
    """
    found = {"distance": [], "entropy": [], "nmi": []}
    for attention in maps:                                                       # (B, H, N, N), a layer at a time
        attention = attention[..., prefix:, prefix:].float()
        attention = attention / attention.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        found["distance"].append(attention_distance(attention, distances).mean(0))
        found["entropy"].append(entropy(attention).mean((0, -1)))
        found["nmi"].append(normalized_mutual_information(attention).mean(0))
    return {name: [[round(float(value), 5) for value in layer] for layer in layers] for name, layers in found.items()}


def rank(values: list[list[float]], layer: int, head: int) -> int:
    """1 for the head with the largest value of all layers, 2 for the next; positions count from 0."""
    return 1 + sum(value > values[layer][head] for row in values for value in row)
