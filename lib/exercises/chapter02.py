"""Checks of chapter 02, contrastive learning."""
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.data import Loaded, Shapes
from lib.errors import CourseError
from lib.evaluation.features import extract
from lib.evaluation.neighbors import knn_accuracy
from lib.exercises import check
from lib.training.build import build
from lib.training.recipes import recipe


def _numbers(got, expected: tuple[float, ...], mistakes: dict[str, tuple[float, ...]], given: str) -> None:
    """`compare` for plain numbers and tuples of them, to one part in 10⁴."""
    parts = got if isinstance(got, tuple | list) else [got]
    flat = [number for part in parts for number in (part.flatten().tolist() if isinstance(part, Tensor) else [part])]
    try:
        numbers = tuple(float(number) for number in flat)
        came = str(len(numbers))
    except (TypeError, ValueError):
        numbers, came = (), f"a {type(got).__name__}"
    if len(numbers) != len(expected):
        wanted = "one number was" if len(expected) == 1 else f"{len(expected)} numbers were"
        why = "Is the return missing?" if got is None else "Is a mean missing?" if len(numbers) > len(expected) else ""
        raise CourseError(f"{given}, {wanted} expected, and {came} came. {why}")
    if not _same(numbers, expected):
        hint = next((text for text, wrong in mistakes.items() if _same(numbers, wrong)), "")
        right, wrong = (" and ".join(f"{number:.4f}" for number in some) for some in (expected, numbers))
        raise CourseError(f"{given}, {right} was expected, and {wrong} came. {hint}")


def _same(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-4) or (math.isnan(x) and math.isnan(y)) for x, y in zip(a, b))


@check
def check_half_life(half_life) -> str:
    """half_life(momentum) -> steps."""
    for m in (0.9, 0.996):
        mistakes = {
            "1 / (1 - m) is when the old weight is worth 1/e, not 1/2.": (1 / (1 - m),),
            "A number of steps is positive: both logarithms are negative, divide one by the other.":
                (-math.log(0.5) / math.log(m),),
            "The new weight counts 1 - m; the old one counts m.": (math.log(0.5) / math.log(1 - m),),
            "The old weight does not lose the same amount at every step: after n steps it counts m to the power n.":
                (0.5 / (1 - m),),
            "log(2) / (1 - m) is near, if m is near 1; solve m to the power n = 1/2.": (math.log(2) / (1 - m),),
            "Divide the other way round: n = log(1/2) / log(m).": (math.log(m) / math.log(0.5),),
        }
        _numbers(half_life(m), (math.log(0.5) / math.log(m),), mistakes, f"For a momentum of {m}")
    return "At 0.99 the keys remember about 69 steps."


def _nt_xent(z1: Tensor, z2: Tensor, temperature: float, normalised: bool = True, diagonal: float | None = -torch.inf,
             partner: Tensor | None = None, both: bool = True) -> Tensor:
    """SimCLR's loss, right, or with one of the usual mistakes."""
    z = torch.cat([z1, z2])
    z = F.normalize(z, dim=1) if normalised else z
    logits = z @ z.T / temperature
    logits = logits if diagonal is None else logits.fill_diagonal_(diagonal)
    partner = torch.arange(len(z)).roll(len(z1)) if partner is None else partner
    losses = F.cross_entropy(logits, partner, reduction="none")
    return losses.mean() if both else losses[:len(z1)].mean()


@check
def check_nt_xent(nt_xent) -> str:
    """nt_xent(z1 (B, D), z2 (B, D), temperature) -> a scalar."""
    z1, z2 = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    right = _nt_xent(z1, z2, 0.2)
    logits = F.normalize(z1, dim=1) @ F.normalize(z2, dim=1).T / 0.2
    mistakes = {
        "The vectors need length 1 before they are compared.": _nt_xent(z1, z2, 0.2, normalised=False),
        "A vector may not choose itself: fill the diagonal of the logits with minus infinity.":
            _nt_xent(z1, z2, 0.2, diagonal=None),
        "You set the diagonal to 0, which is a logit like another: exp(0) is 1. It takes minus infinity.":
            _nt_xent(z1, z2, 0.2, diagonal=0),
        "The loss is infinite, as some vector is asked to choose itself: the partner of i is i + B, and of i + B it is i.":
            torch.tensor(torch.inf),
        "You take neighbours for partners; but the first views come first: the partner of i is i + B, and of i + B it is i.":
            _nt_xent(z1, z2, 0.2, partner=torch.arange(10) ^ 1),
        "You ask only the first views; the second views are queries too.": _nt_xent(z1, z2, 0.2, both=False),
        "These are B keys, as in MoCo; here each of 2B vectors chooses among the 2B - 1 others.":
            F.cross_entropy(logits, torch.arange(5)),
        "Divide the similarities by the temperature; you multiply.": _nt_xent(z1, z2, 1 / 0.2),
        "The temperature is missing.": _nt_xent(z1, z2, 1.0),
        "That is the sum over queries; take the mean.": 10 * right,
        "MoCo v3's factor 2 x temperature does not belong here.": 2 * 0.2 * right,
    }
    _numbers(nt_xent(z1.clone(), z2.clone(), 0.2), (right.item(),), {k: (v.item(),) for k, v in mistakes.items()},
             "For 5 images with a temperature of 0.2")
    return "Every view is asked, and none may choose itself."


