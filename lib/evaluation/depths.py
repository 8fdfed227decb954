"""Which block knows the class? k-NN and a linear probe after every block, for the CLS token and for the mean of the patches.

Park et al. 2023, Figure 10; Raghu et al. 2021, Figures 11 and 13; Shekhar et al. 2023, on CLS against pooled tokens by block.
"""
from torch import nn

from lib.errors import CourseError
from lib.evaluation.features import extract_depths
from lib.evaluation.linear import linear_probe
from lib.evaluation.neighbors import knn_predict
from lib.evaluation.yardsticks import share


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
