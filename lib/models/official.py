"""Official checkpoints of the papers, at the papers' size: `official.load("mocov3-vitb16")` is ready to be looked at.

A file is fetched from its official address into data/cache/official (or below COURSE_DATA) on first use, or put there by
hand. Its size and SHA-256 are recorded beside it once its weights have proved to fit, and compared ever after.

Every network takes images in [0, 1], normalised with ImageNet's mean and standard deviation, as the course's own do. BEiT
and AugReg were trained with 0.5 for both; their patch projection is changed so that it gives the same tokens.
"""
import contextlib
import datetime
import json
import operator
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lib.data.images import data_root
from lib.data.views import MEAN, STD
from lib.errors import CourseError
from lib.models import layouts
from lib.models.decoder import MAEDecoder
from lib.models.download import download, sha256_of
from lib.models.heads import PixelDecoder
from lib.models.layouts import Size
from lib.models.safe_load import read_checkpoint
from lib.models.vit import ViT, init_truncated, init_xavier

TINY, SMALL, BASE = Size(192, 12, 3), Size(384, 12, 6), Size(768, 12, 12)
META, AUGREG = "https://dl.fbaipublicfiles.com", "https://storage.googleapis.com/vit_models/augreg"


@dataclass(frozen=True)
class Checkpoint:
    layout: str                        # one of lib.models.layouts.LAYOUTS
    size: Size
    address: str
    file: str = ""                     # the published name, if the address does not end with it
    entry: str = ""                    # of the file's dict, which holds the weights; "" for the dict itself
    sha256: str = ""                   # its first characters, where the publishers tell
    page: str = ""                     # where to look for the file by hand, if not at the address
    positions: str = "fixed"           # "fixed" sines and cosines, "learned" for each patch, or "relative"
    pooling: str = "cls"               # where its evaluation finds the representation

    @property
    def name(self) -> str:
        return self.file or self.address.rsplit("/", 1)[1]


CHECKPOINTS = {
    # MoCo v3's ViT-S has 12 heads, where everyone else's has 6 (Chen et al. 2021, Table 1).
    "mocov3-vits16": Checkpoint("mocov3", replace(SMALL, heads=12), f"{META}/moco-v3/vit-s-300ep/vit-s-300ep.pth.tar",
                                entry="state_dict"),
    "mocov3-vitb16": Checkpoint("mocov3", BASE, f"{META}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar", entry="state_dict"),
    "simmim-vitb16": Checkpoint(
        "simmim", BASE,
        "https://drive.usercontent.google.com/download?id=1dJn6GYkwMIcoP3zqOEyW1_iQfpBi8UOw&export=download&confirm=t",
        file="simmim_pretrain__vit_base__img224__800ep.pth", entry="model", positions="relative", pooling="mean",
        page="https://drive.google.com/file/d/1dJn6GYkwMIcoP3zqOEyW1_iQfpBi8UOw/view"),
    "mae-vitb16": Checkpoint("mae", BASE, f"{META}/mae/pretrain/mae_pretrain_vit_base.pth", entry="model", pooling="mean"),
    "mae-vitb16-full": Checkpoint("mae-full", BASE, f"{META}/mae/pretrain/mae_pretrain_vit_base_full.pth", entry="model",
                                  pooling="mean"),
    "dino-vits16": Checkpoint("dino", SMALL, f"{META}/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
                              positions="learned"),
    "dino-vitb16": Checkpoint("dino", BASE, f"{META}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
                              positions="learned"),
    # BEiT's files have moved between hosts; the page has their present address.
    "beit-vitb16": Checkpoint(
        "beit", BASE, "https://github.com/addf400/files/releases/download/v1.0/beit_base_patch16_224_pt22k.pth",
        entry="model", positions="relative", pooling="mean", page="https://github.com/microsoft/unilm/tree/master/beit"),
    # Meta's file names end with the first characters of the hash, as torch.hub expects it.
    "deit-vitt16": Checkpoint("deit", TINY, f"{META}/deit/deit_tiny_patch16_224-a1311bcf.pth", entry="model",
                              sha256="a1311bcf", positions="learned"),
    "deit-vits16": Checkpoint("deit", SMALL, f"{META}/deit/deit_small_patch16_224-cd65a155.pth", entry="model",
                              sha256="cd65a155", positions="learned"),
    "deit-vitb16": Checkpoint("deit", BASE, f"{META}/deit/deit_base_patch16_224-b5f2ef4d.pth", entry="model",
                              sha256="b5f2ef4d", positions="learned"),
    # Supervised, on ImageNet-21k and on ImageNet-1k.
    "augreg-vitb16": Checkpoint(
        "augreg", BASE, f"{AUGREG}/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz", positions="learned"),
    "augreg-vitb16-in1k": Checkpoint(
        "augreg-in1k", BASE, f"{AUGREG}/B_16-i1k-300ep-lr_0.001-aug_strong2-wd_0.1-do_0.1-sd_0.1--imagenet2012-steps_20k-"
        "lr_0.01-res_224.npz", positions="learned"),
}


