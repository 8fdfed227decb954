"""Recipes: everything that a training run depends on, by objective and scale.

`smoke` takes seconds on two CPU cores, `course` minutes on one GPU, `paper` is the published recipe. Every field is a flag
of `python -m lib.training`.
"""
from dataclasses import asdict, dataclass, field, fields, replace
from typing import ClassVar

from lib.errors import CourseError
from lib.models import vit


def option(default, text: str, choices: tuple[str, ...] = ()):
    return field(default=default, metadata={"help": text, "choices": choices})


# Bounds beyond "not negative, not infinite", which holds for every number but the seed.
AT_LEAST_1 = ("image_size", "patch_size", "epochs", "batch_size", "log_every", "hidden", "dim", "mask_cell", "bottleneck",
              "prototypes", "local_size", "decoder_dim", "decoder_depth", "decoder_heads")
BELOW_1 = ("drop_path", "beta2", "momentum", "center_momentum", "smoothing")
ABOVE_0 = ("temperature", "student_temperature", "teacher_temperature", "teacher_temperature_start", "crop_min", "local_min",
           "mim_crop_min")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all objectives share. `pooling` is where evaluation finds the representation."""
    pooling: ClassVar[str] = "cls"
    data: str = option("shapes", "shapes, cifar10, imagenette, tiny-imagenet, imagenet, or a folder with train/ and val/")
    difficulty: str = option("medium", "of the world of shapes", ("easy", "medium", "hard"))
    images: int = option(0, "train on N images only, evenly spread over the set; 0 for all (for shapes: 20,000)")
    image_size: int = option(64, "pixels on a side of a view")
    patch_size: int = option(8, "pixels on a side of a patch")
    model: str = option("vit_tiny", "size of the backbone", tuple(vit.SIZES))
    positions: str = option("sincos", "fixed sin-cos embedding, or a shared relative bias", vit.POSITIONS)
    init: str = option("xavier", "initial weights: those of MoCo v3, or truncated normal as SimMIM and DINO", vit.INITS)
    layer_scale: float = option(0.0, "initial layer scale; 0 for none")
    drop_path: float = option(0.0, "rate of stochastic depth in the last block, rising from 0 in the first")
    epochs: int = option(100, "passes over the training images")
    batch_size: int = option(256, "images a step, over all processes")
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
    seed: int = option(0, "of weights, order, views and masks")
    device: str = option("auto", "auto takes a GPU if there is one", ("auto", "cpu", "cuda"))
    precision: str = option("auto", "auto is bf16 on a GPU and fp32 on a CPU; fp64 is for comparing runs to the last digit",
                            ("auto", "fp32", "bf16", "fp64"))
    compile: bool = option(False, "compile the objective with torch.compile")
    log_every: int = option(10, "steps between lines of the log")
    checkpoint_every: int = option(0, "steps between checkpoints; 0 for once an epoch")
    knn_every: int = option(10, "epochs between k-NN evaluations on the validation images; 0 for never")

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type is float and type(value) is int:
                object.__setattr__(self, f.name, float(value))
            elif type(value) is not f.type:
                raise CourseError(f"{f.name} must be {f.type.__name__}, got {value!r}")
            if f.type in (int, float) and f.name != "seed" and not 0 <= value < float("inf"):
                raise CourseError(f"{f.name} must not be negative or infinite, got {value}")
        for name in AT_LEAST_1:
            if getattr(self, name, 1) < 1:
                raise CourseError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in BELOW_1:
            if not 0 <= getattr(self, name, 0) < 1:
                raise CourseError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        for name in ABOVE_0:
            if not 0 < getattr(self, name, 1):
                raise CourseError(f"{name} must be greater than 0, got {getattr(self, name)}")
        if abs(self.seed) >= 2**63:
            raise CourseError(f"seed must fit into 64 bits, got {self.seed}")
        for f in fields(self):
            if f.metadata["choices"] and getattr(self, f.name) not in f.metadata["choices"]:
                raise CourseError(f"{f.name} must be one of {', '.join(f.metadata['choices'])}, got {getattr(self, f.name)!r}")

    def backbone(self, mask_token: bool = False) -> vit.ViT:
        """A backbone with its initial weights, drawn from PyTorch's random state."""
        network = vit.create(self.model, image_size=self.image_size, patch_size=self.patch_size, positions=self.positions,
                             layer_scale=self.layer_scale or None, drop_path=self.drop_path, mask_token=mask_token)
        return vit.init_xavier(network) if self.init == "xavier" else vit.init_truncated(network)


@dataclass(frozen=True, kw_only=True)
class MoCoV3Recipe(Recipe):
    """MoCo v3 (Chen, Xie and He 2021). Field defaults are those of the paper where the scale does not change them."""
    hidden: int = option(4096, "width of the hidden layers of projector and predictor")
    dim: int = option(256, "width of the space in which views are compared")
    temperature: float = option(0.2, "of the softmax over keys")
    momentum: float = option(0.99, "of the momentum encoder at the first step; it rises to 1")
    freeze_patches: bool = option(True, "keep the patch projection at its random start")
    crop_min: float = option(0.08, "smallest area of a crop, as a share of the image")

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size < 2:
            raise CourseError("contrastive learning tells the images of a batch apart: batch_size must be at least 2, got 1")


