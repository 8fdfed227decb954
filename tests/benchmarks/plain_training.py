"""The plain way to train, written for comparison: each objective as its paper's pseudocode reads, with nothing saved.

Views are made one image at a time by torchvision; every view passes through the network alone; SimMIM and MAE say all patches
and then weigh them with the mask; a momentum encoder moves a parameter at a time; AdamW goes through its parameters in a loop.
The modules are those of the objective that is compared, so both begin with the same weights and must find the same loss.
"""
import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from lib.data.views import MEAN, STD, ViewRecipe
from lib.objectives.contrastive import MoCoV3
from lib.objectives.distillation import DINO
from lib.objectives.hybrid import Hybrid
from lib.objectives.masked import MAE, SimMIM


def transform(recipe: ViewRecipe, size: int) -> v2.Compose:
    """A view's recipe in the words of torchvision: uint8 (3, H, W) -> normalised (3, size, size)."""
    steps: list[nn.Module] = [v2.RandomResizedCrop(size, recipe.scale, recipe.ratio, antialias=True)]
    if recipe.jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(*recipe.strengths)], recipe.jitter))
    if recipe.grayscale:
        steps.append(v2.RandomGrayscale(recipe.grayscale))
    if recipe.blur:
        low, high = (sigma * size / 224 for sigma in recipe.sigma)
        steps.append(v2.RandomApply([v2.GaussianBlur(2 * min(math.ceil(3 * high), size - 1) + 1, (low, high))], recipe.blur))
    if recipe.solarize:
        steps.append(v2.RandomSolarize(128, recipe.solarize))
    if recipe.flip:
        steps.append(v2.RandomHorizontalFlip(recipe.flip))
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN.flatten().tolist(), STD.flatten().tolist())]
    return v2.Compose(steps)


def views(objective: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The views of a batch, image by image, named as the objective names them. Masks come from elsewhere."""
    if isinstance(objective, Hybrid):
        return {name: x for half in (objective.contrastive, objective.masked) for name, x in views(half, images).items()}
    size = next(m for m in objective.modules() if hasattr(m, "patch_embed")).patch_embed.img_size[0]
    if isinstance(objective, MoCoV3):
        recipes = dict(zip(("view1", "view2"), objective.views, strict=True))
    elif isinstance(objective, DINO):
        recipes = dict(zip(("global1", "global2"), objective.global_views, strict=True))
    else:
        recipes = {"view": objective.view}
    made = {name: _each(transform(recipe, size), images) for name, recipe in recipes.items()}
    if isinstance(objective, DINO) and objective.local_crops:
        crop = transform(objective.local_view, objective.local_size)
        made["local"] = torch.cat([_each(crop, images) for _ in range(objective.local_crops)])
    return made


def _each(transform: v2.Compose, images: Tensor) -> Tensor:
    return torch.stack([transform(image) for image in images])


# -------------------------------------------------------------------------------------------------------------- losses

def contrast(query: Tensor, keys: Tensor, temperature: float) -> Tensor:
    query, keys = query / query.norm(dim=1, keepdim=True), keys / keys.norm(dim=1, keepdim=True)
    logits = torch.matmul(query, keys.T) / temperature
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device)) * 2 * temperature


def mocov3(o: MoCoV3, batch: dict[str, Tensor]) -> Tensor:
    q1, q2 = (o.predictor(o.projector(o.backbone.forward_features(batch[v])[:, 0])) for v in ("view1", "view2"))
    with torch.no_grad():
        k1, k2 = (o.momentum_projector(o.momentum_backbone.forward_features(batch[v])[:, 0]) for v in ("view1", "view2"))
    return contrast(q1, k2, o.temperature) + contrast(q2, k1, o.temperature)


def dino(o: DINO, batch: dict[str, Tensor]) -> Tensor:
    crops = [batch["global1"], batch["global2"], *(batch["local"].chunk(o.local_crops) if o.local_crops else ())]
    with torch.no_grad():
        teacher = [F.softmax((o.teacher_head(o.backbone(crop)) - o.center) / o.temperature, dim=1) for crop in crops[:2]]
    student = [F.log_softmax(o.student_head(o.student_backbone(crop)) / o.student_temperature, dim=1) for crop in crops]
    total, pairs = 0, 0
    for i, t in enumerate(teacher):
        for j, s in enumerate(student):
            if i != j:
                total, pairs = total - (t * s).sum(dim=1).mean(), pairs + 1
    return total / pairs


def pixels(images: Tensor, p: int) -> Tensor:
    """(B, 3, H, W) -> (B, N, 3 p^2), by unfolding."""
    n = F.unfold(images, p, stride=p)                                              # (B, 3 p^2, N), channel first
    b, length, count = n.shape
    return n.reshape(b, 3, p * p, count).permute(0, 3, 2, 1).reshape(b, count, length)


def simmim(o: SimMIM, batch: dict[str, Tensor]) -> Tensor:
    said = o.decoder(o.backbone.forward_features(batch["view"], batch["mask"])[:, 1:])
    error, mask = (said - pixels(batch["view"], o.patch_size)).abs(), batch["mask"][:, :, None].float()
    return (error * mask).sum() / mask.sum() / error.shape[2]


def mae(o: MAE, batch: dict[str, Tensor]) -> Tensor:
    target = pixels(batch["view"], o.patch_size)
    if o.normalize_target:
        target = (target - target.mean(dim=2, keepdim=True)) / (target.var(dim=2, keepdim=True) + 1e-6) ** 0.5
    error, mask = (o.predict(batch["view"], batch["mask"]) - target) ** 2, batch["mask"].float()
    return (error.mean(dim=2) * mask).sum() / mask.sum()


def hybrid(o: Hybrid, batch: dict[str, Tensor]) -> Tensor:
    return (1 - o.cl_weight) * simmim(o.masked, batch) + o.cl_weight * mocov3(o.contrastive, batch)


LOSSES = {MoCoV3: mocov3, DINO: dino, SimMIM: simmim, MAE: mae, Hybrid: hybrid}


class Plain:
    """A plain copy of an objective, to be trained beside it: `Plain(objective).step(batch)` -> the loss."""

    def __init__(self, objective: nn.Module, learning_rate: float = 1e-4, bf16: bool = False):
        self.objective = copy.deepcopy(objective).train()
        learned = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learned, lr=learning_rate, foreach=False)
        self.bf16, self.loss = bf16, LOSSES[type(objective)]

    @torch.no_grad()
    def follow(self, momentum: float = 0.99) -> None:
        o = getattr(self.objective, "contrastive", self.objective)
        pairs = {MoCoV3: (("momentum_backbone", "backbone"), ("momentum_projector", "projector")),
                 DINO: (("backbone", "student_backbone"), ("teacher_head", "student_head"))}.get(type(o), ())
        for slow, fast in pairs:
            for a, b in zip(getattr(o, slow).parameters(), getattr(o, fast).parameters(), strict=True):
                a.data = a.data * momentum + b.data * (1 - momentum)

    def step(self, batch: dict[str, Tensor]) -> float:
        """One step on views (and masks) that were made before."""
        self.follow()
        with torch.autocast(batch[min(batch)].device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.objective, batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()
