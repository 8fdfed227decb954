"""Linear probes: how much of the class can be read off frozen features by one linear layer?

`linear_probe` finds the best layer by L-BFGS: it has nothing to tune, and is what the course measures with. The papers train
theirs by SGD, each in its own way; `published_probe` repeats those by name, so that numbers can be put beside the papers'.
"""
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lib import distributed, random
from lib.data.ahead import Ahead
from lib.data.views import ViewRecipe, denormalize, make_view
from lib.errors import CourseError
from lib.evaluation import kept
from lib.evaluation.features import extract, frozen, pooled, standardize

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


def scores(features: Tensor, weights: Tensor) -> Tensor:
    """What the fitted layer gives for each class: (N, D), (D + 1, classes) -> (N, classes)."""
    return features @ weights[:-1] + weights[-1]


def predict(features: Tensor, weights: Tensor) -> Tensor:
    return scores(features, weights).argmax(1)


def check_features(features: Tensor, targets: Tensor, queries: Tensor) -> None:
    """Raises CourseError unless features (N, D), targets (N,) and queries (Q, D) fit together and are finite."""
    if features.ndim != 2 or len(features) < 20 or features.shape[1:] != queries.shape[1:] or len(features) != len(targets):
        raise CourseError(f"a linear probe needs features (N, D) with N at least 20, labels (N,) and queries (Q, D), got "
                          f"{tuple(features.shape)}, {tuple(targets.shape)} and {tuple(queries.shape)}")
    if not (features.isfinite().all() and queries.isfinite().all()):
        raise CourseError("a linear probe needs finite features; some of these are nan or infinite")


