"""Recipes: everything that a training run depends on, by objective and scale.

`smoke` takes seconds on two CPU cores, `course` minutes on one GPU, `paper` is the published recipe. Every field is a flag
of `python -m lib.training`; `lib.training.settings` says what each means.
"""
from dataclasses import asdict, fields, replace

from lib.errors import CourseError
from lib.training.settings import (
    DINORecipe,
    HybridRecipe,
    MAERecipe,
    MoCoV3Recipe,
    Recipe,
    SimMIMRecipe,
    SupervisedRecipe,
)

_SMOKE = dict(image_size=32, patch_size=8, model="vit_nano", difficulty="easy", images=4096, epochs=3, batch_size=128,
              warmup_epochs=0.3, knn_every=1)
_COURSE = dict(data="imagenette", image_size=96, patch_size=8, model="vit_tiny")
_PAPER = dict(data="imagenet", image_size=224, stored_size=320, patch_size=16, model="vit_base", compile=True, knn_every=10)

RECIPES: dict[tuple[str, str], Recipe] = {
    # A hundred steps are few: the momentum encoder follows fast, crops are gentle and the patch projection learns too.
    ("mocov3", "smoke"): MoCoV3Recipe(**_SMOKE, learning_rate=5e-3, hidden=128, dim=64, momentum=0.9, crop_min=0.6,
                                      freeze_patches=False),
    ("mocov3", "course"): MoCoV3Recipe(**_COURSE, epochs=400, batch_size=512, learning_rate=1.5e-3, warmup_epochs=40,
                                       weight_decay=0.1, hidden=1024, dim=256, crop_min=0.2),
    # MoCo v3, the official README: batch 4096, lr 1.5e-4 x batch / 256, decay 0.1 on everything.
    ("mocov3", "paper"): MoCoV3Recipe(**_PAPER, epochs=300, batch_size=4096, learning_rate=1.5e-4 * 4096 / 256,
                                      warmup_epochs=40, weight_decay=0.1, decay_all=True),
    # SimMIM's own initial weights are so small that a few hundred steps do not get far from them.
    ("simmim", "smoke"): SimMIMRecipe(**_SMOKE | dict(epochs=8), learning_rate=4e-3, mask_cell=1, clip_norm=5.0, init="xavier"),
    ("simmim", "course"): SimMIMRecipe(**_COURSE, epochs=400, batch_size=512, learning_rate=1e-3, warmup_epochs=20,
                                       clip_norm=5.0, init="xavier"),
    # SimMIM, the official ViT-B configuration: lr 1e-4 x batch / 512, a tenth from epoch 700 of 800 on.
    ("simmim", "paper"): SimMIMRecipe(**_PAPER, epochs=800, batch_size=2048, learning_rate=1e-4 * 2048 / 512,
                                      warmup_epochs=10, warmup_start=5e-7 * 2048 / 512, schedule="step", clip_norm=5.0,
                                      positions="relative", layer_scale=0.1, drop_path=0.1),
    # So few steps need a sharp teacher, a quick centre and clipping, or all answers become uniform.
    ("dino", "smoke"): DINORecipe(**_SMOKE | dict(batch_size=64, epochs=2, warmup_epochs=0.5), learning_rate=5e-3,
                                  clip_norm=0.3, init="xavier", hidden=128, bottleneck=64, prototypes=256,
                                  teacher_temperature=0.02, teacher_temperature_start=0.02, momentum=0.95,
                                  center_momentum=0.5, crop_min=0.6, local_crops=2, local_size=16, local_min=0.3),
    ("dino", "course"): DINORecipe(**_COURSE, epochs=300, batch_size=512, learning_rate=1e-3, warmup_epochs=20,
                                   learning_rate_end=1e-6, weight_decay=0.04, weight_decay_end=0.4, clip_norm=3.0, hidden=1024,
                                   bottleneck=256, prototypes=4096, local_crops=6, local_size=48),
    # DINO, the official ViT-B/16 run, by copies of its arguments: lr 7.5e-4 x batch / 256. Positions, initial weights and
    # clipping are those of vision_transformer.py and utils.py of the official repository.
    ("dino", "paper"): DINORecipe(**_PAPER, epochs=400, batch_size=1024, learning_rate=7.5e-4 * 4, learning_rate_end=2e-6,
                                  warmup_epochs=10, weight_decay=0.04, weight_decay_end=0.4, clip_norm=0.3, clip_each=True,
                                  drop_path=0.1, positions="learned", teacher_temperature=0.07,
                                  teacher_warmup=50 / 400, freeze_last=3 / 400, crop_min=0.25, local_crops=10, bicubic=True),
    ("mae", "smoke"): MAERecipe(**_SMOKE | dict(epochs=8), learning_rate=4e-3, decoder_dim=32, decoder_depth=1,
                                decoder_heads=2),
    ("mae", "course"): MAERecipe(**_COURSE, epochs=600, batch_size=512, learning_rate=1.5e-3, warmup_epochs=40,
                                 decoder_dim=192, decoder_depth=4, decoder_heads=6),
    # MAE, PRETRAIN.md of the official repository, ViT-B: lr 1.5e-4 x batch / 256.
    ("mae", "paper"): MAERecipe(**_PAPER, epochs=800, batch_size=4096, learning_rate=1.5e-4 * 4096 / 256, warmup_epochs=40,
                                bicubic=True),
    ("supervised", "smoke"): SupervisedRecipe(**_SMOKE | dict(epochs=4), learning_rate=5e-3, mixup=0.0, cutmix=0.0,
                                              crop_min=0.6),
    ("supervised", "course"): SupervisedRecipe(**_COURSE, epochs=200, batch_size=512, learning_rate=1e-3, warmup_epochs=10,
                                               drop_path=0.1, crop_min=0.2),
    # DeiT: lr 5e-4 x batch / 512, 5 warm-up epochs from 1e-6, 1e-5 at the end.
    ("supervised", "paper"): SupervisedRecipe(**_PAPER, epochs=300, batch_size=1024, learning_rate=5e-4 * 1024 / 512,
                                              warmup_epochs=5, warmup_start=1e-6, learning_rate_end=1e-5, drop_path=0.1,
                                              positions="learned", init="normal", rand_augment=9.0, jitter=0.0, erase=0.25,
                                              bicubic=True),
    # The hybrid keeps the contrastive settings of MoCo v3, the masked ones of SimMIM, and one optimiser for both.
    ("hybrid", "smoke"): HybridRecipe(**_SMOKE, learning_rate=5e-3, hidden=128, dim=64, momentum=0.9, crop_min=0.6,
                                      mask_cell=1, clip_norm=5.0),
    ("hybrid", "course"): HybridRecipe(**_COURSE, epochs=400, batch_size=512, learning_rate=1.5e-3, warmup_epochs=40,
                                       hidden=1024, dim=256, crop_min=0.2, clip_norm=5.0),
    # Park et al. train 100 epochs with SimMIM's optimiser (indirect: a later record of their appendix A).
    ("hybrid", "paper"): HybridRecipe(**_PAPER, epochs=100, batch_size=1024, learning_rate=1e-4 * 1024 / 512,
                                      warmup_epochs=10, schedule="step", clip_norm=5.0, drop_path=0.1),
}
OBJECTIVES = tuple(dict.fromkeys(objective for objective, _ in RECIPES))
OWN = "own objective"                  # of a recipe that is none of these, for an objective that a user brings
SCALES = ("smoke", "course", "paper")

