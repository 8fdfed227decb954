"""A network in curves: what the analyses of attention, tokens and frequencies say at every depth, in one pass.

`python -m lib.analysis curves shapes/mocov3 --out x.json` writes them; chapters and claims read such files of networks whose
weights do not ship.
"""
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.analysis.attention import AttentionStatistics, HeadSimilarity, TokenSimilarity
from lib.analysis.fourier import Frequencies
from lib.analysis.recording import mean_and_error, record
from lib.errors import CourseError
from lib.evaluation.report import read_report

RESULTS = Path(__file__).parents[2] / "data" / "results" / "zoo"
# What a curve is of -> the depth of its first point. Attention is of blocks, from 1; tokens are at depths, from 0.
CURVES = {"distance": 1, "entropy": 1, "nmi": 1, "prefix_mass": 1, "head_similarity": 1, "token_similarity": 0,
          "delta_log_amplitude": 0}


def curves(backbone: nn.Module, source) -> dict[str, dict[str, list[float]]]:
    """-> for each name of CURVES {"depth": [...], "value": [...], "low": [...], "high": [...]}.

    Values are means over heads and images; low and high are the ends of the 95 % interval over images, 1.96 standard errors
    away. Units: distance pixels, entropy nats, delta_log_amplitude natural logarithms, the others shares or cosines. See
    `AttentionStatistics`, `HeadSimilarity`, `TokenSimilarity`, `Frequencies`. Raises CourseError for fewer than two images.
    """
    if len(source) < 2:
        raise CourseError(f"an interval over images needs at least 2 images, {source.name} has {len(source)}")
    found = record(backbone, source, [AttentionStatistics(), HeadSimilarity(), TokenSimilarity(), Frequencies()])
    return {name: curve(found[name], first) for name, first in CURVES.items()}


def curve(values: Tensor, first: int) -> dict[str, list[float]]:
    """(images, depths) or (images, depths, heads) -> mean over heads and images at each depth, with its interval."""
    values = values.double().flatten(2).mean(-1) if values.ndim == 3 else values.double()
    mean, error = mean_and_error(values)                                           # (depths,), (depths,)
    return {"depth": torch.arange(first, first + len(mean)).tolist(), "value": mean.tolist(),
            "low": (mean - 1.96 * error).tolist(), "high": (mean + 1.96 * error).tolist()}


def written(world: str, name: str, kind: str = "trained", folder: Path = RESULTS) -> dict[str, dict[str, list[float]]]:
    """The curves that data/results holds of a network of a world, such as ("shapes", "hybrid-0.4"), as `curves` gives them.

    kind: "trained", or "untrained" for its control. Raises CourseError if there are none of this name.
    """
    path = folder / f"{world}-{name}-curves.json"
    if not path.exists():
        known = sorted(p.stem.removeprefix(f"{world}-").removesuffix("-curves") for p in folder.glob(f"{world}-*-curves.json"))
        raise CourseError(f"data/results has no curves of {name!r} in world {world!r}; there are {', '.join(known) or 'none'}")
    return read_report(path, kind)[kind]
