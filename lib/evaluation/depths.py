"""Which block knows the class? k-NN and a linear probe after every block, for the CLS token and for the mean of the patches.

Park et al. 2023, Figure 10; Raghu et al. 2021, Figures 11 and 13; Shekhar et al. 2023, on CLS against pooled tokens by block.
"""
from pathlib import Path

from torch import nn

from lib.errors import CourseError
from lib.evaluation.features import extract_depths
from lib.evaluation.linear import linear_probe
from lib.evaluation.neighbors import knn_predict
from lib.evaluation.report import read_report
from lib.evaluation.yardsticks import share

RESULTS = Path(__file__).parents[2] / "data" / "results" / "zoo"


def by_depth(backbone: nn.Module, train, val, depths: list[int] | None = None) -> dict[str, dict]:
    """-> {"depth": [...], "cls": {"knn": [...], "linear": [...]}, "mean": {...}}, an entry {"value", "interval"} a depth.

    depths: which, all from 0 (the embedding) to the last block if left out; features are those of the residual stream, before
    the final LayerNorm. "cls" is missing for a backbone without CLS. Intervals of 95 % are over the images of `val`. Raises
    CourseError if a depth does not exist or the images do not fit.
    """
    depths = list(range(len(backbone.blocks) + 1)) if depths is None else depths
    if not depths:
        raise CourseError("no depth was asked for; depths such as [0, 6, 12]")
    found = {"depth": depths}
    for pooling in ("cls", "mean") if backbone.num_prefix_tokens else ("mean",):
        features, labels = extract_depths(backbone, train, depths, pooling)
        queries, truth = extract_depths(backbone, val, depths, pooling)
        found[pooling] = {
            "knn": [share(knn_predict(features[depth], labels, queries[depth]) == truth) for depth in depths],
            "linear": [share(linear_probe(features[depth], labels, queries[depth])[0] == truth) for depth in depths],
        }
    return found


def written(world: str, name: str, kind: str = "trained", folder: Path = RESULTS) -> dict[str, dict]:
    """What data/results holds of a network of a world by depth, such as ("shapes", "simmim"), as `by_depth` gives it.

    kind: "trained", or "untrained" for its control. Raises CourseError if there is nothing of this name.
    """
    path = folder / f"{world}-{name}-depths.json"
    if not path.exists():
        known = sorted(p.stem.removeprefix(f"{world}-").removesuffix("-depths") for p in folder.glob(f"{world}-*-depths.json"))
        raise CourseError(f"data/results has nothing by depth of {name!r} in world {world!r}; there are "
                          f"{', '.join(known) or 'none'}")
    return read_report(path, kind)[kind]