@dataclass(frozen=True, kw_only=True)
class SimMIMRecipe(Recipe):
    """SimMIM (Xie et al. 2022)."""
    pooling: ClassVar[str] = "mean"
    init: str = option("truncated", "initial weights: those of MoCo v3, or truncated normal as SimMIM and DINO", vit.INITS)
    mask_ratio: float = option(0.6, "share of the cells that are masked")
    mask_cell: int = option(2, "patches on a side of a mask cell")
    crop_min: float = option(0.67, "smallest area of a crop, as a share of the image")


_SMOKE = dict(image_size=32, patch_size=8, model="vit_nano", difficulty="easy", images=4096, epochs=3, batch_size=128,
              warmup_epochs=0.3, knn_every=1)
_COURSE = dict(data="imagenette", image_size=96, patch_size=8, model="vit_tiny")
_PAPER = dict(data="imagenet", image_size=224, patch_size=16, model="vit_base", compile=True, knn_every=10)

RECIPES: dict[tuple[str, str], Recipe] = {
    # A hundred steps are few: the momentum encoder follows fast, crops are gentle and the patch projection learns too.
    ("mocov3", "smoke"): MoCoV3Recipe(**_SMOKE, learning_rate=5e-3, hidden=128, dim=64, momentum=0.9, crop_min=0.6,
                                      freeze_patches=False),
    ("mocov3", "course"): MoCoV3Recipe(**_COURSE, epochs=400, batch_size=512, learning_rate=1.5e-3, warmup_epochs=40,
                                       weight_decay=0.1, hidden=1024, dim=256, crop_min=0.2),
    # MoCo v3, the official README: batch 4096, lr 1.5e-4 x batch / 256, decay 0.1 on everything.
    ("mocov3", "paper"): MoCoV3Recipe(**_PAPER, epochs=300, batch_size=4096, learning_rate=1.5e-4 * 4096 / 256,
                                      warmup_epochs=40, weight_decay=0.1, decay_all=True),
    ("simmim", "smoke"): SimMIMRecipe(**_SMOKE | dict(epochs=8), learning_rate=4e-3, mask_cell=1, clip_norm=5.0),
    ("simmim", "course"): SimMIMRecipe(**_COURSE, epochs=400, batch_size=512, learning_rate=1e-3, warmup_epochs=20,
                                       clip_norm=5.0),
    # SimMIM, the official ViT-B configuration: lr 1e-4 x batch / 512, a tenth from epoch 700 of 800 on.
    ("simmim", "paper"): SimMIMRecipe(**_PAPER, epochs=800, batch_size=2048, learning_rate=1e-4 * 2048 / 512,
                                      warmup_epochs=10, warmup_start=5e-7 * 2048 / 512, schedule="step", clip_norm=5.0,
                                      positions="relative", layer_scale=0.1, drop_path=0.1),
}
OBJECTIVES = tuple(dict.fromkeys(objective for objective, _ in RECIPES))
SCALES = ("smoke", "course", "paper")


def recipe(objective: str, scale: str = "smoke", **changes) -> Recipe:
    """A recipe by name, with some fields changed: `recipe("mocov3", "smoke", epochs=1)`. Raises CourseError."""
    if (objective, scale) not in RECIPES:
        raise CourseError(f"there is no recipe {objective!r} at scale {scale!r}; objectives are {', '.join(OBJECTIVES)}, "
                          f"scales {', '.join(SCALES)}")
    known = [f.name for f in fields(RECIPES[objective, scale])]
    for name in changes:
        if name not in known:
            raise CourseError(f"a {objective} recipe has no field {name!r}; its fields are {', '.join(known)}")
    return replace(RECIPES[objective, scale], **changes)


def objective_of(r: Recipe) -> str:
    """The name of a recipe's objective."""
    return next(objective for (objective, _), known in RECIPES.items() if type(known) is type(r))


def command(r: Recipe) -> str:
    """The shortest command line that trains a recipe: the nearest scale, and a flag for every field that differs from it."""
    def flag(name: str, value) -> str:
        name = name.replace("_", "-")
        return f"--{name} {value}" if not isinstance(value, bool) else f"--{name}" if value else f"--no-{name}"

    objective, mine = objective_of(r), asdict(r)
    lines = []
    for scale in SCALES:
        changed = [flag(k, mine[k]) for k, default in asdict(RECIPES[objective, scale]).items() if mine[k] != default]
        lines.append(" ".join([f"python -m lib.training {objective} --scale {scale}", *changed]))
    return min(lines, key=len)


def describe(r: Recipe) -> dict:
    """A recipe as plain data, for files."""
    return {"objective": objective_of(r)} | asdict(r)
