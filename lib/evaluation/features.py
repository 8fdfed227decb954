"""Frozen features: one pass of a backbone over a source, no augmentation. Several processes (torchrun) share the images.

Any ViT of timm's making will do (VisionTransformer, DeiT, BEiT, the course's own): it has `blocks`, `forward_features` and
`num_prefix_tokens`. What is inside is caught by hooks, so no model is changed for it.

A depth is counted like everywhere in the course: 0 is the embedding, what goes into the first block; l is the residual
stream after block l; None is the end, after the final LayerNorm.
"""
import contextlib
from collections.abc import Iterator

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lib import distributed
from lib.data.views import normalize
from lib.errors import CourseError

POOLINGS = ("cls", "mean")                 # one vector an image, as heads read it; `take` knows more
# Two vectors or four side by side, as DINO's linear probes read them (Caron et al. 2021, appendix F.2): CLS and the mean of the
# patches (ViT-B), or CLS after each of the last four blocks, through the final LayerNorm (ViT-S).
JOINED = ("cls+mean", "cls4")


@contextlib.contextmanager
def frozen(backbone: nn.Module):
    """Eval mode and no gradients; afterwards the backbone is in the mode it was in."""
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.train(training)


def take(tokens: Tensor, prefix: int, pooling: str | int) -> Tensor:
    """What is read of tokens (B, prefix + P, D), CLS first: "cls", "mean" of the patches or one patch by its number -> (B, D).

    Patches are numbered row by row from 0. "cls+mean" is both, (B, 2 D), and "tokens" all of them, prefix first, (B, prefix +
    P, D). Raises CourseError if the pooling is unknown, or there is no CLS token or no such patch.
    """
    patches = tokens.shape[1] - prefix
    if pooling in ("cls", "cls+mean") and not prefix:
        raise CourseError("this backbone has no CLS token; choose the pooling mean")
    if isinstance(pooling, int) and pooling in range(patches):
        return tokens[:, prefix + pooling]
    if pooling not in (*POOLINGS, "cls+mean", "tokens"):
        raise CourseError(f"there is no pooling {pooling!r}; choose one of {', '.join((*POOLINGS, *JOINED))}, tokens, or a "
                          f"patch from 0 to {patches - 1}")
    if pooling == "tokens":
        return tokens
    cls, mean = tokens[:, 0], tokens[:, prefix:].mean(1)
    return {"cls": cls, "mean": mean, "cls+mean": torch.cat([cls, mean], 1)}[pooling]


def pooled(backbone: VisionTransformer, images: Tensor, depths=(None,),
           pooling: str | int = "cls") -> dict[int | None, Tensor]:
    """Normalised images (B, 3, H, W) -> {depth: (B, D)}, in one forward pass; with the pooling "tokens" (B, N, D), see `take`.

    The pooling "cls4" is of the end alone: (B, 4 D), CLS after each of the last four blocks, the earliest first. A model that
    was trained on the mean of its patch tokens may have its final LayerNorm behind that mean (timm calls it `fc_norm`); it is
    applied there. Raises CourseError if a depth or the pooling is unknown, or there is no CLS token.
    """
    prefix, last, after = backbone.num_prefix_tokens, len(backbone.blocks), getattr(backbone, "fc_norm", nn.Identity())
    if pooling == "cls4":
        if set(depths) != {None} or last < 4:
            raise CourseError(f"the pooling cls4 joins the last four blocks, of {last} here; leave the depth out"
                              + (", or choose the pooling cls" if last < 4 else ""))
        cls = pooled(backbone, images, range(last - 3, last + 1), "cls")
        return {None: torch.cat([after(backbone.norm(cls[depth])) for depth in sorted(cls)], 1)}
    for depth in depths:
        if depth is not None and depth not in range(last + 1):
            raise CourseError(f"there is no depth {depth}; this backbone has 0 (the embedding) to {last}, and None for the end")
    kept, hooks = {}, []

    def keep(depth: int | None, tokens: Tensor) -> None:                           # tokens (B, prefix + N, D)
        kept[depth] = take(tokens, prefix, pooling)

    try:
        for depth in set(depths) - {None, 0}:
            hooks.append(backbone.blocks[depth - 1].register_forward_hook(
                lambda block, inputs, tokens, depth=depth: keep(depth, tokens)))
        if 0 in depths:
            hooks.append(backbone.blocks[0].register_forward_pre_hook(lambda block, inputs: keep(0, inputs[0])))
        keep(None, backbone.forward_features(images))
    finally:
        for hook in hooks:
            hook.remove()
    parts = kept[None].unflatten(1, (2, -1)) if pooling == "cls+mean" else kept[None]
    kept[None] = after(parts).view_as(kept[None])
    return {depth: kept[depth] for depth in depths}


