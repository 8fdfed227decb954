"""Contrastive learning: MoCo v3 (Chen, Xie and He 2021, "An Empirical Study of Training Self-Supervised ViTs").

Two views of an image are made; a query from one view must find the key of the other among the keys of all images of the
batch. Keys come from a momentum encoder, a slow average of the online one, and carry no gradient.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lib import distributed, random
from lib.data.views import MOCO_V3, ViewRecipe, make_view
from lib.models.heads import mlp
from lib.models.vit import ViT
from lib.objectives import Objective
from lib.objectives.momentum import follow, momentum_at, slow_copy
from lib.precision import widen


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE times 2 temperature, and how often a query finds its key (MoCo v3, eq. 1 and Algorithm 1).

    queries (B, D) of this process, keys (B * processes, D) of all, both of any length and without gradient in the keys.
    The positive of query i is key i + rank * B; all other keys are negatives. The logits are float32 at least, whatever
    the network ran in, since a low temperature enlarges the errors of cosines. -> two scalars.
    """
    queries, keys = F.normalize(widen(queries), dim=1), F.normalize(widen(keys), dim=1)
    with torch.autocast(queries.device.type, enabled=False):
        logits = queries @ keys.T / temperature                                    # (B, B * processes)
    positives = torch.arange(len(queries), device=queries.device) + distributed.rank() * len(queries)
    loss = 2 * temperature * F.cross_entropy(logits, positives)
    return loss, (logits.argmax(1) == positives).float().mean()


class MoCoV3(Objective):
    """MoCo v3 on a ViT; what is kept is `backbone`, its CLS token is the representation.

    freeze_patches keeps the patch projection at its random start, which the paper found to stabilise training.
    `views` are the two augmentations, asymmetric in blur and solarisation.
    """

    def __init__(self, backbone: ViT, hidden: int = 4096, dim: int = 256, temperature: float = 0.2, momentum: float = 0.99,
                 freeze_patches: bool = True, views: tuple[ViewRecipe, ViewRecipe] = MOCO_V3):
        super().__init__()
        self.backbone = backbone
        self.projector = mlp([backbone.embed_dim, hidden, hidden, dim])
        self.predictor = mlp([dim, hidden, dim])
        backbone.patch_embed.requires_grad_(not freeze_patches)
        self.momentum_backbone, self.momentum_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.temperature, self.momentum, self.views = temperature, momentum, views

    def prepare(self, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W) and a random key each (B,) -> {"view1", "view2"}: (B, 3, S, S), normalised."""
        size = self.backbone.patch_embed.img_size[0]
        return {f"view{k}": make_view(images, view, size, random.combine(keys, k)) for k, view in enumerate(self.views, 1)}

    def begin_step(self, progress: float) -> None:
        """Move the momentum encoder towards the online one; progress runs from 0 to 1 over the training."""
        momentum = momentum_at(progress, self.momentum)
        follow(self.momentum_backbone, self.backbone, momentum)
        follow(self.momentum_projector, self.projector, momentum)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> the symmetric loss, a scalar, and logs: "accuracy" of finding the key, "spread" of the keys.

        The spread is the standard deviation of normalised keys over the batch times sqrt(dim): about 1 when they fill the
        sphere, 0 when all images have the same key.
        """
        views = torch.cat([batch["view1"], batch["view2"]])                        # (2 B, 3, S, S)
        tokens = self.backbone.forward_features(views)[:, 0]                       # (2 B, D), CLS
        query1, query2 = (self.predictor(self.projector(half)) for half in tokens.chunk(2))   # batch norm: a view at a time
        with torch.no_grad():
            tokens = self.momentum_backbone.forward_features(views)[:, 0]
            key1, key2 = (distributed.gather(self.momentum_projector(half)) for half in tokens.chunk(2))
        loss1, accuracy1 = info_nce(query1, key2, self.temperature)
        loss2, accuracy2 = info_nce(query2, key1, self.temperature)
        spread = F.normalize(widen(key1), dim=1).std(0).mean() * math.sqrt(key1.shape[1])
        return loss1 + loss2, {"accuracy": (accuracy1 + accuracy2) / 2, "spread": spread}
