"""What a recipe consists of: a dataclass for each objective, every field with its meaning and its bounds."""
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, get_type_hints

from lib.data.shapes import DIFFICULTIES
from lib.data.views import (
    CAN_BE_LEFT_OUT,
    DINO_GLOBAL,
    DINO_LOCAL,
    MAE_VIEW,
    MOCO_V3,
    SIMMIM,
    SUPERVISED,
    ViewRecipe,
    without,
)
from lib.errors import CourseError
from lib.models import vit

INIT = "initial weights: of MoCo v3; narrow normal, narrower in later blocks, of SimMIM; truncated normal of DINO and DeiT"


def option(default, text: str, choices: tuple[str, ...] = ()):
    return field(default=default, metadata={"help": text, "choices": choices})


# Bounds beyond "not negative, and not so large that nothing can hold it", which holds for every number but the seed.
MOST = {"images": 10**12, "local_crops": 1000, "decoder_depth": 1000}
MOST |= dict.fromkeys(("image_size", "stored_size", "patch_size", "local_size"), 16_384)          # pixels
MOST |= dict.fromkeys(("hidden", "dim", "bottleneck", "prototypes", "decoder_dim"), 10**7)        # channels
MOST |= {"jitter": 1, "erase": 1, "rand_augment": 10}               # two probabilities, and a magnitude
AT_LEAST_1 = ("image_size", "patch_size", "epochs", "batch_size", "log_every", "hidden", "dim", "mask_cell", "bottleneck",
              "prototypes", "local_size", "decoder_dim", "decoder_depth", "decoder_heads", "accumulate")
BELOW_1 = ("drop_path", "beta2", "momentum", "center_momentum", "smoothing")
ABOVE_0 = ("temperature", "student_temperature", "teacher_temperature", "teacher_temperature_start", "crop_min", "local_min",
           "mim_crop_min")


# How a run is carried out, not what it computes (but for the paths that are dropped, which parts of a batch draw anew): may
# change between a run and its continuation, and may be missing in the description of an older run.
FREE = {"device", "compile", "accumulate", "checkpoint_blocks", "shard", "log_every", "checkpoint_every", "knn_every",
        "keep_every"}
# What came to recipes later, with the value by which a description without it is understood: what was computed until then.
LATER = {"heads": 0, "clip_each": False, "stored_size": 0, "pooling": "cls", "start_from": "", "leave_out": "",
         "rand_augment": 0.0, "jitter": 1.0, "erase": 0.0, "bicubic": False}


