"""Official layouts of weights -> the layout of timm, which is ours: every tensor accounted for, none left over.

A layout takes each tensor of a file by its published name and shape. What is missing, what has another shape and what is
left at the end is named in an error, so that no network comes up half loaded. Each layout gives the tensors of a
`lib.models.vit.ViT`, and those of a decoder, where there is one, under "decoder.".
"""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from lib.errors import CourseError
from lib.models.vit import relative_index

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Size:
    dim: int
    depth: int
    heads: int
    patch_size: int = 16
    image_size: int = 224

    @property
    def side(self) -> int:
        """Patches in a row."""
        return self.image_size // self.patch_size


MAE_DECODER = Size(512, 8, 16)


class Tensors:
    """The tensors of a file, taken out one by one; `what` names the file in errors."""

    def __init__(self, tensors: dict, what: str):
        self.left, self.what = dict(tensors), what

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of this name. Raises CourseError if it is missing, no tensor, or of another shape."""
        if name not in self.left:
            raise CourseError(f"{self.what} has no {name} {shape}; it has {some(self.left)}: it is another file, or it was "
                              "published in another layout")
        tensor = self.left.pop(name)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            found = tuple(tensor.shape) if isinstance(tensor, Tensor) else f"a {type(tensor).__name__}"
            raise CourseError(f"{self.what}: {name} is {found}, expected {shape}: these are the weights of another network")
        return tensor

    def take_all(self, shapes: Shapes, prefix: str = "") -> dict[str, Tensor]:
        """Tensors by their names without the prefix."""
        return {name: self.take(prefix + name, shape) for name, shape in shapes.items()}

    def finish(self) -> None:
        """Raises CourseError, which names them, if tensors are left."""
        if self.left:
            raise CourseError(f"{self.what} has unexpected weights, {some(self.left)}: they belong to another network")


def some(names) -> str:
    """The first names of many, in words."""
    names = [str(name) for name in names]
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"


def convert(layout: str, tensors: dict, size: Size, what: str) -> dict[str, Tensor]:
    """Tensors in an official layout, by its name in LAYOUTS -> in ours.

    Raises CourseError where they do not fit exactly, and where one that is used holds NaN or infinity.
    """
    given = Tensors(tensors, what)
    converted = LAYOUTS[layout](given, size)
    given.finish()
    for name, tensor in converted.items():
        if not tensor.isfinite().all():
            raise CourseError(f"{what}: {name} (as timm names it) holds numbers that are not finite: the file is damaged")
    return converted


# ---------------------------------------------------------------------------------------------------- parts of networks

def block_shapes(dim: int) -> Shapes:
    """A transformer block without the bias of queries, keys and values."""
    return {"norm1.weight": (dim,), "norm1.bias": (dim,), "attn.qkv.weight": (3 * dim, dim),
            "attn.proj.weight": (dim, dim), "attn.proj.bias": (dim,), "norm2.weight": (dim,), "norm2.bias": (dim,),
            "mlp.fc1.weight": (4 * dim, dim), "mlp.fc1.bias": (4 * dim,), "mlp.fc2.weight": (dim, 4 * dim),
            "mlp.fc2.bias": (dim,)}


def blocks_shapes(dim: int, depth: int, block: Shapes) -> Shapes:
    return {f"blocks.{k}.{name}": shape for k in range(depth) for name, shape in block.items()}


def stem_shapes(size: Size) -> Shapes:
    """What comes before the first block and after the last."""
    dim, p = size.dim, size.patch_size
    return {"cls_token": (1, 1, dim), "patch_embed.proj.weight": (dim, 3, p, p), "patch_embed.proj.bias": (dim,),
            "norm.weight": (dim,), "norm.bias": (dim,)}


def vit_shapes(size: Size) -> Shapes:
    """The ViT that timm, MoCo v3, MAE, DINO and DeiT share: 150 tensors at depth 12."""
    block = block_shapes(size.dim) | {"attn.qkv.bias": (3 * size.dim,)}
    return (stem_shapes(size) | {"pos_embed": (1, 1 + size.side**2, size.dim)}
            | blocks_shapes(size.dim, size.depth, block))


def mlp_shapes(dims: list[int]) -> Shapes:
    """MoCo v3's heads: linear layers without bias, batch norm, ReLU; the last batch norm has no scale and shift."""
    shapes = {}
    for k, (width, next_width) in enumerate(pairwise(dims)):
        shapes[f"{3 * k}.weight"] = (next_width, width)
        scale = {} if k == len(dims) - 2 else {"weight": (next_width,), "bias": (next_width,)}
        counts = {"running_mean": (next_width,), "running_var": (next_width,), "num_batches_tracked": ()}
        shapes |= {f"{3 * k + 1}.{name}": shape for name, shape in (scale | counts).items()}
    return shapes


