"""How many directions do tokens use? Log singular values of the covariance of patch tokens (Park et al. 2023, Fig. 7).

*Token level*: how the patches of one image differ, a spectrum for each image. *Image level*: how the mean patch tokens of
images differ, one spectrum for all. A covariance is symmetric and not negative, so its singular values are its eigenvalues:
the variances along its principal directions, largest first.

Variance that the rounding of the tokens alone could make has no logarithm worth a look: from there on a spectrum is nan. So is
the mean over images where it is for one of them.
"""
from collections import defaultdict

import torch
from torch import Tensor

from lib import distributed
from lib.analysis.recording import Layout, PerImage
from lib.errors import CourseError


def log_eigenvalues(covariance: Tensor, power: Tensor, eps: float, most: int) -> Tensor:
    """ln of the `most` largest eigenvalues, nan for those that are rounding noise: (..., n, n) float64 -> (..., most).

    power (...): the trace that the covariance would have if no mean were taken off. Rounding of the vectors, with a relative
    error of up to eps, makes a variance of up to eps^2 power; the covariance and its eigenvalues are rounded in float64.
    """
    values = torch.linalg.eigvalsh(covariance).flip(-1)[..., :most]
    noise = (eps**2 + covariance.shape[-1] * torch.finfo(torch.float64).eps) * power
    return values.where(values > noise[..., None], torch.nan).log()


def token_spectrum(tokens: Tensor) -> Tensor:
    """ln of the variances along the principal directions of each image's tokens: (B, P, D) -> (B, min(P - 1, D)) float64.

    From products of tokens: X X' / (P - 1), P x P, has the eigenvalues other than 0 of the covariance X' X / (P - 1), D x D,
    X being the tokens less their mean. Raises CourseError for less than two tokens.
    """
    n, d = tokens.shape[1:]
    if n < 2:
        raise CourseError(f"{n} patch token(s) in an image, which do not vary; a spectrum of tokens needs at least 2")
    x = tokens.double()
    power = x.square().sum((1, 2)) / (n - 1)                                     # (B,)
    x = x - x.mean(1, keepdim=True)
    return log_eigenvalues(x @ x.mT / (n - 1), power, torch.finfo(tokens.dtype).eps, min(n - 1, d))


class TokenSpectrum(PerImage):
    """"token_spectrum" (images, 1 + 2 blocks, min(P - 1, D)): `token_spectrum` at depths 0, 0.5, 1, 1.5, ..."""
    reads = "halves"

    def measure(self, depth: float, tokens: Tensor) -> dict[str, Tensor]:
        return {"token_spectrum": token_spectrum(tokens[:, self.layout.prefix:])}


class ImageSpectrum:
    """"image_spectrum" (1 + 2 blocks, min(D, images - 1)): that of the images' mean patch tokens, at depths 0, 0.5, 1, 1.5, ...

    Of the images only sums are kept. `compute` raises CourseError for less than two images.
    """
    reads = "halves"

    def start(self, layout: Layout) -> None:
        self.layout, self.images = layout, defaultdict(float)
        self.powers, self.sums, self.products = defaultdict(float), defaultdict(float), defaultdict(float)

    def update(self, depth: float, tokens: Tensor) -> None:
        self.eps = torch.finfo(tokens.dtype).eps
        patches = tokens[:, self.layout.prefix:].double()                        # (B, P, D)
        means = patches.mean(1)                                                  # (B, D)
        self.images[depth] += means.new_tensor(len(means))
        self.powers[depth] += patches.square().sum(-1).mean(1).sum()             # of tokens: a mean is as rounded as they are
        self.sums[depth] += means.sum(0)                                         # (D,)
        self.products[depth] += means.mT @ means                                 # (D, D)

    def compute(self) -> dict[str, Tensor]:
        n, powers, sums, products = (distributed.mean(torch.stack(list(parts.values()))) * distributed.world_size()
                                     for parts in (self.images, self.powers, self.sums, self.products))
        images = round(n[0].item())
        if images < 2:
            raise CourseError(f"{images} image(s), which do not vary; a spectrum of images needs at least 2, and more than the "
                              "width of the backbone to see all of it")
        covariance = (products - sums[:, :, None] * sums[:, None] / images) / (images - 1)
        most = min(images - 1, sums.shape[1])
        return {"image_spectrum": log_eigenvalues(covariance, powers / (images - 1), self.eps, most).cpu()}
