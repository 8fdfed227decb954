"""An attentive probe: how much of the class can be read off frozen tokens by a layer that chooses where to look?

A linear probe reads CLS or the mean of the patches, and masked image modelling asks nothing of either: what such a network
knows of an image lies in its patches. Here M learned queries q_m look at all of the tokens x_n (CLS too, where there is one)
before a linear layer reads what they gather:

    a_mn = softmax over n of x_n . q_m / sqrt(D)       where query m looks
    y_m  = part m, of M, of sum over n of a_mn V x_n    what it brings, D / M numbers
    logits = W [y_1 ... y_M] + b

This is the form of Psomas et al. 2025 ("Attention, Please! Revisiting Attentive Probing for Masked Image Modeling"), who leave
out what other attentive probes carry along (keys, a projection, an MLP). Tokens are standardised first. Queries and W start at
0 and V as the identity, so that the probe begins as a linear one of the mean of all tokens; this start, and how it is trained,
are the course's own.
"""
import functools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from tqdm import tqdm

from lib import distributed, random
from lib.data.subset import Subset
from lib.errors import CourseError
from lib.evaluation import kept
from lib.evaluation.features import extract, stream
from lib.evaluation.linear import features_of_new_views, hold_out
from lib.training.settings import option
from lib.training.sharding import load_optimizer

RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)                        # peak learning rates; the best on a tenth, held out, is taken
HELD = 16e9                                                       # bytes of tokens that are held at once


@dataclass(frozen=True, kw_only=True)
class AttentiveRecipe:
    """How an attentive probe is trained: AdamW, half a cosine to 0, one learning rate for all of it."""
    queries: int = option(8, "learned queries, a divisor of the numbers a token has")
    epochs: int = option(30, "passes over the training images")
    batch_size: int = option(128, "images a step, two or more, at most a tenth of all")
    weight_decay: float = option(0.1, "of the last layer")
    augment: bool = option(False, "a random crop and flip of each image, new in each epoch: the network runs in every one")

    def __post_init__(self):
        for name, low in (("queries", 1), ("epochs", 1), ("batch_size", 2), ("weight_decay", 0)):
            if not low <= getattr(self, name) < math.inf:
                raise CourseError(f"{name} of an attentive probe must be at least {low} and finite, got {getattr(self, name)}")


def check_queries(queries: int, dim: int) -> None:
    """Raises CourseError if each query cannot have an equal part of so many numbers a token."""
    if queries < 1 or dim % queries:
        raise CourseError(f"{queries} queries do not divide {dim} numbers a token; choose a divisor of {dim}")