def later(names) -> dict:
    """Those of LATER that are among the fields of a recipe."""
    return {name: value for name, value in LATER.items() if name in names}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all objectives share. `pooling` is where evaluation finds the representation.

    mean_over_images: whether the loss of a batch is the mean of the losses of its parts. It is not where images of a batch
    are compared with each other (MoCo v3, in the loss and in batch norm) or move a common centre (DINO).
    """
    pooling: ClassVar[str] = "cls"
    mean_over_images: ClassVar[bool] = False
    data: str = option("shapes", "shapes, cifar10, imagenette, tiny-imagenet, imagenet, or a folder with train/ and val/")
    difficulty: str = option("medium", "of the world of shapes", tuple(DIFFICULTIES))
    images: int = option(0, "train on N images only, evenly spread over the set; 0 for all (for shapes: 20,000)")
    image_size: int = option(64, "pixels on a side of a view")
    stored_size: int = option(0, "cut views from whole photographs, stored squeezed into squares of N pixels; 0: from their "
                                 "centres, stored at image_size")
    patch_size: int = option(8, "pixels on a side of a patch")
    model: str = option("vit_tiny", "size of the backbone", tuple(vit.SIZES))
    heads: int = option(0, "attention heads of a block; 0 for those of the size")
    positions: str = option("sincos", "fixed sin-cos embedding, a shared relative bias, or a learned embedding", vit.POSITIONS)
    init: str = option("xavier", INIT, vit.INITS)
    start_from: str = option("", "begin with the weights of a backbone, not with random ones: a run's folder, a shipped "
                                 "network (shapes/mocov3) or official:NAME")
    layer_scale: float = option(0.0, "initial layer scale; 0 for none")
    drop_path: float = option(0.0, "rate of stochastic depth in the last block, rising from 0 in the first")
    leave_out: str = option("", f"augmentations to leave out, with commas between: {', '.join(CAN_BE_LEFT_OUT)}")
    bicubic: bool = option(False, "bring crops to their size bicubically, not bilinearly")
    epochs: int = option(100, "passes over the training images")
    batch_size: int = option(256, "images a step, over all processes; at scale paper the learning rate grows in proportion, "
                                  "unless it is given too")
    learning_rate: float = option(1e-3, "peak learning rate at this batch size")
    warmup_epochs: float = option(10, "epochs of linear warm-up")
    warmup_start: float = option(0.0, "learning rate at the first step")
    schedule: str = option("cosine", "after the warm-up: half a cosine to its end, or a tenth for the last eighth",
                           ("cosine", "step"))
    learning_rate_end: float = option(0.0, "where the cosine ends")
    weight_decay: float = option(0.05, "of AdamW")
    weight_decay_end: float = option(0.0, "weight decay at the end, reached along half a cosine; 0 keeps it as it was")
    decay_all: bool = option(False, "decay biases, norms and tokens too, not only matrices")
    beta2: float = option(0.999, "second moment decay of AdamW")
    clip_norm: float = option(0.0, "largest gradient norm; 0 for no clipping")
    clip_each: bool = option(False, "clip the gradient of each weight tensor by its own norm, not all by their common one")
    seed: int = option(0, "of weights, order, views and masks")
    device: str = option("auto", "auto takes a GPU if there is one", ("auto", "cpu", "cuda"))
    precision: str = option("auto", "auto is bf16 on a GPU that has it (from NVIDIA's Ampere on) and fp32 elsewhere; fp64 is "
                            "for comparing runs to the last digit",
                            ("auto", "fp32", "bf16", "fp64"))
    compile: bool = option(False, "compile the objective with torch.compile")
    accumulate: int = option(1, "parts in which a process takes its images of a step, to need less memory; for losses that are "
                                "a mean over images (simmim, mae, supervised); each part drops other paths")
    checkpoint_blocks: bool = option(False, "keep only the input of each block for the backward pass, which computes the rest "
                                            "again: far less memory, about a third more work")
    shard: bool = option(False, "split weights, gradients and the optimiser's state over the processes (FSDP2), for networks "
                                "beyond ViT-L")
    log_every: int = option(10, "steps between lines of the log")
    checkpoint_every: int = option(0, "steps between checkpoints; 0 for once an epoch")
    keep_every: int = option(0, "epochs between backbones that are kept, backbone-epochNNNN.safetensors; 0 for never")
    knn_every: int = option(10, "epochs between k-NN evaluations, of 2,000 validation images among 5,000 training images, or "
                                "50 of each class where that is more; 0 for never")

    def __post_init__(self):
        types = get_type_hints(type(self))                         # a user's own may be written as words, or be of other kinds
        for f in fields(self):
            value, kind = getattr(self, f.name), types[f.name]
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif kind in (int, float, bool, str) and type(value) is not kind:
                raise CourseError(f"{f.name} must be {kind.__name__}, got {value!r}")
            most = MOST.get(f.name, 10**9 if kind is int else 1e30)
            if kind in (int, float) and f.name != "seed" and not 0 <= value <= most:
                raise CourseError(f"{f.name} must lie from 0 to {most:,}, got {str(value)[:40]}")
        for name in AT_LEAST_1:
            if getattr(self, name, 1) < 1:
                raise CourseError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in BELOW_1:
            if not 0 <= getattr(self, name, 0) < 1:
                raise CourseError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        for name in ABOVE_0:
            if not 0 < getattr(self, name, 1):
                raise CourseError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if self.accumulate > 1 and not self.mean_over_images:
            raise CourseError(f"accumulate must be 1 here, got {self.accumulate}: this loss compares the images of a step with "
                              "each other, and parts would change it; --checkpoint-blocks saves memory and changes nothing")
        if strange := [name for name in self.left_out() if name not in CAN_BE_LEFT_OUT]:
            raise CourseError(f"leave_out names augmentations, {', '.join(CAN_BE_LEFT_OUT)}, got {strange[0]!r}")
        views = self.published()
        if nothing := [name for name in self.left_out() if views and all(without(view, (name,)) == view for view in views)]:
            has = ", ".join(name for name in CAN_BE_LEFT_OUT if any(without(view, (name,)) != view for view in views))
            raise CourseError(f"leave_out names {nothing[0]}, which this training does not have; it has {has}")
        # one spelling of each, since a run and its continuation are compared
        object.__setattr__(self, "leave_out", ",".join(name for name in CAN_BE_LEFT_OUT if name in self.left_out()))
        object.__setattr__(self, "start_from", self.start_from.rstrip("/") or self.start_from)
        if self.pooling not in ("cls", "mean"):
            raise CourseError(f"pooling must be cls or mean, got {self.pooling!r}")
        if abs(self.seed) >= 2**63:
            raise CourseError(f"seed must fit into 64 bits, got {str(self.seed)[:40]}")
        for f in fields(self):
            choices = f.metadata.get("choices")                    # a field of a user's own may have none
            if choices and getattr(self, f.name) not in choices:
                raise CourseError(f"{f.name} must be one of {', '.join(choices)}, got {getattr(self, f.name)!r}")

    def published(self) -> tuple[ViewRecipe, ...]:
        """The views of the paper, before crops are chosen and some of it is left out; none where they are not known."""
        return ()

    def view(self, published: ViewRecipe, smallest: float, largest: float = 1.0) -> ViewRecipe:
        """A published view with crops between two shares of the area, less what is left out."""
        return without(replace(published, scale=(smallest, largest), bicubic=self.bicubic), self.left_out())

    def left_out(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.leave_out.split(",")) if self.leave_out else ()

    def backbone(self, mask_token: bool = False) -> vit.ViT:
        """A backbone with its initial weights, drawn from PyTorch's random state."""
        network = vit.create(self.model, self.heads, image_size=self.image_size, patch_size=self.patch_size,
                             positions=self.positions, layer_scale=self.layer_scale or None, drop_path=self.drop_path,
                             mask_token=mask_token)
        start = {"xavier": vit.init_xavier, "truncated": vit.init_truncated, "normal": vit.init_normal}[self.init]
        return start(network)