# -------------------------------------------------------------------------------------------------------------- layouts

def mocov3(given: Tensors, size: Size) -> dict[str, Tensor]:
    """facebookresearch/moco-v3: the backbone is "module.base_encoder.". Heads and momentum encoder are left out.

    Every name begins with "module.", which DistributedDataParallel adds; a file where none does is taken as well.
    """
    parts = ("base_encoder.", "momentum_encoder.", "predictor.")
    module = "" if given.left and all(str(name).startswith(parts) for name in given.left) else "module."
    backbone = given.take_all(vit_shapes(size), f"{module}base_encoder.")
    given.take_all(vit_shapes(size), f"{module}momentum_encoder.")
    for encoder in ("base_encoder", "momentum_encoder"):
        given.take_all(mlp_shapes([size.dim, 4096, 4096, 256]), f"{module}{encoder}.head.")
    given.take_all(mlp_shapes([256, 4096, 256]), f"{module}predictor.")
    return backbone


def plain(given: Tensors, size: Size) -> dict[str, Tensor]:
    """facebookresearch/dino, and the encoder of facebookresearch/mae: timm's names."""
    return given.take_all(vit_shapes(size))


def deit(given: Tensors, size: Size) -> dict[str, Tensor]:
    """facebookresearch/deit: timm's names and a classifier of 1,000 classes, which is left out."""
    given.take_all({"head.weight": (1000, size.dim), "head.bias": (1000,)})
    return plain(given, size)


def mae_full(given: Tensors, size: Size) -> dict[str, Tensor]:
    """facebookresearch/mae with its decoder, as `lib.models.decoder.MAEDecoder` names it."""
    dim, pixels = MAE_DECODER.dim, 3 * size.patch_size**2
    block = block_shapes(dim) | {"attn.qkv.bias": (3 * dim,)}
    decoder = {"embed.weight": (dim, size.dim), "embed.bias": (dim,), "pos_embed": (1, 1 + size.side**2, dim),
               "norm.weight": (dim,), "norm.bias": (dim,), "pred.weight": (pixels, dim), "pred.bias": (pixels,)}
    decoder = given.take_all(decoder | blocks_shapes(dim, MAE_DECODER.depth, block), "decoder_")
    decoder["mask_token"] = given.take("mask_token", (1, 1, dim))
    return plain(given, size) | {f"decoder.{name}": tensor for name, tensor in decoder.items()}