def hold_out(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers of a tenth of n images, at random, and of the other nine tenths."""
    order = random.permutation(random.combine("linear probe", seed), n)
    return order[:n // 10], order[n // 10:]


def linear_probe(features: Tensor, labels: Tensor, queries: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Train on features (N, D), labels (N,); -> predicted classes of the queries (Q,) and the weight decay chosen.

    They are the classes with the largest of `linear_scores`.
    """
    found, weight_decay = linear_scores(features, labels, queries, seed)
    return found.argmax(1), weight_decay


def linear_scores(features: Tensor, labels: Tensor, queries: Tensor, seed: int = 0) -> tuple[Tensor, float]:
    """Train on features (N, D), labels (N,); -> logits of the queries (Q, classes) and the weight decay chosen.

    Features are standardised by the training set. The weight decay is the best of WEIGHT_DECAYS on a tenth of the training
    images held out at random; then the probe is fitted on all of them. The queries have no say in it.
    """
    check_features(features, labels, queries)
    mean, std, classes = features.mean(0), features.std(0) + 1e-6, int(labels.max()) + 1
    features, queries = (features - mean) / std, (queries - mean) / std
    held, kept = hold_out(len(features), seed)

    def held_out_accuracy(weight_decay: float) -> float:
        weights = fit(features[kept], labels[kept], classes, weight_decay)
        return (predict(features[held], weights) == labels[held]).float().mean().item()

    best = max(WEIGHT_DECAYS, key=held_out_accuracy)
    return scores(queries, fit(features, labels, classes, best)), best


# ------------------------------------------------------------------------------------------------- published protocols

@dataclass(frozen=True)
class Protocol:
    """How linear heads are trained on a frozen backbone; weights start at N(0, 0.01), biases at 0 and are not decayed.

    learning_rates are the peaks for a batch of 256 images and grow in proportion to the batch. Where there are several
    learning rates or weight decays, every pair trains a head of its own.
    """
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    batch_size: int
    epochs: int
    warmup_epochs: float = 0          # linear, from 0; then half a cosine to 0
    by_epoch: bool = False            # the learning rate changes between epochs only
    momentum: float = 0.9
    trust: float | None = None        # of LARS; None is plain SGD
    batch_norm: bool = False          # before the heads, without scale and shift of its own
    augment: bool = False             # a random crop and flip of each image, new in each epoch
    bicubic: bool = False             # how that crop is brought to its size
    pooling: str = ""                 # where the paper says which; else that of the objective


PROTOCOLS = {
    # Indirect: a thesis records this as the appendix of Park et al. 2023, whose text was not at hand. Learning rate 1.0 at
    # a batch of 1024. No momentum is recorded; 0.9, as in the others, is an assumption.
    "park": Protocol((1.0 * 256 / 1024,), (0.05,), batch_size=1024, epochs=50),
    # Chen, Xie and He 2021, the official main_lincls.py.
    "mocov3": Protocol((3.0,), (0.0,), batch_size=1024, epochs=90, by_epoch=True, augment=True),
    # He et al. 2022, the official main_linprobe.py. LARS moves the weights by a share of their length, so that what it learns
    # depends on how many images it sees in all: 115 million there. A set of ten thousand needs far more epochs than 90.
    "mae": Protocol((0.1,), (0.0,), batch_size=16_384, epochs=90, warmup_epochs=10, trust=1e-3, batch_norm=True, augment=True,
                    bicubic=True, pooling="cls"),
    # Caron et al. 2021, the official eval_linear.py, for a ViT-S; for a ViT-B it reads "cls+mean".
    "dino": Protocol((0.001,), (0.0,), batch_size=1024, epochs=100, by_epoch=True, augment=True, pooling="cls4"),
    # Many heads at once is the idea of DINOv2's evaluator (Oquab et al. 2023); the grid is our own.
    "sweep": Protocol((0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), (0.0, 1e-4, 1e-3, 1e-2), batch_size=1024, epochs=50,
                      batch_norm=True),
}
VIEW = ViewRecipe(scale=(0.08, 1.0), flip=0.5)


def adapted(protocol: str, images: int, epochs: int | None = None, batch_size: int | None = None) -> Protocol:
    """A protocol by its name, for a training set of so many images. Raises CourseError.

    Unless a batch size is given, a batch holds at most a tenth of the images: what was published is for ImageNet, and one
    step an epoch would train nothing. Other epochs keep the share of them that is warm-up.
    """
    if protocol not in PROTOCOLS:
        raise CourseError(f"there is no linear protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    p = PROTOCOLS[protocol]
    epochs = p.epochs if epochs is None else epochs
    batch_size = min(p.batch_size, images // 10) if batch_size is None else batch_size
    if epochs < 1 or images < 20 or not 2 <= batch_size <= images * 9 // 10:
        raise CourseError(f"a linear protocol needs at least 20 images, 1 epoch and a batch of 2 images to nine tenths of all, "
                          f"got {images} images, {epochs} epochs and a batch of {batch_size}")
    return replace(p, epochs=epochs, batch_size=batch_size, warmup_epochs=p.warmup_epochs * epochs / p.epochs)


def schedule(p: Protocol, epoch: float) -> float:
    """Share of the peak learning rate, at a time in epochs."""
    epoch = math.floor(epoch) if p.by_epoch else epoch
    if epoch < p.warmup_epochs:
        return epoch / p.warmup_epochs
    return (1 + math.cos(math.pi * (epoch - p.warmup_epochs) / (p.epochs - p.warmup_epochs))) / 2


def update(weights: Tensor, velocity: Tensor, gradient: Tensor, learning_rate: Tensor | float, weight_decay: Tensor | float,
           momentum: float, trust: float | None = None) -> None:
    """A step of SGD with momentum for K heads at once, in place.

    weights, velocity, gradient (K, D, C); learning_rate and weight_decay numbers, or (K, 1, 1). With `trust` it is LARS (You
    et al. 2017): the gradient of a head, decay included, keeps its direction and gets the length trust * |weights|, before
    it enters the velocity; where one of the two lengths is 0 it stays as it is.
    """
    gradient = gradient + weight_decay * weights
    if trust is not None:
        length, size = (x.flatten(1).norm(dim=1)[:, None, None] for x in (gradient, weights))    # (K, 1, 1)
        gradient = torch.where((length > 0) & (size > 0), gradient * trust * size / length, gradient)
    velocity.mul_(momentum).add_(gradient)
    weights.sub_(learning_rate * velocity)


class Heads(nn.Module):
    """K linear heads that read the same features: (B, D) -> (K, B, C). All start from the same weights."""

    def __init__(self, heads: int, dim: int, classes: int, batch_norm: bool, seed: int):
        super().__init__()
        u = random.uniform(random.combine("linear head", seed), dim * classes).double() + 2**-25                # in (0, 1)
        normal = torch.special.ndtri(u).float().view(dim, classes)
        self.weights = nn.Parameter(0.01 * normal.repeat(heads, 1, 1))                           # (K, D, C)
        self.biases = nn.Parameter(torch.zeros(heads, 1, classes))
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if batch_norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        return self.norm(features) @ self.weights + self.biases


def train_heads(features_of, labels: Tensor, images: Tensor, p: Protocol, dim: int, seed: int, keep: Path | None = None,
                about: dict | None = None) -> Heads:
    """A head for each learning rate and weight decay of the protocol, in eval mode.

    images (n,): numbers of those to train on; features_of(epoch, images) -> (B, D); labels of all images, on the device of
    the features. What does not fill a batch is left out of an epoch, other images each time. keep: a file for the state
    after each epoch; about: what must be the same for it to be gone on from.
    """
    grid = torch.tensor(list(itertools.product(p.learning_rates, p.weight_decays)), device=labels.device)
    peak, decay = grid[:, :, None, None].unbind(1)                                 # (K, 1, 1) each
    heads = Heads(len(grid), dim, int(labels.max()) + 1, p.batch_norm, seed).to(labels.device)
    velocities = torch.zeros_like(heads.weights), torch.zeros_like(heads.biases)
    steps = len(images) // p.batch_size

    def load(state: dict) -> int:
        heads.load_state_dict(state["heads"])
        for mine, theirs in zip(velocities, state["velocities"], strict=True):
            mine.copy_(theirs)
        return state["epoch"]

    begun = kept.go_on(keep, about, load, p.epochs) if keep else 0
    for epoch in range(begun, p.epochs):
        order = images[random.permutation(random.combine("linear order", seed, epoch), len(images))]
        for step, chosen in enumerate(order.split(p.batch_size)[:steps]):
            logits, truth = heads(features_of(epoch, chosen)), labels[chosen.to(labels.device)]  # (K, B, C), (B,)
            loss = F.cross_entropy(logits.flatten(0, 1), truth.repeat(len(grid)), reduction="sum") / p.batch_size
            gradients = torch.autograd.grad(loss, (heads.weights, heads.biases))
            rate = peak * p.batch_size / 256 * schedule(p, epoch + step / steps)
            with torch.no_grad():
                update(heads.weights, velocities[0], gradients[0], rate, decay, p.momentum, p.trust)
                update(heads.biases, velocities[1], gradients[1], rate, 0.0, p.momentum)
        if keep:
            kept.keep(keep, about, {"epoch": epoch + 1, "heads": heads.state_dict(), "velocities": list(velocities)})
    return heads.eval().requires_grad_(False)


def probe_features(features: Tensor, labels: Tensor, queries: Tensor, protocol: str = "sweep", epochs: int | None = None,
                   seed: int = 0, batch_size: int | None = None) -> Tensor:
    """A protocol without augmentation, on features that are there: (N, D), labels (N,) -> classes of queries (Q, D): (Q,).

    Of several heads the one that is best on a tenth of the training images, held out, gives the learning rate and weight
    decay with which a last one is trained on all of them. The queries have no say in it. Raises CourseError.
    """
    p = adapted(protocol, len(features), epochs, batch_size)
    if p.augment:
        raise CourseError(f"the protocol {protocol} makes new features in each epoch; call published_probe with a backbone")
    check_features(features, labels, queries)

    def features_of(epoch: int, images: Tensor) -> Tensor:
        return features[images.to(features.device)]

    grid = list(itertools.product(p.learning_rates, p.weight_decays))
    if len(grid) > 1:
        held, kept = hold_out(len(features), seed)
        heads = train_heads(features_of, labels, kept, p, features.shape[1], seed)
        right = heads(features_of(0, held)).argmax(2) == labels[held.to(labels.device)]          # (K, held)
        learning_rate, weight_decay = grid[int(right.sum(1).argmax())]
        p = replace(p, learning_rates=(learning_rate,), weight_decays=(weight_decay,))
    heads = train_heads(features_of, labels, torch.arange(len(features)), p, features.shape[1], seed)
    return heads(queries)[0].argmax(1)


def features_of_new_views(backbone: VisionTransformer, train, pooling: str, depth: int | None, seed: int, bicubic: bool = False,
                          mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
                          ) -> Callable[[int, Tensor], Tensor]:
    """A function of the epoch and of numbers of images (B,), which gives the features of new views of these, (B, D).

    A view is a random crop and flip, VIEW, by the seed, the epoch and the image alone. Of several processes each makes a
    share, and all get all. pooling, depth, mean and std as in `lib.evaluation.features.extract_depths`.
    """
    weight = next(backbone.parameters())

    def features_of(epoch: int, images: Tensor) -> Tensor:
        parts, split = [], images[distributed.share(len(images))].split(256)
        reading = Ahead(train, split.__getitem__, len(split), weight.device)
        for k, some in enumerate(split):
            keys = random.combine("linear view", seed, epoch, some)
            views = make_view(reading(k), replace(VIEW, bicubic=bicubic), backbone.patch_embed.img_size[0], keys)
            views = views if mean is None else standardize(denormalize(views), mean, std)
            with frozen(backbone):
                parts.append(pooled(backbone, views.to(weight.dtype), (depth,), pooling)[depth].float())
        return distributed.gather_shares(torch.cat(parts), len(images))

    return features_of


def published_probe(backbone: VisionTransformer, train, val, protocol: str, pooling: str = "cls", depth: int | None = None,
                    epochs: int | None = None, seed: int = 0, batch_size: int | None = None,
                    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
                    keep: str | Path | None = None) -> Tensor:
    """Train a linear head on a source as a paper did; -> predicted classes of the images of `val` (Q,), on the CPU.

    protocol: a name in PROTOCOLS. "park" is known at second hand only: where its numbers are shown, say so. "mocov3", "mae" and
    "dino" run the frozen backbone on new views in every epoch, the others once. depth, pooling, mean and std as in
    `lib.evaluation.features.extract_depths`, where many depths at once go through `probe_features`. keep: a file for the state
    after each epoch of those three; where it is there already, the same call goes on from it, to the same bits. Raises
    CourseError, also if the file is of another call.
    """
    device, p = next(backbone.parameters()).device, adapted(protocol, len(train), epochs, batch_size)
    if keep and not p.augment:
        raise CourseError(f"the protocol {protocol} runs the backbone once and trains in minutes: it keeps no state")
    queries = extract(backbone, val, pooling, depth=depth, mean=mean, std=std)[0].to(device)
    if not p.augment:
        features, labels = (x.to(device) for x in extract(backbone, train, pooling, depth=depth, mean=mean, std=std))
        return probe_features(features, labels, queries, protocol, epochs, seed, batch_size).cpu()

    features_of = features_of_new_views(backbone, train, pooling, depth, seed, p.bicubic, mean, std)
    labels = train.labels(torch.arange(len(train))).to(device)
    about = {"protocol": asdict(p), "seed": seed, "images": f"{len(train)} of {train.name}/{train.split}", "pooling": pooling,
             "depth": depth, "scale": [list(x or ()) for x in (mean, std)], "network": kept.fingerprint(backbone),
             "content": kept.fingerprint_of_images(train)} if keep else {}
    keep = None if keep is None else Path(keep)
    with kept.alone(keep):
        heads = train_heads(features_of, labels, torch.arange(len(train)), p, queries.shape[1], seed, keep, about)
    return heads(queries)[0].argmax(1).cpu()