def known(name: str) -> Checkpoint:
    """Raises CourseError for a name that is not in CHECKPOINTS."""
    if name not in CHECKPOINTS:
        raise CourseError(f"there is no official checkpoint {name!r}; choose one of {', '.join(CHECKPOINTS)}")
    return CHECKPOINTS[name]


# ------------------------------------------------------------------------------------------------------------ networks

def load(name: str) -> ViT:
    """An official backbone in eval mode, on the CPU, fetched if need be. For errors see `weights`."""
    return fill(backbone(name), name, weights(name)).eval()


def load_decoder(name: str) -> nn.Module:
    """The decoder published with "simmim-vitb16" (a `PixelDecoder`) or "mae-vitb16-full" (an `MAEDecoder`), in eval mode.

    Raises CourseError for a checkpoint without one; for other errors see `weights`.
    """
    size = known(name).size
    if CHECKPOINTS[name].layout not in ("simmim", "mae-full"):
        raise CourseError(f"no decoder was published with {name}; there are those of simmim-vitb16 and mae-vitb16-full")
    decoder = PixelDecoder(size.dim, size.patch_size) if CHECKPOINTS[name].layout == "simmim" else \
        MAEDecoder((size.side, size.side), size.patch_size, size.dim, layouts.MAE_DECODER.dim, layouts.MAE_DECODER.depth,
                   layouts.MAE_DECODER.heads)
    decoder.load_state_dict({key.removeprefix("decoder."): x for key, x in weights(name).items() if key.startswith("decoder.")})
    return decoder.eval()


def backbone(name: str) -> ViT:
    """A network that the weights of an official checkpoint fit into, in eval mode."""
    checkpoint = known(name)
    relative, size = checkpoint.positions == "relative", checkpoint.size
    with torch.random.fork_rng(devices=[]):
        vit = ViT(size.image_size, size.patch_size, size.dim, size.depth, size.heads, "relative" if relative else "sincos",
                  layer_scale=0.1 if relative else None, mask_token=relative)
    if checkpoint.positions == "learned":
        vit.pos_embed.requires_grad_(True)
    if checkpoint.layout.startswith("augreg"):                    # flax.linen.gelu is the tanh approximation
        for block in vit.blocks:
            block.mlp.act = nn.GELU(approximate="tanh")
    return vit.eval()


def untrained(name: str, seed: int = 0) -> ViT:
    """The same network with initial weights, the same for the same seed: the negative control."""
    vit, positions = backbone(name), known(name).positions
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        (init_xavier if positions == "fixed" else init_truncated)(vit)
        if positions == "learned":
            nn.init.trunc_normal_(vit.pos_embed, std=0.02)
    return vit


def fill(vit: nn.Module, name: str, tensors: dict[str, Tensor]) -> nn.Module:
    """Put the weights of an official checkpoint, as `weights` gives them, into a ViT of the course or of timm.

    Raises CourseError where the number of heads, a name or a shape differs. The number of heads shows in no weight, so that
    a ViT-S of timm, with 6 heads, would take MoCo v3's weights for 12 without a word and give other tokens.
    """
    heads = known(name).size.heads
    for k, block in enumerate(vit.blocks):
        if block.attn.num_heads != heads:
            raise CourseError(f"{name} has {heads} heads, block {k + 1} of this network {block.attn.num_heads}: make it with "
                              f"{heads} heads")
    tensors = {key: x for key, x in tensors.items() if not key.startswith("decoder.")}
    shapes = {key: tuple(x.shape) for key, x in vit.state_dict().items()}
    for key in sorted(shapes.keys() | tensors.keys()):
        given, wanted = tuple(tensors[key].shape) if key in tensors else "missing", shapes.get(key, "no such weight")
        if given != wanted:
            raise CourseError(f"{name} does not fit this network: {key} is {given}, expected {wanted}")
    vit.load_state_dict(tensors)
    return vit