def extract_depths(backbone: VisionTransformer, source, depths, pooling: str | int = "cls", batch_size: int = 256,
                   mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
                   ) -> tuple[dict[int | None, Tensor], Tensor]:
    """-> {depth: features (N, D) float32} and labels (N,) int64, on the CPU, of all depths in one pass.

    pooling: "cls" takes the CLS token (MoCo v3, DINO), "mean" the mean of the patch tokens (SimMIM, MAE), one of JOINED several
    vectors side by side, a number a single patch, and "tokens" all tokens, features (N, tokens, D), see `take`. The backbone
    runs in eval mode, on the device it is on. mean, std: of red, green, blue in [0, 1], as the weights expect them; ImageNet's
    if left out (AugReg's ViTs take 0.5 for all). Raises CourseError if features are not finite, if a depth or the pooling is
    unknown, or if the images do not fit.
    """
    features, done = {}, 0
    for found in stream(backbone, source, depths, pooling, batch_size, mean, std):
        for depth, rows in found.items():
            if depth not in features:                              # one place for all images, so that memory holds them once
                features[depth] = torch.empty(len(source), *rows.shape[1:])
            features[depth][done:done + len(rows)] = rows
        done += len(rows)
    return features, source.labels(torch.arange(len(source)))


def stream(backbone: VisionTransformer, source, depths=(None,), pooling: str | int = "cls", batch_size: int = 256,
           mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> Iterator[dict[int | None, Tensor]]:
    """The same features batch by batch, nothing kept: yields {depth: (B, D) float32}, on the device of the backbone. Of several
    processes each runs a share of a batch, and all get all."""
    if not len(depths):
        raise CourseError("no depth was asked for; depths such as (0, 6, None)")
    weight, size = next(backbone.parameters()), backbone.patch_embed.img_size
    strict = getattr(backbone.patch_embed, "strict_img_size", False) and not getattr(backbone, "any_size", False)
    if strict and tuple(size) != (source.size, source.size):
        raise CourseError(f"this backbone takes images of {size[0]} x {size[1]} pixels, those of {source.name} have "
                          f"{source.size}; open the source at a size of {size[0]}")
    for indices in torch.arange(len(source)).split(batch_size * distributed.world_size()):
        images = source.images(indices[distributed.share(len(indices))]).to(weight.device)
        with frozen(backbone):
            found = pooled(backbone, standardize(images, mean, std).to(weight.dtype), depths, pooling)
        found = {depth: distributed.gather_shares(features.float(), len(indices)) for depth, features in found.items()}
        for depth, rows in found.items():
            if not rows.isfinite().all():
                bad = indices[(~rows.flatten(1).isfinite()).any(1).nonzero()[0, 0].cpu()]
                raise CourseError(f"features are not finite, first for image {bad} of {source.name}"
                                  f"{'' if depth is None else f' at depth {depth}'}: the weights are damaged")
        yield found


def extract(backbone: VisionTransformer, source, pooling: str | int = "cls", batch_size: int = 256, depth: int | None = None,
            mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> tuple[Tensor, Tensor]:
    """-> features (N, D) float32 and labels (N,) int64, on the CPU; of one depth, else like `extract_depths`."""
    features, labels = extract_depths(backbone, source, (depth,), pooling, batch_size, mean, std)
    return features[depth], labels


def standardize(images: Tensor, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> Tensor:
    """uint8 or float images in [0, 1], (B, 3, H, W) -> float32 without `mean` and `std`; ImageNet's if both are None."""
    if mean is None and std is None:
        return normalize(images)
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise CourseError(f"mean and std are three numbers each, std greater than 0, got {mean} and {std}")
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (mean, std))
    return (images - mean) / std