def relative(given: Tensors, size: Size, prefix: str = "") -> dict[str, Tensor]:
    """The ViT of BEiT and SimMIM: one relative position bias for all blocks, layer scale, no bias of the keys."""
    dim, heads, tokens = size.dim, size.heads, 1 + size.side**2
    table = given.take(f"{prefix}rel_pos_bias.relative_position_bias_table", ((2 * size.side - 1)**2 + 3, heads))
    index = given.take(f"{prefix}rel_pos_bias.relative_position_index", (tokens, tokens))
    if not torch.equal(index.long(), relative_index((size.side, size.side))):
        raise CourseError(f"{given.what}: {prefix}rel_pos_bias.relative_position_index numbers displacements in another order "
                          "than BEiT does")
    found = given.take_all(stem_shapes(size) | {"mask_token": (1, 1, dim)}, prefix) | {"bias_table": table}
    own = {"gamma_1": (dim,), "gamma_2": (dim,), "attn.q_bias": (dim,), "attn.v_bias": (dim,)}
    for k in range(size.depth):
        block = given.take_all(block_shapes(dim) | own, f"{prefix}blocks.{k}.")
        q, v = block.pop("attn.q_bias"), block.pop("attn.v_bias")
        block["attn.qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
        block["ls1.gamma"], block["ls2.gamma"] = block.pop("gamma_1"), block.pop("gamma_2")
        found |= {f"blocks.{k}.{name}": tensor for name, tensor in block.items()}
    return found


def simmim(given: Tensors, size: Size) -> dict[str, Tensor]:
    """microsoft/SimMIM on a ViT. Its decoder, a 1 x 1 convolution and pixel shuffle, becomes a `PixelDecoder`.

    Pixel shuffle wants channel, row, column; `lib.objectives.masked.patchify` has row, column, channel.
    """
    p = size.patch_size
    weight = given.take("decoder.0.weight", (3 * p * p, size.dim, 1, 1)).view(3, p, p, size.dim)
    bias = given.take("decoder.0.bias", (3 * p * p,)).view(3, p, p)
    return relative(given, size, "encoder.") | {"decoder.linear.weight": weight.permute(1, 2, 0, 3).reshape(-1, size.dim),
                                                "decoder.linear.bias": bias.permute(1, 2, 0).reshape(-1)}


def beit(given: Tensors, size: Size) -> dict[str, Tensor]:
    """microsoft/unilm/beit after pre-training. The classifier of 8,192 visual words is left out."""
    given.take_all({"lm_head.weight": (8192, size.dim), "lm_head.bias": (8192,)})
    return relative(given, size)


def augreg(given: Tensors, size: Size, classes: int = 21_843) -> dict[str, Tensor]:
    """google-research/vision_transformer: Flax's names, and matrices that map from their first axis to their last.

    The classifier is left out.
    """
    dim, heads, p = size.dim, size.heads, size.patch_size
    given.take_all({"head/kernel": (dim, classes), "head/bias": (classes,)})
    found = {"cls_token": given.take("cls", (1, 1, dim)),
             "pos_embed": given.take("Transformer/posembed_input/pos_embedding", (1, 1 + size.side**2, dim)),
             "patch_embed.proj.weight": given.take("embedding/kernel", (p, p, 3, dim)).permute(3, 2, 0, 1),
             "patch_embed.proj.bias": given.take("embedding/bias", (dim,))}
    found |= dict(_flax_norm(given, "Transformer/encoder_norm", "norm", dim))
    for k in range(size.depth):
        block, ours = f"Transformer/encoderblock_{k}", f"blocks.{k}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        qkv = [given.take_all({"kernel": (dim, heads, dim // heads), "bias": (heads, dim // heads)}, f"{attention}/{part}/")
               for part in ("query", "key", "value")]
        found[f"{ours}.attn.qkv.weight"] = torch.cat([part["kernel"].flatten(1).T for part in qkv])
        found[f"{ours}.attn.qkv.bias"] = torch.cat([part["bias"].flatten() for part in qkv])
        found[f"{ours}.attn.proj.weight"] = given.take(f"{attention}/out/kernel", (heads, dim // heads, dim)).flatten(0, 1).T
        found[f"{ours}.attn.proj.bias"] = given.take(f"{attention}/out/bias", (dim,))
        found |= dict(_flax_norm(given, f"{block}/LayerNorm_0", f"{ours}.norm1", dim))
        found |= dict(_flax_norm(given, f"{block}/LayerNorm_2", f"{ours}.norm2", dim))
        for layer, fc, width, next_width in (("Dense_0", "fc1", dim, 4 * dim), ("Dense_1", "fc2", 4 * dim, dim)):
            found[f"{ours}.mlp.{fc}.weight"] = given.take(f"{block}/MlpBlock_3/{layer}/kernel", (width, next_width)).T
            found[f"{ours}.mlp.{fc}.bias"] = given.take(f"{block}/MlpBlock_3/{layer}/bias", (next_width,))
    return found


def _flax_norm(given: Tensors, name: str, ours: str, dim: int) -> Iterator[tuple[str, Tensor]]:
    yield f"{ours}.weight", given.take(f"{name}/scale", (dim,))
    yield f"{ours}.bias", given.take(f"{name}/bias", (dim,))


LAYOUTS: dict[str, Callable[[Tensors, Size], dict[str, Tensor]]] = {
    "mocov3": mocov3, "simmim": simmim, "mae": plain, "mae-full": mae_full, "dino": plain, "beit": beit, "deit": deit,
    "augreg": augreg, "augreg-in1k": partial(augreg, classes=1000)}