# What the paper recipes leave out of their papers, or do otherwise, as far as is known. All of them compute in bf16, where
# the papers do in fp16 or fp32.
DEPARTURES = {
    "mocov3": "the table of positions has rows and columns swapped; bf16 for fp16",
    "simmim": "the keys have a bias, which changes no softmax; bf16 for fp16",
    "dino": "CLS and positions are not decayed; the head starts Xavier-uniform, not truncated normal; small crops see "
            "antialiased positions; bf16 for fp16",
    "mae": "q, k and v start as matrices of their own, CLS almost 0 and is not decayed; bf16 for fp16",
    "supervised": "no repeated augmentation; RandAugment takes pixels bilinearly, not bicubically, from where they were; mixup "
                  "and cutmix are drawn for each image, not for a batch; bf16 for fp16",
    "hybrid": "the paper's settings are known from a later record only; what it does not say is MoCo v3's and SimMIM's",
}
DEIT_HEADS = {"vit_tiny": 3, "vit_small": 6}           # of DeiT and DINO, where they are not those of the size
GROWS = {"simmim": ("learning_rate", "warmup_start")}  # in proportion to the batch; of the others the learning rate alone


def recipe(objective: str, scale: str = "smoke", **changes) -> Recipe:
    """A recipe by name, with some fields changed: `recipe("mocov3", "smoke", epochs=1)`. Raises CourseError.

    At scale paper two fields follow the changes, as they do in the papers, unless they are among them: the learning rate is in
    proportion to batch_size, and the small ViTs of DINO and of the supervised control have the heads of DeiT's.
    """
    if (objective, scale) not in RECIPES:
        raise CourseError(f"there is no recipe {objective!r} at scale {scale!r}; objectives are {', '.join(OBJECTIVES)}, "
                          f"scales {', '.join(SCALES)}")
    known = [f.name for f in fields(RECIPES[objective, scale])]
    for name in changes:
        if name not in known:
            raise CourseError(f"a {objective} recipe has no field {name!r}; its fields are {', '.join(known)}")
    r = replace(RECIPES[objective, scale], **changes)
    return replace(r, **followers(objective, r, changes)) if scale == "paper" else r


