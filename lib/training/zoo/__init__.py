"""What the shipped checkpoints are trained with: a recipe for each objective, world and budget.

`gpu` is the course recipe on one GPU. `cpu` is what a CPU can do in a few hours: the same recipes on a narrow network
(`vit_slim`) of the same depth, small images and few epochs.
"""
from dataclasses import replace

from lib.data import LENGTHS
from lib.data.images import KNOWN
from lib.errors import CourseError
from lib.training.recipes import recipe
from lib.training.settings import Recipe

MODELS = ("supervised", "mocov3", "dino", "simmim", "mae", "hybrid")
# Supervised networks beside the six, for what Raghu et al. 2021 compare: one whose classifier reads the mean of the
# patches (Fig. 11), and some that see a share of the images, as many steps long (Figs. 4, 12 and 13).
SHARES = {"supervised-data3": 0.03, "supervised-data10": 0.1, "supervised-data30": 0.3}
VARIANTS = ("supervised-mean", *SHARES)
# Seeds that ship, so that claims can be put to several trainings: of all networks the first, of these the others too.
# (Those of `lib.training.others` ship under each seed that they are trained with.)
SEEDS = (0, 1, 2)
TRAINED_AGAIN = {"shapes": (*MODELS, "supervised-mean", "supervised-data3", "supervised-data10")}
LAMBDAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)          # of the hybrid's sweep; Park et al. 2023, Fig. 12, has all but .1 and .8
SIZES = {"gpu": ("vit_tiny", "vit_small", "vit_base"), "cpu": ("vit_thin", "vit_slim")}       # of which one ships
WORLDS = {
    "shapes": dict(data="shapes", image_size=64),
    "imagenette": dict(data="imagenette", image_size=96),
}
# The CPU sees some ten thousand images where the GPU sees a million: steps are large, averages follow fast, crops are
# gentle, the world of shapes is the mild one.
_CPU = dict(model="vit_slim", image_size=64, batch_size=128, learning_rate=2e-3, warmup_epochs=0.3, knn_every=0, log_every=20,
            checkpoint_every=40, device="cpu")
_CPU_WORLD = {"shapes": dict(difficulty="mild", images=16_000), "imagenette": dict()}
_CPU_MODEL = {
    "supervised": dict(mixup=0.0, cutmix=0.0, crop_min=0.5, drop_path=0.0),
    "mocov3": dict(momentum=0.95, crop_min=0.5, hidden=512, dim=128, freeze_patches=False),
    "dino": dict(learning_rate=5e-4, momentum=0.98, crop_min=0.5, hidden=256, bottleneck=64, prototypes=256, local_crops=2,
                 local_size=32, local_min=0.2, init="xavier"),
    "simmim": dict(),
    "mae": dict(decoder_dim=64, decoder_depth=2, decoder_heads=4),
    "hybrid": dict(momentum=0.95, crop_min=0.5, hidden=512, dim=128),
}
_CPU_EPOCHS = {
    "shapes": {"supervised": 4, "mocov3": 8, "dino": 8, "simmim": 10, "mae": 16, "hybrid": 8},
    "imagenette": {"supervised": 12, "mocov3": 40, "dino": 6, "simmim": 80, "mae": 40, "hybrid": 24},
}
# Over more epochs crops may be harsher and averages slower.
_CPU_LONG = {
    "imagenette": {
        "mocov3": dict(momentum=0.98, crop_min=0.3, warmup_epochs=2),
        "simmim": dict(warmup_epochs=2),
        "hybrid": dict(momentum=0.98, crop_min=0.3, warmup_epochs=2),
    },
}
_CPU_SWEEP_EPOCHS = 2                                              # a sweep on a CPU is of seven networks for each seed
# Labelled images that fine-tuning gets, None for all: few where the CPU must be done in minutes.
LABELS = {"gpu": {"shapes": 2000, "imagenette": None}, "cpu": {"shapes": 500, "imagenette": 1000}}


def planned(world: str, model: str, budget: str = "gpu", seed: int = 0, cl_weight: float | None = None,
            share: float = 1.0, size: str | None = None) -> Recipe:
    """The recipe of a checkpoint; cl_weight: another λ for the hybrid; share: of its epochs, warm-up included; size: another of
    SIZES, with all else as it is. Raises CourseError for a share of images that is less than a batch."""
    if model in VARIANTS:
        return _variant(model, planned(world, "supervised", budget, seed, share=share))
    changes = WORLDS[world] | dict(seed=seed) | ({} if cl_weight is None else dict(cl_weight=cl_weight))
    if budget == "cpu":
        changes |= _CPU | _CPU_WORLD[world] | _CPU_MODEL[model] | _CPU_LONG.get(world, {}).get(model, {})
        changes |= dict(epochs=_CPU_EPOCHS[world][model])
        changes |= {} if cl_weight is None else dict(epochs=_CPU_SWEEP_EPOCHS)
    r = recipe(model, "course", **changes | ({} if size is None else dict(model=size)))
    epochs = max(1, round(share * r.epochs))
    return replace(r, epochs=epochs, warmup_epochs=r.warmup_epochs * epochs / r.epochs)


def in_order(known: dict[str, dict]) -> dict[str, dict]:
    """A manifest, "world/name" -> entry: a world after the other, in each the first trainings before the further ones."""
    worlds, names = list(WORLDS), [*MODELS, "resnet", "mixer", *VARIANTS]

    def place(key: str) -> tuple:
        world, name = key.split("/")
        name, _, seed = name.partition("-seed")
        return worlds.index(world), bool(seed), names.index(name) if name in names else len(names), int(seed or 0)

    return {key: known[key] for key in sorted(known, key=place)}


def _variant(name: str, r: Recipe) -> Recipe:
    """One of VARIANTS, from the recipe of the supervised network of its world."""
    if name == "supervised-mean":
        return replace(r, pooling="mean")
    whole = r.images or (LENGTHS["train"] if r.data == "shapes" else next(iter(KNOWN[r.data].folders.values()))[0])
    images = round(SHARES[name] * whole)
    if images < r.batch_size:
        raise CourseError(f"{name} of {r.data} has {images} images, a batch has {r.batch_size}; leave it out")
    epochs = max(1, round(r.epochs * (whole // r.batch_size) / (images // r.batch_size)))
    return replace(r, images=images, epochs=epochs, warmup_epochs=r.warmup_epochs * epochs / r.epochs)