@check
def check_alignment_uniformity(alignment_uniformity) -> str:
    """alignment_uniformity(a (B, D), b (B, D)) -> two numbers."""
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    one, two = F.normalize(a, dim=1), F.normalize(b, dim=1)
    aligned, distances = (one - two).square().sum(1).mean().item(), torch.pdist(one)
    uniform = distances.square().mul(-2).exp().mean().log().item()
    every = torch.cdist(one, one).square().mul(-2).exp()
    mistakes = {
        "The vectors need length 1 first.": ((a - b).square().sum(1).mean().item(),
                                             torch.pdist(a).square().mul(-2).exp().mean().log().item()),
        "The uniformity takes the squared distance.": (aligned, distances.mul(-2).exp().mean().log().item()),
        "The factor 2 in the exponent is missing.": (aligned, distances.square().neg().exp().mean().log().item()),
        "The logarithm is missing.": (aligned, distances.square().mul(-2).exp().mean().item()),
        "Take the logarithm of the mean, not the mean of the logarithms.": (aligned, -2 * distances.square().mean().item()),
        "You count each point's distance to itself; take the pairs i < j.": (aligned, every.mean().log().item()),
        "Alignment sums the squares over the dimensions before it takes the mean over images.":
            ((one - two).square().mean().item(), uniform),
        "Alignment takes the squared distance.": ((one - two).norm(dim=1).mean().item(), uniform),
        "Alignment comes first, uniformity second.": (uniform, aligned),
    }
    _numbers(alignment_uniformity(a.clone(), b.clone()), (aligned, uniform), mistakes, "For 6 random pairs")
    return "Random pairs are badly aligned and well spread."


@check
def check_effective_rank(effective_rank) -> str:
    """effective_rank(features (N, D)) -> a number from 1 to min(N, D)."""
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).double()
    features = features * torch.tensor([9, 4, 2, 1, 0.1]).double()

    def rank(values: Tensor) -> float:
        return torch.special.entr(values / values.sum()).sum().exp().item()

    values = torch.linalg.svdvals(features)
    shares = values / values.sum()
    mistakes = {
        "These are the squares of the singular values (the variances); take the singular values.": (rank(values**2),),
        "The features are not to be centred here.": (rank(torch.linalg.svdvals(features - features.mean(0))),),
        "That is the entropy; raise e to it.": (math.log(rank(values)),),
        "The entropy has a minus sign.": (1 / rank(values),),
        "The entropy in bits needs 2 to the power, not e.": (math.exp(math.log(rank(values)) / math.log(2)),),
        "Divide by the sum, not by the largest.": (torch.special.entr(values / values[0]).sum().exp().item(),),
        "That counts singular values above a threshold; the effective rank weighs them.": (float(len(shares)),),
    }
    _numbers(effective_rank(features.clone()), (rank(values),), mistakes, "For features of uneven dimensions")
    flat = torch.tensor([[2.0, 0.0, 0.0]]).double().repeat(4, 1)                   # whose other values are 0 to the last bit
    mistakes = {"0 log 0 is 0, and not nan: torch.special.entr knows that.": (math.nan,)}
    _numbers(effective_rank(flat), (1.0,), mistakes, "For features that are all the same")
    return "Collapsed features have rank 1, whatever their width."


