"""k nearest neighbours: does a picture's neighbourhood share its class? Nothing is trained."""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.errors import CourseError


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Weighted k-NN: each of the k most similar bank features votes with exp(cosine / temperature).

    bank (N, D) with labels (N,), queries (Q, D) -> predicted classes (Q,). The protocol of Wu et al. 2018, section 3.4, and
    of DINO (k = 20, temperature 0.07). k is cut to N. Raises CourseError for an empty bank or different widths.
    """
    if not len(bank) or bank.shape[1:] != queries.shape[1:] or len(bank) != len(labels):
        raise CourseError(f"k-NN needs a bank (N, D), labels (N,) and queries (Q, D), got {tuple(bank.shape)}, "
                          f"{tuple(labels.shape)} and {tuple(queries.shape)}")
    if k < 1 or not (bank.isfinite().all() and queries.isfinite().all()):
        raise CourseError(f"k-NN needs k of at least 1 and finite features, got k = {k}, and "
                          f"{int((~bank.isfinite()).any(1).sum() + (~queries.isfinite()).any(1).sum())} features not finite")
    bank, classes = F.normalize(bank, dim=1), int(labels.max()) + 1
    predicted = []
    for some in F.normalize(queries, dim=1).split(1024):
        cosine, nearest = (some @ bank.T).topk(min(k, len(bank)), dim=1)           # (q, k)
        weights = ((cosine - cosine[:, :1]) / temperature).exp()                   # relative to the nearest: no overflow
        votes = torch.zeros(len(some), classes).to(some).scatter_add_(1, labels[nearest], weights)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, k: int = 20) -> float:
    """Share of queries whose class k-NN finds, from 0 to 1."""
    return (knn_predict(bank, labels, queries, k) == query_labels).float().mean().item()
