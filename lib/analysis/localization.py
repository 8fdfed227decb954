"""Does a token still know where it is? CKA of a token with the pixels of each input patch (Raghu et al. 2021, Fig. 9, 10).

X (n, D) is one token of n images, Y_p (n, 3 h w) the pixels of patch p: the map of a token is CKA(X, Y_p) over all p, by the
unbiased estimator in minibatches. Where the map peaks at the token's own place, the token stands for that place.

Memory: the Gram matrices of a minibatch of n images and N places take 8 N n^2 bytes, for the patches, for each part, and four
times over while they are compared: .1 GB each for N = 196 and n = 256.
"""
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.analysis.attention import patch_distances
from lib.analysis.places import AtPlaces, image_patches
from lib.analysis.similarity import CKA, gram, minibatches
from lib.data.views import normalize
from lib.errors import CourseError


class Localization(NamedTuple):
    """`values[t, p]` is the CKA of token t with input patch p, `values[t].view(grid)` the map of token t.

    nan where a token, or the pixels of a patch, are the same in all images of a minibatch.
    """
    values: Tensor                    # (N, N) float64
    grid: tuple[int, int]             # rows and columns
    patch: tuple[float, float]        # height and width of a patch, in pixels

    def summary(self) -> dict[str, float]:
        """How well tokens are told by their places, mean over tokens; what chance gives is in brackets.

        "own": CKA with the own patch; "contrast": own less the mean of the others (0); "hits": share of tokens whose map peaks
        at their own place (1 / N); "rank": place of the own patch among all, 1 the best ((N + 1) / 2); "distance": pixels from
        the own patch to the peak. Places that are nan are left out. Raises CourseError if less than two remain.
        """
        kept = self.values.diagonal().isfinite()
        values, n = self.values[kept][:, kept], int(kept.sum())
        if n < 2:
            raise CourseError(f"images differ in {n} of {len(kept)} places; localization compares at least two")
        own, peak = values.diagonal(), values.argmax(1, keepdim=True)
        distances = patch_distances(self.grid, self.patch)[kept][:, kept].gather(1, peak)
        found = {"own": own, "contrast": own - (values.sum(1) - own) / (n - 1),
                 "hits": (peak[:, 0] == torch.arange(n)).double(), "rank": 1.0 + (values > own[:, None]).sum(1),
                 "distance": distances}
        return {name: x.mean().item() for name, x in found.items()}


class TokenGrams(AtPlaces):
    """{name: Gram matrices (n, n) of every unit} of each part, from one minibatch."""

    def __init__(self, network, images, parts, modules):
        super().__init__(network, images, parts, modules)
        self.found, self.grids = {}, {}

    def keep(self, name: str, tokens: Tensor, grid: tuple[int, int]) -> None:
        self.found[name], self.grids[name] = [gram(token) for token in tokens.unbind(1)], grid


@torch.no_grad()
def localization(network: nn.Module, source, parts: list[str] | None = None, modules: dict[str, nn.Module] | None = None,
                 images: int | None = None, batch_size: int = 256, seed: int = 0) -> dict[str, Localization]:
    """Maps of all tokens: {name: Localization}.

    parts or modules: see `AtPlaces`; ["block12"] of a ViT, {"stage4": resnet.layer4} of a ResNet. images, batch_size and seed
    as in `lib.analysis.similarity.similarity`: the same draw and the same minibatches. Patches are compared as the network gets
    them, after normalisation. Raises CourseError for too few images, for parts that are not there, and where network and source
    do not fit.
    """
    sums = {}
    for batch in minibatches(len(source), images, batch_size, seed):
        x = source.images(batch)
        x = normalize(x) if x.dtype == torch.uint8 else x
        units = TokenGrams(network, x, parts, modules)
        units.read(x, f"a minibatch of {getattr(source, 'name', 'the source')}")
        pixels = {grid: [gram(patch) for patch in image_patches(x, grid).unbind(1)] for grid in set(units.grids.values())}
        for name in units.names:
            sums.setdefault(name, CKA()).update(units.found.pop(name), pixels[units.grids[name]])
    found = {}
    for name, cka in sums.items():
        grid = units.grids[name]
        found[name] = Localization(cka.compute(), grid, tuple(size / n for size, n in zip(x.shape[2:], grid, strict=True)))
    return found
