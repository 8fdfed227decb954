"""A frozen backbone and a linear probe as one network, to be tested on other images than those of its training set."""
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from lib.evaluation.features import extract, frozen, pooled
from lib.evaluation.linear import fit, linear_probe


class LinearClassifier:
    """Normalised images (B, 3, S, S) -> probabilities or classes, on the device of the backbone.

    The probe is that of `lib.evaluation.linear.linear_probe`, trained on a source: features standardised, the weight decay
    chosen on training images held out. pooling, depth, mean and std as in `lib.evaluation.features.extract_depths`; images
    must come normalised by the same mean and std. Raises CourseError for fewer than 20 images, and for damaged weights.
    """

    def __init__(self, backbone: VisionTransformer, train, pooling: str = "cls", depth: int | None = None,
                 mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None):
        features, labels = extract(backbone, train, pooling, depth=depth, mean=mean, std=std)
        _, self.weight_decay = linear_probe(features, labels, features[:1])
        self.backbone, self.pooling, self.depth = backbone, pooling, depth
        device, centre, spread = next(backbone.parameters()).device, features.mean(0), features.std(0) + 1e-6
        weights = fit((features - centre) / spread, labels, int(labels.max()) + 1, self.weight_decay)
        self.centre, self.spread, self.weights = centre.to(device), spread.to(device), weights.to(device)

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """-> (B, classes); rows sum to 1."""
        with frozen(self.backbone):
            images = images.to(next(self.backbone.parameters()))
            features = pooled(self.backbone, images, (self.depth,), self.pooling)[self.depth].float()
        return ((features - self.centre) / self.spread @ self.weights[:-1] + self.weights[-1]).softmax(1)

    def predict(self, images: Tensor) -> Tensor:
        """-> classes (B,)."""
        return self.probabilities(images).argmax(1)
