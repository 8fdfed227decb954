"""Linear segmentation: what can be read off a single patch token about the pixels under it? The backbone stays frozen.

One linear layer maps each patch token to classes; its outputs are upsampled bilinearly to the pixels. It is trained as it is
used, upsampled, but to the quarters of patches only: the target of a quarter is the share of each class among its pixels,
whose cross-entropy is the mean cross-entropy of the pixels. That ends where training on every pixel does at a fraction of the
cost; training on whole patches, without upsampling, does not: outlines get blunt. As in the linear probe the fit is convex and
has no learning rate to choose.

Shapes: B images of H x W pixels, P patches on a grid of rows x columns, C classes; a mask holds classes or VOID.
"""
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lib.data.pairs import VOID
from lib.errors import CourseError
from lib.evaluation.features import frozen, standardize
from lib.evaluation.linear import WEIGHT_DECAYS, hold_out
from lib.evaluation.report import bootstrap_statistic

OBJECT_MASKS = ("ground", "object")


def patch_tokens(backbone: VisionTransformer, images: Tensor, depth: int | None = None) -> Tensor:
    """Normalised images (B, 3, H, W) -> patch tokens (B, P, D) float32, of any ViT of timm's making.

    depth: None is the end, after the final LayerNorm; l is after block l, 0 the embedding. Raises CourseError if the backbone
    has no such depth or takes images of another size, and if the tokens are not finite.
    """
    size, last = tuple(backbone.patch_embed.img_size), len(backbone.blocks)
    if images.shape[2:] != size:
        raise CourseError(f"this backbone takes images of {size[0]} x {size[1]} pixels, got {tuple(images.shape[2:])}: "
                          "open the source at that size")
    if depth is not None and depth not in range(last + 1):
        raise CourseError(f"there is no depth {depth}; this backbone has 0 (the embedding) to {last}, and None for the end")
    stream = []                                                                    # what goes into block l + 1 is depth l
    stop = (*backbone.blocks, backbone.norm)[depth or 0].register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))
    try:
        with frozen(backbone):
            end = backbone.forward_features(images)                                # (B, prefix + P, D)
    finally:
        stop.remove()
    tokens = (end if depth is None else stream[0])[:, backbone.num_prefix_tokens:].float()
    if not tokens.isfinite().all():
        raise CourseError("patch tokens are not finite: the weights are damaged")
    return tokens


def class_shares(masks: Tensor, grid: tuple[int, int], classes: int) -> Tensor:
    """Masks (B, H, W) -> share of each class in each cell of a grid: (B, C, rows, columns).

    The shares of a cell sum to 1 less the share of its VOID pixels. Raises CourseError where the cells are no whole pixels.
    """
    height, width = masks.shape[1:]
    if height % grid[0] or width % grid[1]:
        raise CourseError(f"masks of {height} x {width} pixels do not divide into {grid[0]} x {grid[1]} cells")
    cell = height // grid[0], width // grid[1]
    return torch.cat([F.avg_pool2d((masks == k).float()[:, None], cell) for k in range(classes)], 1)


