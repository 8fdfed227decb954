"""The networks of the course that are no ViTs, by their names: a CNN and a Mixer, each with its classifier.

Both turn images (B, 3, S, S) into logits (B, classes), and, as timm's networks do, have `forward_features` (what there is
before the global pooling) and `forward_head`.
"""
import torch
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import ResNet
from torch import Tensor, nn

from lib.models import mixer, resnet

NAMES = (*resnet.SIZES, *mixer.SIZES)


def create(name: str, classes: int = 10, image_size: int = 64, patch_size: int = 8) -> ResNet | MlpMixer:
    """A network by its name in NAMES; a CNN takes images of any size. Raises CourseError if unknown."""
    if name in mixer.SIZES:
        return mixer.create(name, classes, image_size, patch_size)
    return resnet.create(name, classes)


def layers(network: ResNet | MlpMixer) -> dict[str, nn.Module]:
    """What to compare it by: the stem, or embedding, and the ends of all blocks, in the order in which they are passed."""
    return mixer.layers(network) if isinstance(network, MlpMixer) else resnet.stages(network)


@torch.no_grad()
def untrained(name: str, images: Tensor, seed: int = 0) -> ResNet | MlpMixer:
    """The network before its first step, in eval mode; a CNN's batch norms are set by the images (B, 3, S, S)."""
    return mixer.untrained(name, seed, images.shape[-1]) if name in mixer.SIZES else resnet.untrained(images, name, seed)
