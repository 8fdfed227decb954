"""What does a representation not care about? Alike before and after a transform, against how alike other images are.

Shekhar et al. 2023 ask which invariances joint-embedding and reconstructive objectives bring about; of their text the abstract
alone was at hand, so what is measured here is the course's own. Of image x and its transformed T x, at each depth:

    paired      cos(f(x_i), f(T x_i))
    unpaired    mean over j other than i of cos(f(x_i), f(T x_j)): all images may be alike, whatever is done to them
    invariance  (paired - unpaired) / (1 - unpaired), 1 where T changes nothing, 0 where T x is as strange as any other image

with `unpaired` averaged over images in the last line. A cosine hangs on a few large channels and on the mean; the unbiased CKA
between f(x) and f(T x) does without the mean, and asks whether images keep their arrangement rather than their place.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.analysis.recording import Layout, PerImage, record
from lib.analysis.similarity import CKA, check_images, gram
from lib.data.views import ViewRecipe, make_view, normalize
from lib.errors import CourseError
from lib.random import combine, permutation, uniform

WHOLE = dict(ratio=(1.0, 1.0))                                                   # no crop
# What is done to an image, by `lib.data.views`; "quarter turn" is by 90, 180 or 270 degrees. The blur is 1/28 of the side, 8
# pixels of 224: less would hardly change a small image.
TRANSFORMS: dict[str, ViewRecipe | str] = {
    "flip": ViewRecipe(**WHOLE, flip=1.0),
    "crop": ViewRecipe(scale=(0.25, 0.5)),
    "quarter turn": "quarter turn",
    "colour": ViewRecipe(**WHOLE, jitter=1.0, strengths=(0.4, 0.4, 0.4, 0.2)),
    "grey": ViewRecipe(**WHOLE, grayscale=1.0),
    "blur": ViewRecipe(**WHOLE, blur=1.0, sigma=(8.0, 8.0)),
    "solarize": ViewRecipe(**WHOLE, solarize=1.0),
}
POOLINGS = ("cls", "mean")


class Transformed:
    """A source whose images are transformed, and normalised: float32. Image i is always transformed alike.

    transform: a name in TRANSFORMS or a `ViewRecipe`. Any metric of the course can be recorded on it. Raises CourseError for
    another name, and where images are not square uint8.
    """

    def __init__(self, source, transform: str | ViewRecipe, seed: int = 0):
        if not isinstance(transform, ViewRecipe) and transform not in TRANSFORMS:
            raise CourseError(f"there is no transform {transform!r}; choose one of {', '.join(TRANSFORMS)}, or a ViewRecipe")
        self.source, self.seed = source, seed
        self.transform = transform if isinstance(transform, ViewRecipe) else TRANSFORMS[transform]
        self.name = f"{getattr(source, 'name', 'the source')}, {transform}"

    def __len__(self) -> int:
        return len(self.source)

    def labels(self, indices: Tensor) -> Tensor:
        return self.source.labels(indices)

    def images(self, indices: Tensor) -> Tensor:
        images, keys = self.source.images(indices), combine("invariance", self.seed, indices.cpu())
        if images.dtype != torch.uint8 or images.shape[-1] != images.shape[-2]:
            raise CourseError(f"square uint8 images are transformed, got {images.dtype} {tuple(images.shape)}")
        if isinstance(self.transform, ViewRecipe):
            return make_view(images, self.transform, images.shape[-1], keys)
        turns = 1 + (3 * uniform(keys, 1)[:, 0]).long()                          # (B,) of 1, 2, 3
        return normalize(torch.stack([image.rot90(k, (1, 2)) for image, k in zip(images, turns.tolist(), strict=True)]))


class Pooled(PerImage):
    """"pooled" (images, 1 + blocks, D): the CLS token, or the mean of the patch tokens, at depths 0, 1, ..."""

    def __init__(self, pooling: str = "cls"):
        if pooling not in POOLINGS:
            raise CourseError(f"there is no pooling {pooling!r}; choose one of {', '.join(POOLINGS)}")
        self.pooling = pooling

    def start(self, layout: Layout) -> None:
        super().start(layout)
        if self.pooling == "cls" and not layout.prefix:
            raise CourseError("this backbone has no CLS token; choose the pooling mean")

    def measure(self, depth: int, tokens: Tensor) -> dict[str, Tensor]:
        return {"pooled": tokens[:, 0].float() if self.pooling == "cls" else tokens[:, self.layout.prefix:].float().mean(1)}


class Invariance(NamedTuple):
    """Of one transform, at L depths. `recording.mean_and_error` gives mean and standard error over images."""
    paired: Tensor                    # (images, L) float64
    unpaired: Tensor                  # (images, L) float64
    cka: Tensor                       # (L,) float64, unbiased; nan for less than 4 images

    @property
    def difference(self) -> Tensor:
        """paired - unpaired: (images, L)."""
        return self.paired - self.unpaired

    @property
    def invariance(self) -> Tensor:
        """(paired - unpaired) / (1 - unpaired), the mean of `unpaired` over images: (images, L).

        1 at best, 0 by chance, and no lower limit. nan at a depth where all images are the same, as CLS is in the embedding.
        """
        chance = self.unpaired.mean(0)
        return ((self.paired - chance) / (1 - chance)).where(chance < 1 - 1e-6, torch.nan)


def compare(features: Tensor, transformed: Tensor, batch_size: int = 256, seed: int = 0) -> Invariance:
    """Features of images and of the same images transformed, (images, L, D) each, in the same order.

    batch_size: of CKA, whose minibatches are drawn by the seed. Raises CourseError if shapes differ or there are less than 2
    images.
    """
    if features.shape != transformed.shape or features.ndim != 3 or len(features) < 2:
        raise CourseError(f"features {tuple(features.shape)} and {tuple(transformed.shape)}; expected both (images, L, D), at "
                          "least 2 images")
    x, y = (F.normalize(z.double(), dim=-1) for z in (features, transformed))
    paired = (x * y).sum(-1)                                                     # (images, L)
    unpaired = ((x * y.sum(0)).sum(-1) - paired) / (len(x) - 1)
    return Invariance(paired, unpaired, paired_cka(features, transformed, batch_size, seed))


def paired_cka(features: Tensor, transformed: Tensor, batch_size: int = 256, seed: int = 0) -> Tensor:
    """Unbiased CKA of each depth with itself after the transform: (images, L, D), (images, L, D) -> (L,) float64."""
    check_images(batch_size, biased=False)
    order, layers = permutation(combine("invariance", seed), len(features)), [CKA() for _ in range(features.shape[1])]
    if len(order) < 4:
        return torch.full((len(layers),), torch.nan, dtype=torch.float64)
    for batch in order.tensor_split(-(-len(order) // batch_size)):
        for depth, cka in enumerate(layers):
            cka.update([gram(features[batch, depth])], [gram(transformed[batch, depth])])
    return torch.stack([cka.compute()[0, 0] for cka in layers])


def invariances(backbone: nn.Module, source, transforms=tuple(TRANSFORMS), pooling: str = "cls", batch_size: int = 64,
                seed: int = 0) -> dict[str | ViewRecipe, Invariance]:
    """{transform: Invariance at depths 0, 1, ... of a timm-style ViT}, in the residual stream before the final norm.

    source: square uint8 images. transforms: names in TRANSFORMS, or ViewRecipes. pooling: "cls" or "mean". Raises CourseError
    as `record` does, and for unknown transforms and poolings.
    """
    sources = {transform: Transformed(source, transform, seed) for transform in transforms}       # before any work
    if not sources:
        raise CourseError(f"no transform was asked for; choose some of {', '.join(TRANSFORMS)}")
    plain = record(backbone, source, [Pooled(pooling)], batch_size)["pooled"]
    return {transform: compare(plain, record(backbone, changed, [Pooled(pooling)], batch_size)["pooled"], seed=seed)
            for transform, changed in sources.items()}
