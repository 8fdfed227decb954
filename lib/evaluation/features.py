"""Frozen features: one pass of a backbone over a source, no augmentation."""
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lib.data.views import normalize
from lib.errors import CourseError

POOLINGS = ("cls", "mean")


@torch.no_grad()
def extract(backbone: VisionTransformer, source, pooling: str = "cls", batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """-> features (N, D) float32 and labels (N,) int64, on the CPU, of the tokens after the final LayerNorm.

    pooling: "cls" takes the CLS token (MoCo v3, DINO), "mean" the mean of the patch tokens (SimMIM, MAE). The backbone runs
    in eval mode, on the device it is on. Raises CourseError if features are not finite or the pooling is unknown.
    """
    if pooling not in POOLINGS:
        raise CourseError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
    training, device = backbone.training, next(backbone.parameters()).device
    backbone.eval()
    features = []
    for start in range(0, len(source), batch_size):
        images = source.images(torch.arange(start, min(start + batch_size, len(source)))).to(device)
        tokens = backbone.forward_features(normalize(images))                      # (B, prefix + N, D)
        pooled = tokens[:, 0] if pooling == "cls" else tokens[:, backbone.num_prefix_tokens:].mean(1)
        features.append(pooled.float().cpu())
    backbone.train(training)
    features = torch.cat(features)
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(1).nonzero()[0])
        raise CourseError(f"features are not finite, first for image {bad} of {source.name}: the weights are damaged")
    return features, source.labels(torch.arange(len(source)))