# ------------------------------------------------------------------------------------------------------------- weights

def weights(name: str) -> dict[str, Tensor]:
    """The tensors of a `ViT`, and "decoder." where one was published; fetched if need be.

    Raises CourseError, in one line, if the file cannot be fetched, is not the one that was recorded, cannot be read, or
    does not hold exactly what the layout asks for.
    """
    checkpoint, path = known(name), fetch(name)
    record = check(name)
    held = read_checkpoint(path)
    if checkpoint.entry:
        held = held.get(checkpoint.entry)
        if not isinstance(held, dict):
            raise CourseError(f"{path} has no dict {checkpoint.entry!r}, which holds the weights of {name}: it is another file")
    tensors = layouts.convert(checkpoint.layout, held, checkpoint.size, str(path))
    if checkpoint.layout.startswith(("augreg", "beit")):
        tensors = renormalize(tensors)
    if not _record(path).exists():
        with contextlib.suppress(OSError):                        # a shared folder may be read-only
            temporary = _record(path).with_name(f".{_record(path).name}.{os.getpid()}")
            temporary.write_text(json.dumps(record, indent=1) + "\n")
            os.replace(temporary, _record(path))
    return tensors


def renormalize(tensors: dict[str, Tensor], mean: tuple[float, ...] = (0.5,) * 3,
                std: tuple[float, ...] = (0.5,) * 3) -> dict[str, Tensor]:
    """Weights for images normalised with `mean` and `std` -> weights that give the same tokens for ImageNet's.

    x = STD z + MEAN, so (x - mean) / std = (STD / std) z + (MEAN - mean) / std, and the patch projection is linear.
    """
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    weight = tensors["patch_embed.proj.weight"].double()                           # (D, 3, p, p)
    bias = tensors["patch_embed.proj.bias"] + (weight * (MEAN.double() - mean) / std).sum((1, 2, 3))
    changed = {"patch_embed.proj.weight": weight * STD.double() / std, "patch_embed.proj.bias": bias}
    return tensors | {key: x.to(torch.promote_types(tensors[key].dtype, torch.float32)) for key, x in changed.items()}


# --------------------------------------------------------------------------------------------------------------- files

def path_of(name: str) -> Path:
    """Where the file of a checkpoint lies, or would lie."""
    return data_root() / "official" / known(name).name


def fetch(name: str) -> Path:
    """The file of a checkpoint, downloaded if it is not there. Raises CourseError if that fails: see `download`."""
    checkpoint, path = known(name), path_of(name)
    if path.is_dir():
        raise CourseError(f"{path} is a folder, and the file of {name} belongs there: move it away")
    if not path.is_file():
        record = _read_record(path)
        download(checkpoint.address, path, record.get("bytes"), record.get("sha256", checkpoint.sha256),
                 f"download {checkpoint.page or 'it'} by hand and put it at {path}")
    return path


def check(name: str) -> dict:
    """-> address, bytes, SHA-256 and date of a file that is there.

    Raises CourseError if they are not what was recorded at first use, or the hash not the one that was published.
    """
    checkpoint, path = known(name), path_of(name)
    record, size = _read_record(path), path.stat().st_size
    digest = _digest(path, size, path.stat().st_mtime_ns)
    if not digest.startswith(checkpoint.sha256):
        raise CourseError(f"{path} has the SHA-256 {digest}, published is {checkpoint.sha256}...: delete it and fetch it again")
    if record and (size, digest) != (record["bytes"], record["sha256"]):
        raise CourseError(f"{path} has {size:,} bytes and the SHA-256 {digest}, recorded at first use were {record['bytes']:,} "
                          f"and {record['sha256']}: delete it and fetch it again, or delete {_record(path).name} if the "
                          "publishers have replaced it")
    return record or {"address": checkpoint.address, "bytes": size, "sha256": digest,
                      "date": datetime.date.today().isoformat()}


@lru_cache
def _digest(path: Path, size: int, changed: int) -> str:
    """The SHA-256 of a file, taken once for every state of it that its size and time tell apart: some have 2 GB."""
    return sha256_of(path)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(_record(path).read_text())
        return record | {"bytes": operator.index(record["bytes"]), "sha256": "" + record["sha256"]}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError):
        raise CourseError(f"{_record(path)} is damaged: delete it, and it is written again") from None
