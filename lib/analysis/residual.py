"""What skip connections carry, and a network that lacks one (Raghu et al. 2021, section 5 and appendix E).

A half of a block makes z + f(z) out of a token z: f is attention or MLP, with the norm before it and any LayerScale behind it.
The norm ratio |z| / |f(z)| says which of the two the sum is made of: far above 1 the token passes as it is.
"""
import copy

import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from lib.analysis.recording import PerImage, observe_modules
from lib.errors import CourseError
from lib.precision import widen

HALVES = {"attention": ("attention",), "mlp": ("mlp",), "both": ("attention", "mlp")}


class EachHalf(PerImage):
    """A metric of what goes into each half of a block and what comes out: `compare(z, sum)`, (B, N, D) each -> (B, N).

    Results are (images, blocks, N), tokens as in the network, prefix first; `apart` takes CLS and patches apart.
    """
    reads = "halves"
    result = ""

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        raise NotImplementedError

    def measure(self, depth: float, tokens: Tensor) -> dict[str, Tensor]:
        found = {}
        if depth > 0:
            found[f"{'attention' if depth % 1 else 'mlp'}_{self.result}"] = self.compare(widen(self.before), widen(tokens))
        self.before = tokens if depth < self.layout.depth else None              # nothing is kept at the end
        return found


class NormRatios(EachHalf):
    """"attention_norm_ratio" and "mlp_norm_ratio" (images, blocks, N): |z| / |f(z)| of each token (Raghu et al. 2021, Fig. 7).

    f(z) is what the half added, sum less z, and rounded as that: it loses as many digits as the ratio has. inf where it is 0.
    A half that lacks its skip connection has no such ratio; what is found there means nothing.
    """
    result = "norm_ratio"

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        return before.norm(dim=-1) / (after - before).norm(dim=-1)


class SkipCosines(EachHalf):
    """"attention_skip_cosine", "mlp_skip_cosine" (images, blocks, N): cosine of z and z + f(z) (Raghu et al. 2021, Fig. E.2).

    The title and the caption of that figure name different pairs; this is the one that its text speaks of.
    """
    result = "skip_cosine"

    def compare(self, before: Tensor, after: Tensor) -> Tensor:
        return F.cosine_similarity(before, after, dim=-1)


def apart(values: Tensor, prefix: int) -> tuple[Tensor, Tensor]:
    """Numbers for each token (..., N) -> those of CLS (...) and the mean of those of the patches (...).

    Of ratios a mean is one of ratios, not a ratio of mean norms: the paper does not say which it shows. Raises CourseError
    without a CLS token or without patches.
    """
    if not 1 <= prefix < values.shape[-1]:
        raise CourseError(f"{prefix} prefix token(s) of {values.shape[-1]}; expected CLS first, and patches behind the prefix")
    return values[..., 0], values[..., prefix:].mean(-1)


# ------------------------------------------------------------------------------------------------- the same in a ResNet

class Norms:
    """{name: norms over channels (B, places)} of maps (B, C, rows, columns), all taken before the network overwrites them."""
    reads = "parts"

    def __init__(self):
        self.found = {}

    def update(self, name: str, activation: Tensor) -> None:
        self.found[name] = widen(activation).flatten(2).norm(dim=1)


def resnet_norm_ratios(resnet: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """|z| / |f(z)| at each place of each block of timm's ResNet: images (B, 3, H, W) -> {"layer1.0": (B, places), ...}.

    z is what the skip connection brings, after its convolution where it has one; f(z) comes from the last norm of the branch
    (and from squeeze and excitation, if there is any). Raises CourseError for another kind of network.
    """
    modules, before = {}, getattr(resnet, "maxpool", None)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for k, block in enumerate(getattr(resnet, stage, ())):
            branch = getattr(block, "se", None) or getattr(block, "bn3", None) or getattr(block, "bn2", None)
            if branch is None or before is None:
                raise CourseError(f"{stage}.{k} of {type(resnet).__name__} is no residual block of timm's ResNet")
            modules[f"{stage}.{k} branch"] = branch
            modules[f"{stage}.{k} skip"] = block.downsample or before
            before = block
    metric = Norms()
    if not modules:
        raise CourseError(f"{type(resnet).__name__} has no stages layer1 to layer4; expected timm's ResNet")
    observe_modules(resnet, modules, images, [metric])
    return {name.removesuffix(" skip"): metric.found[name] / metric.found[name.replace("skip", "branch")]
            for name in modules if name.endswith(" skip")}


# ------------------------------------------------------------------------------------------------- a skip less

class WithoutSkip(nn.Module):
    """A block of timm's ViT with halves that give f(z) instead of z + f(z). Its weights have the names that they had.

    Such a half is never dropped by stochastic depth: nothing would be left of the tokens.
    """

    def __init__(self, block: Block, halves: tuple[str, ...]):
        super().__init__()
        for name, module in block.named_children():
            self.add_module(name, module)
        self.halves = halves
        self.train(block.training)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        attention = self.ls1(self.attn(self.norm1(x), *args, **kwargs))
        x = attention if "attention" in self.halves else x + self.drop_path1(attention)
        mlp = self.ls2(self.mlp(self.norm2(x)))
        return mlp if "mlp" in self.halves else x + self.drop_path2(mlp)


def without_skip(backbone: nn.Module, block: int, half: str = "both") -> nn.Module:
    """A copy of a timm-style ViT, one block without its skip connections, to train anew (Raghu et al. 2021, Fig. 8).

    block: counted from 1. half: "attention", "mlp", or "both", as the paper seems to mean. The copy has the weights of the
    original, under the same names, and goes through `record` and `similarity` like any other. `ViT.intermediates`, which adds
    up the halves itself, does not know of the change. Raises CourseError if there is no such block or half, or the block is not
    of timm's plain kind.
    """
    blocks = getattr(backbone, "blocks", ())
    if half not in HALVES:
        raise CourseError(f"there is no half {half!r}; choose one of {', '.join(HALVES)}")
    if block not in range(1, len(blocks) + 1):
        raise CourseError(f"there is no block {block}; this backbone has {len(blocks)}, counted from 1")
    if type(blocks[block - 1]) is not Block:
        raise CourseError(f"block {block} is a {type(blocks[block - 1]).__name__}; expected the Block of "
                          f"{Block.__module__}, whose skip connections are known")
    changed = copy.deepcopy(backbone)
    changed.blocks[block - 1] = WithoutSkip(changed.blocks[block - 1], HALVES[half])
    return changed
