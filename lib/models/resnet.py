"""The convolutional network of the course, to hold a ViT against: timm's ResNet-18, narrow, for images of 64 pixels.

Three convolutions of 3 x 3 take 64 x 64 pixels to 32 x 32; no pooling follows them, as is usual for small images. Four stages
of two blocks have maps of 32, 16, 8 and 4 a side: those of stage 3 are as fine as the 8 x 8 patches of the course's ViTs. The
names of the weights are timm's.
"""
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from lib.data.views import normalize
from lib.errors import CourseError

# name: (channels of the four stages, blocks in each). `resnet_slim` has half the weights of `vit_slim`.
SIZES = {
    "resnet_nano": ((8, 8, 16, 16), (1, 1, 1, 1)),
    "resnet_slim": ((16, 32, 64, 128), (2, 2, 2, 2)),
}
STEPS = ("conv1", "bn1", "act1", "conv2", "bn2")                   # of a block, in the order of its forward


def create(name: str, classes: int = 10) -> ResNet:
    """A ResNet by its name in SIZES: images (B, 3, S, S) -> logits (B, classes). Raises CourseError if unknown."""
    if name not in SIZES:
        raise CourseError(f"there is no model {name!r}; choose one of {', '.join(SIZES)}")
    channels, blocks = SIZES[name]
    # The last norm of a branch starts at 1, not at 0: at 0 an untrained network would have no branches.
    network = ResNet(BasicBlock, blocks, num_classes=classes, channels=channels, stem_type="deep", stem_width=channels[0] // 2,
                     zero_init_last=False)
    network.maxpool = nn.Identity()
    return network


def stages(network: ResNet) -> dict[str, nn.Module]:
    """The ends of the stem and of all blocks by name, "stem", "stage1.1", "stage1.2", ..., to be read as `modules`."""
    return {name: module for name, module in layers(network).items() if name.count(".") < 2}


def layers(network: ResNet) -> dict[str, nn.Module]:
    """Those, and every step inside the blocks, "stage1.1.conv1", ..., in the order in which they are passed.

    A block's own end comes after its steps: the sum with the skip connection, after its ReLU.
    """
    found = {"stem": network.maxpool}
    for stage in range(1, 5):
        for k, block in enumerate(getattr(network, f"layer{stage}"), start=1):
            found |= {f"stage{stage}.{k}.{step}": getattr(block, step) for step in STEPS} | {f"stage{stage}.{k}": block}
    return found


@torch.no_grad()
def untrained(images: Tensor, name: str = "resnet_slim", seed: int = 0) -> ResNet:
    """The network before its first step, in eval mode, the same for the same seed and images: the negative control.

    Its batch norms take their means and variances from the images (B, 3, S, S), as they would in training, for without any they
    would not normalise at all. uint8 images are normalised, float images are taken as they come.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = create(name)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0                                        # of the old statistics nothing stays
    network.train()(normalize(images) if images.dtype == torch.uint8 else images)
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()