class AttentiveProbe(nn.Module):
    """Tokens (B, N, D) -> logits (B, classes). Raises CourseError if the queries do not divide D."""

    def __init__(self, dim: int, classes: int, queries: int = 8):
        check_queries(queries, dim)
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6, momentum=None)     # the mean over all batches that it has seen
        self.queries = nn.Parameter(torch.zeros(queries, dim))
        self.values = nn.Parameter(torch.eye(dim))
        self.weights = nn.Parameter(torch.zeros(dim, classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def standardized(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens.flatten(0, 1)).view_as(tokens)

    def look(self, tokens: Tensor) -> Tensor:
        """Where each query looks, for standardised tokens (B, N, D) -> (B, M, N), each row a distribution."""
        return (self.queries @ tokens.mT / math.sqrt(tokens.shape[-1])).softmax(-1)

    def attention(self, tokens: Tensor) -> Tensor:
        """Where each query looks, for tokens as the network gives them: (B, N, D) -> (B, M, N)."""
        return self.look(self.standardized(tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.standardized(tokens)
        values = (tokens @ self.values).unflatten(-1, (len(self.queries), -1))                  # (B, N, M, D / M)
        gathered = torch.einsum("bmn,bnmd->bmd", self.look(tokens), values)
        return gathered.flatten(1) @ self.weights + self.bias


class Attentive(NamedTuple):
    predictions: Tensor                                           # (Q,) int64, on the CPU
    learning_rate: float                                          # the one chosen
    probe: AttentiveProbe                                         # in eval mode


def attentive_probe(backbone: VisionTransformer, train, val, r: AttentiveRecipe = AttentiveRecipe(), depth: int | None = None,
                    seed: int = 0, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
                    keep: str | Path | None = None, progress: bool = False) -> Attentive:
    """Train an attentive probe on a source, and let it classify the images of another, which have no say in it.

    A probe for each learning rate is trained on nine tenths of the training images; the rate of the best on the last tenth
    trains the probe that is given back, on all of them. Without r.augment the backbone runs once and the tokens are held,
    images x N x D x 4 bytes; with it, it runs on new views in every epoch. A batch holds at most a tenth of the images.
    depth, mean and std as in `lib.evaluation.features.extract_depths`. keep: a folder for the state after each epoch; where it
    is there already, the same call goes on from it. Raises CourseError for fewer than 20 images, a network that is no ViT,
    tokens that would be too many to hold, or a state of another call.
    """
    if len(train) < 20 or not len(val) or list(train.classes) != list(val.classes):
        raise CourseError(f"an attentive probe needs 20 training images or more, one to classify, and the same classes in both;"
                          f" got {len(train)} and {len(val)} images of {len(train.classes)} and {len(val.classes)} classes")
    if not hasattr(getattr(backbone, "patch_embed", None), "grid_size") or not hasattr(backbone, "num_prefix_tokens"):
        raise CourseError(f"an attentive probe needs a ViT, with one grid of patches as tokens; got {type(backbone).__name__}")
    check_queries(r.queries, backbone.embed_dim)
    next(stream(backbone, Subset(val, 8), (depth,), "tokens", mean=mean, std=std))          # tells at once what does not fit
    device = next(backbone.parameters()).device
    size = len(train) * (math.prod(backbone.patch_embed.grid_size) + backbone.num_prefix_tokens) * backbone.embed_dim * 4
    if not r.augment and size > HELD:
        raise CourseError(f"the tokens of {len(train)} images take {size / 1e9:.0f} GB, more than {HELD / 1e9:.0f}; take fewer "
                          "images, or augment: then the network runs in every epoch, and nothing is held")
    about = {"recipe": asdict(r), "seed": seed, "depth": depth, "scale": [list(x or ()) for x in (mean, std)],
             "images": f"{len(train)} of {train.name}/{train.split}", "network": kept.fingerprint(backbone),
             "content": kept.fingerprint_of_images(train)} if keep else {}
    files = [Path(keep) / f"attentive-{part}.pt" if keep else None for part in ("choice", "final")]
    labels, dim = train.labels(torch.arange(len(train))).to(device), backbone.embed_dim
    tokens_of = (features_of_new_views(backbone, train, "tokens", depth, seed, mean=mean, std=std) if r.augment else
                 _tokens(backbone, train, depth, mean, std))
    held, others = hold_out(len(train), seed)
    with kept.alone(files[0]):
        probes = _train(tokens_of, labels, others, r, RATES, dim, seed, files[0], about, progress)
        rate = RATES[_best(probes, tokens_of, labels, held, r.epochs)]
        probe, = _train(tokens_of, labels, torch.arange(len(train)), r, (rate,), dim, seed, files[1],
                        about | {"learning rate": rate}, progress)
        found = [probe(tokens[depth]).argmax(1) for tokens in stream(backbone, val, (depth,), "tokens", mean=mean, std=std)]
    return Attentive(torch.cat(found).cpu(), rate, probe)


def _tokens(backbone: VisionTransformer, source, depth: int | None, mean: tuple[float, ...] | None,
            std: tuple[float, ...] | None) -> Callable[[int, Tensor], Tensor]:
    """A function of the epoch and of numbers of images, like `features_of_new_views`; its first call runs the backbone."""
    device = next(backbone.parameters()).device
    held = functools.cache(lambda: extract(backbone, source, "tokens", depth=depth, mean=mean, std=std)[0])
    return lambda epoch, images: held()[images].to(device)


@torch.no_grad()
def _best(probes: nn.ModuleList, tokens_of, labels: Tensor, images: Tensor, epoch: int) -> int:
    """The number of the probe that is right about most of the images with these numbers."""
    right = torch.zeros(len(probes))
    for some in images.split(256):
        tokens, truth = tokens_of(epoch, some), labels[some.to(labels.device)]
        right += torch.tensor([(probe(tokens).argmax(1) == truth).sum().item() for probe in probes])
    return int(right.argmax())


def _train(tokens_of, labels: Tensor, images: Tensor, r: AttentiveRecipe, rates: tuple[float, ...], dim: int, seed: int,
           keep: Path | None, about: dict, progress: bool) -> nn.ModuleList:
    """A probe for each learning rate, all on the same batches of the images with these numbers; in eval mode."""
    probes = nn.ModuleList(AttentiveProbe(dim, int(labels.max()) + 1, r.queries) for _ in rates).to(labels.device)
    groups = [{"params": [p for p in probe.parameters() if (p is probe.weights) == decayed], "peak": rate,
               "weight_decay": r.weight_decay * decayed} for probe, rate in zip(probes, rates) for decayed in (True, False)]
    optimizer = torch.optim.AdamW(groups, fused=True)
    batch = max(min(r.batch_size, len(images) // 10), 2)          # the mean of one image, standardised alone, is 0
    steps = len(images) // batch                                  # of an epoch; the rest waits for another

    def load(state: dict) -> int:
        probes.load_state_dict(state["probes"])
        load_optimizer(optimizer, state["optimizer"])
        return state["epoch"]

    begun = kept.go_on(keep, about, load, r.epochs) if keep else 0
    for epoch in tqdm(range(begun, r.epochs), desc="attentive probe", unit="epoch", leave=False, initial=begun, total=r.epochs,
                      disable=not progress or distributed.rank() > 0):
        order = images[random.permutation(random.combine("attentive order", seed, epoch), len(images))]
        for step, chosen in enumerate(order.split(batch)[:steps]):
            tokens, truth = tokens_of(epoch, chosen), labels[chosen.to(labels.device)]
            loss = torch.stack([F.cross_entropy(probe(tokens), truth) for probe in probes])
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * (1 + math.cos(math.pi * (epoch + step / steps) / r.epochs)) / 2
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
        if not loss.isfinite().all():
            raise CourseError(f"the loss of an attentive probe is not finite in epoch {epoch + 1}, with learning rates up to "
                              f"{max(rates)} and a weight decay of {r.weight_decay}; try a smaller decay, and make sure that "
                              "the network's weights are finite")
        if keep:
            kept.keep(keep, about, {"epoch": epoch + 1, "probes": probes.state_dict(), "optimizer": optimizer.state_dict()})
    return probes.eval().requires_grad_(False)