@dataclass(frozen=True, kw_only=True)
class Own(Recipe):
    """What is known later of a recipe for a user's own objective."""
    pooling: str = option("cls", "where evaluation finds the representation", ("cls", "mean"))


@dataclass(frozen=True, kw_only=True)
class MoCoV3Recipe(Recipe):
    """MoCo v3 (Chen, Xie and He 2021). Field defaults are those of the paper where the scale does not change them."""
    hidden: int = option(4096, "width of the hidden layers of projector and predictor")
    dim: int = option(256, "width of the space in which views are compared")
    temperature: float = option(0.2, "of the softmax over keys")
    momentum: float = option(0.99, "of the momentum encoder at the first step; it rises to 1")
    freeze_patches: bool = option(True, "keep the patch projection at its random start")
    crop_min: float = option(0.08, "smallest area of a crop, as a share of the image")

    def published(self) -> tuple[ViewRecipe, ...]:
        return MOCO_V3

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size < 2:
            raise CourseError("contrastive learning tells the images of a batch apart: batch_size must be at least 2, got 1")


@dataclass(frozen=True, kw_only=True)
class SimMIMRecipe(Recipe):
    """SimMIM (Xie et al. 2022)."""
    pooling: ClassVar[str] = "mean"
    mean_over_images: ClassVar[bool] = True
    init: str = option("truncated", INIT, vit.INITS)
    mask_ratio: float = option(0.6, "share of the cells that are masked")
    mask_cell: int = option(2, "patches on a side of a mask cell")
    crop_min: float = option(0.67, "smallest area of a crop, as a share of the image")

    def published(self) -> tuple[ViewRecipe, ...]:
        return (SIMMIM,)


