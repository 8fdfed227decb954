"""What a representation knows of the world of shapes: each factor of an image, read off its features by a linear probe."""
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lib.data.shapes import Shapes
from lib.errors import CourseError
from lib.evaluation.features import extract
from lib.evaluation.linear import check_features, hold_out, linear_probe
from lib.evaluation.report import bootstrap, bootstrap_r2, r_squared

CLASSES = ("shape", "texture", "ground")                          # of ten each: the object's outline, its filling, the ground
RIDGES = tuple(10.0**k for k in range(-6, 4))


def fit_ridge(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Least squares with a penalty of ridge * |weights|² beside the mean squared error: (N, D), (N,) -> (D,).

    Solves (X'X / N + ridge) w = X'y / N. Features and targets have mean 0, so there is no bias. Several targets for several
    features at once: (..., N, D), (N, C) -> (..., D, C).
    """
    n, d = features.shape[-2:]
    penalty = ridge * torch.eye(d).to(features)
    return torch.linalg.solve(features.mT @ features / n + penalty, features.mT @ targets / n)


def ridge_probe(features: Tensor, targets: Tensor, queries: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Train on features (N, D), targets (N,); -> predictions for the queries (Q,), float64, and the ridge chosen.

    Features are standardised by the training set, the mean of the targets is the bias. The ridge is the best of RIDGES on a
    tenth of the training images held out at random; then the probe is fitted on all. The queries have no say in it.
    """
    check_features(features, targets, queries)
    mean, std = features.mean(0), features.std(0) + 1e-6
    features, queries = ((x - mean).div(std).double() for x in (features, queries))
    bias = targets.double().mean()
    centred = targets.double() - bias
    held, kept = hold_out(len(features), seed)

    def held_out_error(ridge: float) -> float:
        return (features[held] @ fit_ridge(features[kept], centred[kept], ridge) - centred[held]).square().mean().item()

    best = min(RIDGES, key=held_out_error)
    return queries @ fit_ridge(features, centred, best) + bias, best


def probe_factors(features: Tensor, factors: dict[str, Tensor], queries: Tensor, truth: dict[str, Tensor]) -> dict:
    """What `factor_probes` gives, from features (N, D) and queries (Q, D) that are there, with `Shapes.factors` of both."""
    found = {}
    for name in CLASSES:
        right = linear_probe(features, factors[name], queries)[0] == truth[name]
        found[name] = {"measure": "accuracy", "value": right.float().mean().item(), "interval": bootstrap(right), "chance": 0.1}
    for axis, name in enumerate("xy"):
        predicted, _ = ridge_probe(features, factors["position"][:, axis], queries)
        place = truth["position"][:, axis]
        found[name] = {"measure": "R2", "value": r_squared(predicted, place), "interval": bootstrap_r2(predicted, place),
                       "chance": 0.0}
    return found


def factor_probes(backbone: VisionTransformer, train: Shapes, val: Shapes, pooling: str = "cls",
                  depth: int | None = None) -> dict:
    """-> for each factor {"measure", "value", "interval", "chance"}; the interval is of 95 %, over images of `val`.

    "shape", "texture" (of the object) and "ground" (its texture), ten each: accuracy of `linear_probe`. "x" and "y", the
    place of the object: R² of `ridge_probe`. depth and pooling as in `lib.evaluation.features`; for many depths at once take
    `extract_depths` and `probe_factors`. Raises CourseError if a source is not `Shapes`, which alone knows its factors.
    """
    for source in (train, val):
        if not hasattr(source, "factors"):
            raise CourseError(f"only the world of shapes knows its factors, got {type(source).__name__} of {source.name}; "
                              "open it as lib.data.shapes.Shapes, not Loaded")
    features, queries = (extract(backbone, source, pooling, depth=depth)[0] for source in (train, val))
    return probe_factors(features, train.factors(torch.arange(len(train))), queries, val.factors(torch.arange(len(val))))
