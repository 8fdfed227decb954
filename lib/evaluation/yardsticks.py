"""The yardsticks side by side, for the tables: what a frozen representation is worth in each world.

Every number is a dict {"value", "interval"}: a share from 0 to 1 (R² for places) and its 95 % interval over images.
"""
import torch
from torch import nn

from lib.data.shapes import Shapes
from lib.evaluation.dense import dense_probe
from lib.evaluation.factors import probe_factors
from lib.evaluation.features import extract
from lib.evaluation.linear import linear_probe
from lib.evaluation.neighbors import knn_predict
from lib.evaluation.report import bootstrap

# Images of the procedural world on which its tables are measured, training and validation; of the real sets all are taken.
COUNTS = {"train": 2000, "val": 1000}
DENSE = {"train": 300, "val": 150}


def share(right) -> dict:
    """(N,) bool -> {"value", "interval"}"""
    return {"value": right.float().mean().item(), "interval": bootstrap(right)}


def measure(backbone: nn.Module, train, val, pooling: str, depth: int | None = None) -> dict:
    """All yardsticks of frozen features that a world has: k-NN and linear probe of the class, "knn" and "linear", and in
    `Shapes` also "texture", "ground", "x", "y" (`lib.evaluation.factors`) and "miou" of the object (`lib.evaluation.dense`).

    train, val: sources. depth: a block, None for the output. Probes are trained on the device of the backbone.
    """
    device = next(backbone.parameters()).device
    (features, labels), (queries, truth) = ([x.to(device) for x in extract(backbone, source, pooling, depth=depth)]
                                            for source in (train, val))
    found = {"knn": share(knn_predict(features, labels, queries) == truth)}
    if not isinstance(train, Shapes):
        return found | {"linear": share(linear_probe(features, labels, queries)[0] == truth)}
    factors = probe_factors(features.cpu(), truth_of(train), queries.cpu(), truth_of(val))
    found |= {"linear" if name == "shape" else name: {k: f[k] for k in ("value", "interval")} for name, f in factors.items()}
    few = (Shapes(source.split, source.size, length=min(DENSE[source.split], len(source)), difficulty=source.difficulty)
           for source in (train, val))
    dense = dense_probe(backbone, *few, depth=depth)
    return found | {"miou": {"value": dense["miou"], "interval": dense["interval"]}}


def truth_of(world: Shapes) -> dict:
    return world.factors(torch.arange(len(world)))