@check
def check_train_simclr(train_simclr) -> str:
    """train_simclr(network, two_views, steps) -> the loss of each step; the network is trained in place.

    Nothing but what comes out is judged, so the loss, the optimiser and the order of lines are the learner's own.
    """
    network, source, steps, asked = _Projected(), _source("train"), 60, []

    def two_views(step: int) -> tuple[Tensor, Tensor]:
        asked.append(int(step))
        if not 0 <= asked[-1] < steps:
            raise CourseError(f"two_views was asked for step {asked[-1]}; steps are counted from 0 to {steps - 1}")
        numbers = torch.arange(128 * asked[-1], 128 * asked[-1] + 128)
        batch = network.objective.prepare(source.images(numbers % len(source)), numbers)
        return batch["view1"], batch["view2"]

    before = [p.detach().clone() for p in network.parameters()]
    with torch.enable_grad():
        losses = _losses(train_simclr(network, two_views, steps), steps)
    if set(asked) != set(range(steps)):
        raise CourseError(f"two_views was to be asked for each step, 0 to {steps - 1}; it was asked for {len(set(asked))} "
                          "different ones. Each step has its own batch, and both views come together")
    if not all(map(math.isfinite, losses)):
        raise CourseError(f"the loss was {next(x for x in losses if not math.isfinite(x))} in step "
                          f"{[math.isfinite(x) for x in losses].index(False)}. Is each vector's partner its *other* view, "
                          "and only its logit with itself minus infinity?")
    if all(torch.equal(p, old) for p, old in zip(network.parameters(), before)):
        raise CourseError("no weight of the network moved. Does each step call backward() and then the optimiser's step(), "
                          "and does the optimiser hold network.parameters()?")
    first, last = (sum(some) / 5 for some in (losses[:5], losses[-5:]))
    spread = _spread(network, source)
    if spread < 0.2:
        raise CourseError(f"all images get nearly the same vector: their spread is {spread:.2f}, where 1 fills the sphere. "
                          "That is collapse; what pushes different images apart in your loss?")
    if last >= first:
        raise CourseError(f"the loss does not fall: {first:.2f} in the first five steps, {last:.2f} in the last five. Are the "
                          "gradients of the step before set to zero, and is the learning rate 0.005?")
    now, then = _neighbours(network), _neighbours(_Projected())
    if now - then < 0.25:
        raise CourseError(f"the loss falls, from {first:.2f} to {last:.2f}, and k-NN finds {now:.0%} of the shapes where the "
                          f"untrained network finds {then:.0%}; 25 points more were expected. Are there two *different* views "
                          "in your loss, are all vectors scaled to length 1, is each one's partner its other view, and are the "
                          "temperature 0.2 and the learning rate 0.005?")
    return f"No label was used, and k-NN on your network finds {now:.0%} of the shapes; untrained it was {then:.0%}."


class _Projected(nn.Module):
    """The small network of the chapter, with random weights: images (B, 3, 32, 32) -> projections of CLS (B, D)."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            object.__setattr__(self, "objective", build(recipe("mocov3", "smoke", device="cpu")).train())
        self.backbone, self.projector = self.objective.backbone, self.objective.projector
        del self.projector[-1]                                         # a batch norm, which would hide a collapse

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(self.backbone.forward_features(images)[:, 0])


@functools.cache
def _source(split: str) -> Loaded:
    return Loaded(Shapes(split, 32, 4000 if split == "train" else 500, "easy"))


def _neighbours(network: _Projected) -> float:
    """Share of the shapes that k-NN on CLS finds."""
    bank = Loaded(_source("train"), limit=1000)
    return knn_accuracy(*extract(network.backbone, bank), *extract(network.backbone, _source("val")))


def _spread(network: _Projected, source: Loaded) -> float:
    """Deviation of unit projections of 128 images, times the root of their width: 1 fills the sphere, 0 is collapse."""
    numbers = torch.arange(128)
    z = F.normalize(network.train()(network.objective.prepare(source.images(numbers), numbers)["view1"]), dim=1)
    return z.std(0).mean().item() * z.shape[1] ** 0.5


def _losses(got, steps: int) -> list[float]:
    """What the answer gave, as numbers. Raises CourseError unless there is one for each step."""
    try:
        numbers = [float(x.detach() if isinstance(x, Tensor) else x) for x in got]
    except (TypeError, ValueError, RuntimeError):
        raise CourseError(f"{steps} losses were expected, a list of one number for each step, and a {type(got).__name__} came. "
                          "Is the return missing?") from None
    if len(numbers) != steps:
        raise CourseError(f"{steps} losses were expected, one for each step, and {len(numbers)} came.")
    return numbers