def upsample(tokens: Tensor, weights: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Patch tokens (B, P, D), a linear layer (D + 1, C), its bias last -> its outputs at every pixel (B, C, *size)."""
    logits = (tokens @ weights[:-1] + weights[-1]).unflatten(1, grid)              # (B, rows, columns, C)
    return F.interpolate(logits.permute(0, 3, 1, 2), size, mode="bilinear")


def fit(tokens: Tensor, masks: Tensor, grid: tuple[int, int], classes: int, weight_decay: float, steps: int = 100) -> Tensor:
    """Train the linear layer by L-BFGS, the bias not decayed: tokens (N, P, D), masks (N, H, W) -> (D + 1, C).

    Patches must be an even number of pixels high and wide, or CourseError is raised.
    """
    quarters = 2 * grid[0], 2 * grid[1]
    shares = class_shares(masks, quarters, classes)                                # (N, C, 2 rows, 2 columns)
    weights = torch.zeros(tokens.shape[-1] + 1, classes).to(tokens).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(upsample(tokens, weights, grid, quarters), shares)
        loss = loss + weight_decay / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


class IntersectionOverUnion:
    """Of all pixels that are predicted or truly of a class, the share that is both; the mean over classes is the mIoU.

    `update` counts, image by image; pixels whose truth is VOID do not count. The counts of all images are added up before the
    division, as is the custom since Pascal VOC. A class that is neither predicted nor there has no say.
    """

    def __init__(self, classes: int):
        self.classes, self.counts = classes, []                                    # (B, 3, C) each: both, predicted, true

    def update(self, predicted: Tensor, truth: Tensor) -> None:
        """Classes of pixels: two of (B, H, W) int64."""
        b, c = len(truth), self.classes
        cells = torch.arange(b, device=truth.device)[:, None, None] * c * c + truth * c + predicted
        confusion = cells[truth != VOID].bincount(minlength=b * c * c).view(b, c, c)            # rows are true classes
        self.counts.append(torch.stack([confusion.diagonal(dim1=1, dim2=2), confusion.sum(1), confusion.sum(2)], 1).cpu())

    def compute(self) -> dict:
        """-> "miou", its 95 % "interval" over images, by resampling them, and "iou" of every class (None: not there)."""
        counts = torch.cat(self.counts).double()                                   # (N, 3, C)
        ious = iou(counts)
        return {"miou": ious.nanmean().item(), "interval": bootstrap_statistic(lambda some: iou(some).nanmean(), counts),
                "iou": [None if value.isnan() else value.item() for value in ious]}

    def miou(self) -> float:
        return iou(torch.cat(self.counts).double()).nanmean().item()


def iou(counts: Tensor) -> Tensor:
    """Pixels of each image that are both, predicted, true: (N, 3, C) -> (C,), nan where a class does not occur."""
    both, predicted, true = counts.sum(0)
    return both / (predicted + true - both)                                        # 0 / 0 is nan


def batches(backbone: VisionTransformer, source, classes: tuple[str, ...], depth: int | None,
            mean: tuple[float, ...] | None, std: tuple[float, ...] | None, batch_size: int = 64):
    """Patch tokens (B, P, D) and masks (B, H, W) of a source, from first to last, on the device of the backbone."""
    weight = next(backbone.parameters())
    for indices in torch.arange(len(source)).split(batch_size):
        images = standardize(source.images(indices).to(weight.device), mean, std).to(weight.dtype)
        masks = source.masks(indices).long()
        if masks.max() >= len(classes):
            raise CourseError(f"a mask of {source.name} holds class {masks.max()}, and only {len(classes)} are named "
                              f"({', '.join(classes)}): pass the classes of the source")
        yield patch_tokens(backbone, images, depth), masks.to(weight.device)


def dense_probe(backbone: VisionTransformer, train, val, classes: tuple[str, ...] = OBJECT_MASKS, depth: int | None = None,
                seed: int = 0, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> dict:
    """Linear segmentation, trained on one source with `masks(indices)` and measured on another.

    The sources are `Shapes` (object masks), a `PairFolder` (pass its `classes`) or alike, with images and masks of the size
    that the backbone takes; mean and std as in `lib.evaluation.features.extract_depths`. Tokens are standardised by the
    training set. The weight decay is the best of WEIGHT_DECAYS on a tenth of the training images held out at random; then the
    layer is fitted on all of them. The validation images have no say in it. The tokens of all training images are held at
    once, which takes images x P x D x 4 bytes.
    -> "miou", "interval" and "iou" by class on all validation pixels; "prior", the mIoU of the average training mask, which
    knows where in an image things lie and nothing of the image; "weight_decay" and the number of images.
    Raises CourseError for fewer than 20 training images and for masks with a class that `classes` does not name.
    """
    if len(train) < 20 or not len(val):
        raise CourseError(f"a dense probe needs at least 20 training and 1 validation images, got {len(train)} and {len(val)}")
    grid = tuple(backbone.patch_embed.grid_size)
    tokens, masks = (torch.cat(parts) for parts in zip(*batches(backbone, train, classes, depth, mean, std)))
    centre, spread, size = tokens.mean((0, 1)), tokens.std((0, 1)) + 1e-6, masks.shape[1:]
    tokens = (tokens - centre) / spread                                            # (N, P, D)
    held, kept = (numbers.to(tokens.device) for numbers in hold_out(len(tokens), seed))

    def held_out_miou(weight_decay: float) -> float:
        weights = fit(tokens[kept], masks[kept], grid, len(classes), weight_decay)
        metric = IntersectionOverUnion(len(classes))
        metric.update(upsample(tokens[held], weights, grid, size).argmax(1), masks[held])
        return metric.miou()

    best = max(WEIGHT_DECAYS, key=held_out_miou)
    weights = fit(tokens, masks, grid, len(classes), best)
    average = class_shares(masks, size, len(classes)).mean(0).argmax(0)            # (H, W)
    metric, prior = IntersectionOverUnion(len(classes)), IntersectionOverUnion(len(classes))
    for queries, truth in batches(backbone, val, classes, depth, mean, std):
        metric.update(upsample((queries - centre) / spread, weights, grid, size).argmax(1), truth)
        prior.update(average.expand_as(truth), truth)
    result = metric.compute()
    return result | {"iou": dict(zip(classes, result["iou"], strict=True)), "prior": prior.miou(),
                     "weight_decay": best, "training_images": len(train), "validation_images": len(val)}
