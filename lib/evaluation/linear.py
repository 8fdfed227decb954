"""Linear probe: how much of the class can be read off frozen features by one linear layer?"""
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import random
from lib.errors import CourseError

WEIGHT_DECAYS = tuple(10.0**k for k in range(-6, 1))


def fit(features: Tensor, labels: Tensor, classes: int, weight_decay: float, steps: int = 100) -> Tensor:
    """Multinomial logistic regression by L-BFGS, the bias not decayed: (N, D), (N,) -> (D + 1, classes)."""
    features = F.pad(features, (0, 1), value=1.0)                                  # (N, D + 1)
    weights = torch.zeros(features.shape[1], classes).to(features).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(features @ weights, labels) + weight_decay / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def predict(features: Tensor, weights: Tensor) -> Tensor:
    return (features @ weights[:-1] + weights[-1]).argmax(1)


def linear_probe(features: Tensor, labels: Tensor, queries: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Train on features (N, D), labels (N,); -> predicted classes of the queries (Q,) and the weight decay chosen.

    Features are standardised by the training set. The weight decay is the best of WEIGHT_DECAYS on a tenth of the training
    images held out at random; then the probe is fitted on all of them. The queries have no say in it.
    """
    if len(features) < 20 or features.shape[1:] != queries.shape[1:] or len(features) != len(labels):
        raise CourseError(f"a linear probe needs features (N, D) with N at least 20, labels (N,) and queries (Q, D), got "
                          f"{tuple(features.shape)}, {tuple(labels.shape)} and {tuple(queries.shape)}")
    if not (features.isfinite().all() and queries.isfinite().all()):
        raise CourseError("a linear probe needs finite features; some of these are nan or infinite")
    mean, std, classes = features.mean(0), features.std(0) + 1e-6, int(labels.max()) + 1
    features, queries = (features - mean) / std, (queries - mean) / std
    order = random.permutation(random.combine("linear probe", seed), len(features))
    held, kept = order[:len(order) // 10], order[len(order) // 10:]

    def held_out_accuracy(weight_decay: float) -> float:
        weights = fit(features[kept], labels[kept], classes, weight_decay)
        return (predict(features[held], weights) == labels[held]).float().mean().item()

    best = max(WEIGHT_DECAYS, key=held_out_accuracy)
    return predict(queries, fit(features, labels, classes, best)), best