@dataclass(frozen=True, kw_only=True)
class DINORecipe(Recipe):
    """DINO (Caron et al. 2021)."""
    init: str = option("normal", INIT, vit.INITS)
    hidden: int = option(2048, "width of the hidden layers of the head")
    bottleneck: int = option(256, "width between the head's layers and the prototypes")
    prototypes: int = option(65536, "outputs of the head, which student and teacher agree on")
    student_temperature: float = option(0.1, "of the student's softmax")
    teacher_temperature: float = option(0.04, "of the teacher's softmax, once warmed up")
    teacher_temperature_start: float = option(0.04, "of the teacher's softmax at the first step")
    teacher_warmup: float = option(0.0, "share of the training over which the teacher's temperature rises")
    momentum: float = option(0.996, "of the teacher at the first step; it rises to 1")
    center_momentum: float = option(0.9, "of the centre of the teacher's outputs")
    freeze_last: float = option(0.0, "share of the training during which the prototypes stand still")
    crop_min: float = option(0.4, "smallest area of a global crop, and largest of a local one, as a share of the image")
    local_crops: int = option(8, "local crops of an image")
    local_size: int = option(96, "pixels on a side of a local crop")
    local_min: float = option(0.05, "smallest area of a local crop")

    def published(self) -> tuple[ViewRecipe, ...]:
        return *DINO_GLOBAL, DINO_LOCAL

    def __post_init__(self):
        super().__post_init__()
        if self.teacher_warmup > 1 or self.freeze_last > 1:
            raise CourseError("teacher_warmup and freeze_last are shares of the training, from 0 to 1, got "
                              f"{self.teacher_warmup} and {self.freeze_last}")
        if self.local_crops and self.local_size % self.patch_size:
            raise CourseError(f"local crops of {self.local_size} pixels do not divide into patches of {self.patch_size}")


@dataclass(frozen=True, kw_only=True)
class MAERecipe(Recipe):
    """MAE (He et al. 2022)."""
    pooling: ClassVar[str] = "mean"
    mean_over_images: ClassVar[bool] = True
    beta2: float = option(0.95, "second moment decay of AdamW")
    mask_ratio: float = option(0.75, "share of the patches that are masked")
    decoder_dim: int = option(512, "width of the decoder")
    decoder_depth: int = option(8, "blocks of the decoder")
    decoder_heads: int = option(16, "heads of the decoder")
    normalize_target: bool = option(True, "give every patch of the target mean 0 and variance 1")
    crop_min: float = option(0.2, "smallest area of a crop, as a share of the image")

    def published(self) -> tuple[ViewRecipe, ...]:
        return (MAE_VIEW,)


@dataclass(frozen=True, kw_only=True)
class SupervisedRecipe(Recipe):
    """The control: labels, with DeiT's mixup, cutmix and label smoothing (Touvron et al. 2021)."""
    mean_over_images: ClassVar[bool] = True
    pooling: str = option("cls", "what the classifier reads: CLS, or the mean of the patches", ("cls", "mean"))
    classes: int = option(0, "of the labels; 0 for as many as the data has")
    mixup: float = option(0.8, "alpha of mixup; 0 for none")
    cutmix: float = option(1.0, "alpha of cutmix; 0 for none")
    smoothing: float = option(0.1, "of labels")
    crop_min: float = option(0.08, "smallest area of a crop, as a share of the image")
    rand_augment: float = option(0.0, "magnitude of RandAugment, up to 10; 0 for none")
    jitter: float = option(1.0, "probability of a colour jitter, which a training without RandAugment has")
    erase: float = option(0.0, "probability that a box of noise covers a part of the image")

    def published(self) -> tuple[ViewRecipe, ...]:
        """DeiT's view, with the colours and the RandAugment of this recipe."""
        return (replace(SUPERVISED, jitter=self.jitter, rand_augment=self.rand_augment),)


@dataclass(frozen=True, kw_only=True)
class HybridRecipe(MoCoV3Recipe, SimMIMRecipe):
    """(1 - λ) MIM + λ CL (Park et al. 2023, section 5), with the settings of both halves."""
    pooling: ClassVar[str] = "mean"
    mean_over_images: ClassVar[bool] = False
    init: str = option("xavier", INIT, vit.INITS)
    cl_weight: float = option(0.2, "λ, the weight of the contrastive loss; the masked one has 1 - λ")
    freeze_patches: bool = option(False, "keep the patch projection at its random start")
    crop_min: float = option(0.08, "smallest area of a crop of the contrastive half, as a share of the image")
    mim_crop_min: float = option(0.67, "smallest area of a crop of the masked half")

    def published(self) -> tuple[ViewRecipe, ...]:
        return *MOCO_V3, SIMMIM

    def __post_init__(self):
        super().__post_init__()
        if self.cl_weight > 1:
            raise CourseError(f"cl_weight must be at most 1, got {self.cl_weight}")