def followers(objective: str, r: Recipe, changes: dict) -> dict:
    """What follows from the changes that made the recipe r out of a published one, but for what is among them."""
    published, found = RECIPES[objective, "paper"], {}
    if "learning_rate" not in changes and r.batch_size != published.batch_size:
        share = r.batch_size / published.batch_size
        found |= {name: getattr(published, name) * share for name in GROWS.get(objective, ("learning_rate",))}
    if objective in ("dino", "supervised"):
        found["heads"] = DEIT_HEADS.get(r.model, 0)
    return {name: value for name, value in found.items() if name not in changes}


def note_on_rate(r: Recipe, scale: str) -> str:
    """A line for the user of a published recipe whose learning rate has followed the batch size; else nothing."""
    published = RECIPES[objective_of(r), scale]
    rate = published.learning_rate * r.batch_size / published.batch_size
    if scale != "paper" or r.batch_size == published.batch_size or r.learning_rate != rate:
        return ""
    return (f"note: the learning rate follows the batch size: {published.learning_rate:g} at {published.batch_size:,} images a "
            f"step, as published, {rate:g} at {r.batch_size:,}; --learning-rate sets another")


def objective_of(r: Recipe) -> str:
    """The name of a recipe's objective, OWN for one that the course does not have."""
    return next((objective for (objective, _), known in RECIPES.items() if type(known) is type(r)), OWN)


def command(r: Recipe) -> str:
    """The shortest command line that trains a recipe: the nearest scale, and a flag for every field that differs from it."""
    def flag(name: str, value) -> str:
        name = name.replace("_", "-")
        return f"--{name} {value}" if not isinstance(value, bool) else f"--{name}" if value else f"--no-{name}"

    objective, mine = objective_of(r), asdict(r)
    lines = []
    for scale in SCALES:
        changed = {k: mine[k] for k, default in asdict(RECIPES[objective, scale]).items() if mine[k] != default}
        with_followers = asdict(recipe(objective, scale, **changed))
        changed |= {k: mine[k] for k, value in with_followers.items() if mine[k] != value}
        flags = [flag(k, value) for k, value in changed.items()]
        lines.append(" ".join([f"python -m lib.training {objective} --scale {scale}", *flags]))
    return min(lines, key=len)


def describe(r: Recipe) -> dict:
    """A recipe as plain data, for files."""
    objective = objective_of(r)
    return {"objective": objective} | asdict(r) | ({"pooling": r.pooling} if objective == OWN else {})
