"""Supervised classification, the control: the labels that the other objectives do without (DeiT, Touvron et al. 2021)."""
import torch.nn.functional as F
from torch import Tensor, nn

from lib import random
from lib.data.mixing import erase, mix
from lib.data.views import SUPERVISED, ViewRecipe, make_view
from lib.models.vit import ViT
from lib.objectives import Objective
from lib.precision import widen


class Supervised(Objective):
    """Cross-entropy of one linear layer on the CLS token, with mixup, cutmix and label smoothing.

    pooling "mean" reads the mean of the patch tokens instead: what Raghu et al. 2021 call GAP. erase: probability that a box of
    noise covers a part of a view.
    """
    needs_labels = True
    ships = ("head",)

    def __init__(self, backbone: ViT, classes: int, mixup: float = 0.8, cutmix: float = 1.0, smoothing: float = 0.1,
                 view: ViewRecipe = SUPERVISED, pooling: str = "cls", erase: float = 0.0):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.embed_dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        self.classes, self.mixup, self.cutmix, self.smoothing, self.view = classes, mixup, cutmix, smoothing, view
        self.pooling, self.erase = pooling, erase

    def prepare(self, images: Tensor, keys: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """uint8 images (B, 3, H, W), keys (B,), labels (B,) -> {"view": (B, 3, S, S), "targets": (B, classes)}."""
        view = make_view(images, self.view, self.backbone.patch_embed.img_size[0], random.combine(keys, 1))
        view = erase(view, random.combine(keys, 1), self.erase)
        view, targets = mix(view, labels, random.combine(keys, "mix"), self.classes, self.mixup, self.cutmix, self.smoothing)
        return {"view": view, "targets": targets}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """-> cross-entropy with soft targets, a scalar, and logs: "accuracy" on the class with the largest target."""
        tokens = self.backbone.forward_features(batch["view"])                     # (B, 1 + N, D)
        logits = widen(self.head(tokens[:, 0] if self.pooling == "cls" else tokens[:, 1:].mean(1)))   # (B, classes)
        right = logits.argmax(1) == batch["targets"].argmax(1)
        return F.cross_entropy(logits, batch["targets"].to(logits.dtype)), {"accuracy": right.float().mean()}
