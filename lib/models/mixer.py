"""The MLP-Mixer of the course, patches without attention: timm's, as deep and as wide as the ViTs (Tolstikhin et al. 2021).

An image is cut into patches as for a ViT. In each block an MLP mixes places, one channel at a time, where a ViT has attention;
then an MLP mixes channels, one place at a time, as in a ViT. There is no CLS token and no position embedding: the mean of the
places is what is classified. The names of the weights are timm's.
"""
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from lib.errors import CourseError

# name: (width, blocks), as of the ViT with the same end to its name. Hidden layers have half the width between places and four
# times the width between channels, as in the paper; there that is more than the places, here it is fewer than the 64.
SIZES = {
    "mixer_nano": (48, 3),
    "mixer_slim": (96, 12),
}


def create(name: str, classes: int = 10, image_size: int = 64, patch_size: int = 8) -> MlpMixer:
    """A Mixer by its name in SIZES: images (B, 3, S, S) -> logits (B, classes).

    Raises CourseError for an unknown name, and where patches do not fill the image.
    """
    if name not in SIZES:
        raise CourseError(f"there is no model {name!r}; choose one of {', '.join(SIZES)}")
    if image_size % patch_size:
        raise CourseError(f"patches of {patch_size} px do not fill images of {image_size} px; choose a size that divides it")
    width, blocks = SIZES[name]
    return MlpMixer(num_classes=classes, img_size=image_size, patch_size=patch_size, num_blocks=blocks, embed_dim=width)


def layers(network: MlpMixer) -> dict[str, nn.Module]:
    """The patch embedding and the ends of all blocks, "embedding", "block1", ..., to be read as `modules`: (B, N, D) each."""
    return {"embedding": network.stem} | {f"block{k}": block for k, block in enumerate(network.blocks, start=1)}


def untrained(name: str = "mixer_slim", seed: int = 0, image_size: int = 64) -> MlpMixer:
    """The network before its first step, in eval mode, the same for the same seed: the negative control."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(name, image_size=image_size).eval()
