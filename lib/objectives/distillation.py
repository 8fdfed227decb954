"""Self-distillation: DINO (Caron et al. 2021, "Emerging Properties in Self-Supervised Vision Transformers").

A student says of every crop of an image which of K prototypes it shows. It learns to agree with a teacher, a slow average of
itself, which sees two large crops only; so from a small part of an image the student must tell the whole. No images are
pushed apart. What keeps the two from agreeing on one answer for everything is done to the teacher alone: centring takes out
what all images have in common, so that no prototype wins always, and sharpening, a temperature below the student's, keeps
it from naming all prototypes alike.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib import distributed, random
from lib.data.views import DINO_GLOBAL, DINO_LOCAL, ViewRecipe, make_view, repeat
from lib.errors import CourseError
from lib.models.heads import PrototypeHead
from lib.models.vit import ViT
from lib.objectives import Objective
from lib.objectives.momentum import follow, momentum_at, slow_copy


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of student and teacher, averaged over images and over pairs of different crops -> a scalar.

    student (V, B, K) log-probabilities, teacher (2, B, K) probabilities. The first two crops of the student are the
    teacher's own; a crop is not compared with itself, which leaves 2 V - 2 pairs.
    """
    pairs = [(t, s) for t in range(len(teacher)) for s in range(len(student)) if t != s]
    return sum(-(teacher[t] * student[s]).sum(-1).mean() for t, s in pairs) / len(pairs)


class DINO(Objective):
    """DINO on a ViT. What is kept is `backbone`, the teacher; its CLS token is the representation.

    The paper evaluates the teacher too. The ViT that comes in becomes `student_backbone`, the one with gradients; stochastic
    depth, if it has any, is the student's alone. local_crops may be 0, else they are squares of local_size pixels.
    Shares of the training, from 0 to 1: over teacher_warmup the teacher's temperature goes from teacher_temperature_start to
    teacher_temperature along a line, during freeze_last the prototypes stand still.
    Raises CourseError if the backbone cannot take local crops, or there are too few prototypes to choose from.
    """

    def __init__(self, backbone: ViT, hidden: int = 2048, bottleneck: int = 256, prototypes: int = 65536,
                 student_temperature: float = 0.1, teacher_temperature: float = 0.04, teacher_temperature_start: float = 0.04,
                 teacher_warmup: float = 0.0, momentum: float = 0.996, center_momentum: float = 0.9, freeze_last: float = 0.0,
                 local_crops: int = 8, local_size: int = 96, global_views: tuple[ViewRecipe, ViewRecipe] = DINO_GLOBAL,
                 local_view: ViewRecipe = DINO_LOCAL):
        super().__init__()
        if local_crops and (backbone.positions == "relative" or local_size % backbone.patch_embed.patch_size[0]):
            raise CourseError("local crops need a backbone with positions 'sincos' or 'learned', and patches that divide them; "
                              f"got {backbone.positions!r}, {backbone.patch_embed.patch_size[0]}, crops of {local_size} pixels")
        if prototypes < 2:
            raise CourseError(f"DINO chooses among prototypes, so there must be at least 2, got {prototypes}")
        self.student_backbone = backbone
        self.student_head = PrototypeHead(backbone.embed_dim, hidden, bottleneck, prototypes)
        self.backbone, self.teacher_head = slow_copy(backbone), slow_copy(self.student_head)
        self.student_backbone.any_size = local_crops > 0
        self.register_buffer("center", torch.zeros(prototypes))
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature
        self.teacher_temperature_start, self.teacher_warmup = teacher_temperature_start, teacher_warmup
        self.momentum, self.center_momentum, self.freeze_last = momentum, center_momentum, freeze_last
        self.local_crops, self.local_size = local_crops, local_size
        self.global_views, self.local_view = global_views, local_view
        self.begin_step(0.0)

    def prepare(self, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W) and a random key each (B,) -> views, normalised.

        "global1" and "global2" (B, 3, S, S), "local" (local_crops * B, 3, s, s): the first crop of all images, then the
        second of all, and so on; missing where there are no local crops.
        """
        size = self.student_backbone.patch_embed.img_size[0]
        views = {f"global{k}": make_view(images, view, size, random.combine(keys, k))
                 for k, view in enumerate(self.global_views, 1)}
        if self.local_crops:
            keys = random.combine(keys, "local", torch.arange(self.local_crops)[:, None]).flatten()     # (local_crops B,)
            views["local"] = make_view(repeat(images, self.local_crops), self.local_view, self.local_size, keys)
        return views

    def begin_step(self, progress: float) -> None:
        """Move the teacher towards the student and set what depends on time; progress runs from 0 to 1 over the training."""
        follow(self.backbone, self.student_backbone, momentum_at(progress, self.momentum))
        follow(self.teacher_head, self.student_head, momentum_at(progress, self.momentum))
        self.temperature = self.temperature_at(progress)
        self.student_head.frozen = progress < self.freeze_last

    def resting(self) -> tuple[nn.Parameter, ...]:
        """Moments fed with zeros would make the first steps of the prototypes, once they are free, several times too long."""
        return (self.student_head.prototypes.weight,) if self.student_head.frozen else ()

    def temperature_at(self, progress: float) -> float:
        """The teacher's temperature: a line, then constant."""
        if progress >= self.teacher_warmup:
            return self.teacher_temperature
        rise = self.teacher_temperature - self.teacher_temperature_start
        return self.teacher_temperature_start + rise * progress / self.teacher_warmup

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the loss, a scalar, and logs, both from 0 to 1, in units of log K, over the teacher's answers (targets):

        "entropy" of the answer to an image, averaged: 1 means collapse to the uniform answer.
        "spread", the entropy of the average answer to all images: 0 means collapse to one prototype.
        What is between them tells images apart: the two are equal in either collapse.
        """
        views = torch.cat([batch["global1"], batch["global2"]])                    # (2 B, 3, S, S)
        tokens = self.student_backbone(views)                                      # (2 B, D), CLS
        if "local" in batch:
            tokens = torch.cat([tokens, self.student_backbone(batch["local"])])    # (V B, D), V crops of each image
        answers = F.log_softmax(self.student_head(tokens) / self.student_temperature, dim=1)        # (V B, K)
        with torch.no_grad():
            scores = self.teacher_head(self.backbone(views))                       # (2 B, K)
            targets = F.softmax((scores - self.center) / self.temperature, dim=1)
        n, k = len(batch["global1"]), targets.shape[1]
        loss = distillation_loss(answers.view(-1, n, k), targets.view(2, n, k))
        if self.training:
            self.center.lerp_(distributed.mean(scores.mean(0)), 1 - self.center_momentum)
        entropy = torch.special.entr(targets).sum(1).mean() / math.log(k)
        spread = torch.special.entr(distributed.mean(targets.mean(0))).sum() / math.log(k)
        return loss, {"entropy": entropy, "spread": spread}
