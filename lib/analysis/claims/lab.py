"""What the claims are measured with: networks, images, and what was found out about them already, each computed once."""
import copy
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from lib.analysis.claims.intervals import Interval, of
from lib.analysis.claims.verdict import NotMeasured, shortfall
from lib.analysis.recording import PerImage, record
from lib.analysis.similarity import Representations, centered, minibatches
from lib.data import Loaded, open_source
from lib.data.views import normalize
from lib.errors import CourseError
from lib.evaluation.features import extract, extract_depths
from lib.evaluation.few_shot import few_shot_probe
from lib.evaluation.finetune import RECIPES, finetune
from lib.evaluation.linear import fit, linear_probe
from lib.evaluation.report import read_report
from lib.evaluation.table import NAMES, RESULTS, written
from lib.models import others, zoo
from lib.training.build import from_description
from lib.training.zoo import SHARES, SIZES

SEEDS = range(1, 10)                  # of training besides 0, where such ship
BATCH = 32                            # images in a minibatch of CKA, as in Shekhar et al.


def label(name: str) -> str:
    shares = {name: f"{100 * share:g} % of the images" for name, share in SHARES.items()}
    beside = {"resnet": "ResNet", "mixer": "Mixer", "supervised-mean": "pooled ViT"}
    beside |= {f"untrained-{name}": f"untrained {words}" for name, words in beside.items()}
    return (NAMES | shares | beside).get(name, name)


class Images(Loaded):
    """Some images of a source that is in memory, with labels of one's own where they are given."""

    def __init__(self, source: Loaded, kept: Tensor, labels: Tensor | None = None):
        self.name, self.split, self.size, self.classes = source.name, source.split, source.size, source.classes
        self.all_images = source.all_images[kept]
        self.all_labels = (source.all_labels if labels is None else labels)[kept]


class Lab:
    """A world's networks on its validation images. Nothing is computed before it is asked for, and nothing twice.

    Its networks are those of the first training, seed 0; `again` gives another's, and random weights drawn with its seed.
    Raises CourseError for a world without networks, and for fewer than 64 images.
    """

    def __init__(self, world: str = "shapes", images: int = 256, results: Path = RESULTS):
        if images < 64:
            raise CourseError(f"{images} images; intervals want at least 64 images")
        self.world, self.images, self.results, self.seed = world, images, results, 0
        self.shipped = zoo.names(world)
        self.kept = {}

    def again(self, seed: int) -> "Lab":
        """The same images before networks of the same names that were trained with another seed."""
        return self if seed == self.seed else self.once(("lab", seed), lambda: self._again(seed))

    def _again(self, seed: int) -> "Lab":
        other = copy.copy(self)
        other.seed, other.kept = seed, {key: found for key, found in self.kept.items() if key[0] == "source"}
        return other

    def seeds(self, names: tuple[str, ...]) -> list[int]:
        """Further seeds of which all these networks ship, one of them at least trained."""
        known, trained = zoo.manifest() | zoo.others(), [name for name in names if not name.startswith("untrained")]
        return [seed for seed in SEEDS if trained
                and all(f"{self.world}/{self.again(seed).of_seed(name)}" in known for name in trained)]

    def of_seed(self, name: str) -> str:
        """What a network is called where further seeds have names of their own. "untrained" is one for all seeds, whose weights
        are drawn with each."""
        return f"{name}-seed{self.seed}" if self.seed and name != "untrained" else name

    def once(self, key: tuple, make):
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    # ----------------------------------------------------------------------------------------- networks and images

    def recipe(self, name: str):
        return from_description(zoo.manifest()[f"{self.world}/{name if name in self.shipped else self.shipped[0]}"]["recipe"])

    def network(self, name: str) -> nn.Module:
        """A shipped one, "untrained", a ViT, or "untrained-resnet" and the like, of those that are no ViTs.

        Raises NotMeasured where none ships, and CourseError where one is damaged.
        """
        known, shipped = zoo.manifest() | zoo.others(), self.of_seed(name).removeprefix("untrained-")
        if shipped != "untrained" and f"{self.world}/{shipped}" not in known:
            raise NotMeasured(f"no checkpoint {shipped!r} ships for world {self.world!r}")
        if name.startswith("untrained-"):
            model = known[f"{self.world}/{shipped}"]["model"]["name"]
            return self.once(("network", name), lambda: others.untrained(model, self.source().all_images, self.seed))
        if name == "untrained":
            return self.once(("network", name), lambda: zoo.untrained(self.world, self.seed))
        return self.once(("network", name), lambda: zoo.load(shipped, self.world).eval())

    def source(self, split: str = "val", images: int | None = None) -> Loaded:
        n, r = images or self.images, self.recipe(self.shipped[0])
        return self.once(("source", split, n), lambda: Loaded(open_source(r.data, split, r.image_size, n, r.difficulty)))

    def undertrained(self, names: tuple[str, ...]) -> dict[str, str]:
        """{name: how it falls short} of those that do; see `verdict.shortfall`. Controls are meant to be untrained."""
        found = {}
        for name in names:
            path = self.results / "zoo" / f"{self.world}-{self.of_seed(name)}.json"
            if name != "untrained" and path.exists():
                result = read_report(path, "recipe", "trained", "untrained")
                if why := shortfall(result["recipe"], result["trained"], result["untrained"]):
                    found[name] = why
        return found

    # ----------------------------------------------------------------------------------------- what is found out live

    def recorded(self, name: str, metric: type[PerImage]) -> dict[str, Tensor]:
        """A metric of `record` on the validation images: the same images, in the same order, for every network."""
        return self.once((metric, name), lambda: record(self.network(name), self.source(), [metric()]))

    def layers(self, name: str, tuned: bool = False) -> tuple[list[str], Tensor]:
        """Names of all layers, and their centred Gram matrices by minibatch: (minibatches, L, BATCH^2) float64."""
        return self.once(("layers", name, tuned), lambda: self._layers(name, tuned))

    def _layers(self, name: str, tuned: bool) -> tuple[list[str], Tensor]:
        network = self.tuned(name) if tuned else self.network(name)
        modules = None if isinstance(network, VisionTransformer) else others.layers(network)
        shown = Representations(network, self.source(images=2 * self.images), modules)
        return list(shown.grams(torch.arange(4))), gram_rows(shown)

    def probe(self, name: str, train: int = 1000, val: int = 500) -> Tensor:
        """Scores of a linear probe of the classes: (val, classes)."""
        return self.once(("probe", name), lambda: self._probe(name, train, val))

    def _probe(self, name: str, train: int, val: int) -> Tensor:
        pooling = self.recipe(name).pooling
        (x, labels), (queries, _) = (extract(self.network(name), self.source(split, n), pooling)
                                     for split, n in (("train", train), ("val", val)))
        _, weight_decay = linear_probe(x, labels, queries)
        mean, std = x.mean(0), x.std(0) + 1e-6
        weights = fit((x - mean) / std, labels, int(labels.max()) + 1, weight_decay)
        return ((queries - mean) / std) @ weights[:-1] + weights[-1]

    def tokens_right(self, name: str, depth: int = 12) -> Tensor:
        """Is a probe of one token right, with ten labels a class? After a block of a ViT, or at the end of a ResNet.

        -> (1 + tokens, images) bool: first a probe of the mean of the patches, or places, then one of each alone.
        """
        return self.once(("tokens", name, depth), lambda: self._tokens_right(name, depth))

    def _tokens_right(self, name: str, depth: int) -> Tensor:
        network, found = self.network(name), []
        for source in (self.source("train", 500), self.source()):
            tokens = extract_depths(network, source, (depth,), "tokens")[0][depth][:, 1:] if hasattr(network, "blocks") else \
                last_stage(network, source)                        # (images, tokens, D)
            found.append(torch.cat([tokens.mean(1, keepdim=True), tokens], 1).transpose(0, 1))
        labels, truth = (s.labels(torch.arange(len(s))) for s in (self.source("train", 500), self.source()))
        return few_shot_probe(found[0], labels, found[1])[0] == truth

    def tuned(self, name: str, labels: int = 500, epochs: int = 6) -> nn.Module:
        """The network fine-tuned on some labelled images: about a minute of a core."""
        return self.once(("tuned", name), lambda: self._tuned(name, labels, epochs))

    def _tuned(self, name: str, labels: int, epochs: int) -> nn.Module:
        r = replace(RECIPES["course"], epochs=epochs)
        return finetune(self.network(name), self.source("train", labels), self.source(images=64), r, self.recipe(name).pooling,
                        device="cpu").network

    # ----------------------------------------------------------------------------------------- what was written down

    def sizes(self, *names: str) -> list[tuple[str, tuple[str, ...]]]:
        """(size, names of the networks of that size) where data/results has them all, the smallest first."""
        usual = self.recipe(self.shipped[0]).model
        sizes = next(sizes for sizes in SIZES.values() if usual in sizes)
        found = [(size, tuple(n if size == usual else f"{n}-{size}" for n in names)) for size in sizes]
        return [(size, those) for size, those in found if all(self.file(n)[0].exists() for n in those)]

    def file(self, name: str, kind: str = "") -> tuple[Path, str]:
        """Where data/results has a network, and under which key: "untrained-x" is the control that was measured beside x, and
        "untrained" that of the first network with such a file."""
        folder, control = self.results / "zoo", name.startswith("untrained")
        names = self.shipped if name == "untrained" else [name.removeprefix("untrained-")]
        paths = [folder / f"{self.world}-{self.of_seed(n)}{kind}.json" for n in names]
        return next((path for path in paths if path.exists()), paths[0]), "untrained" if control else "trained"

    def score(self, name: str, yardstick: str) -> Interval:
        """A yardstick of `lib.evaluation.table.written`, such as "linear" or "finetuned". Raises NotMeasured."""
        path, kind = self.file(name)
        try:
            found = written(self.world, path.stem.removeprefix(f"{self.world}-"), kind, self.results)
        except CourseError as error:
            raise NotMeasured(str(error).split(";")[0]) from None
        if yardstick not in found:
            raise NotMeasured(f"data/results has no {yardstick!r} of {name!r}")
        return of(found[yardstick])

    def report(self, name: str, kind: str) -> dict:
        """What a command wrote: kind "depths", "curves", "noise" or "shape-bias". Raises NotMeasured where it did not."""
        path, key = self.file(name, f"-{kind}")
        if not path.exists():
            raise NotMeasured(f"data/results/zoo has no {path.name}")
        return read_report(path, key)[key]

    def curve(self, name: str, quantity: str) -> dict[int, Interval]:
        """{depth: interval} of one of `lib.analysis.curves.CURVES`."""
        c = self.report(name, "curves")[quantity]
        return dict(zip(c["depth"], zip(c["value"], c["low"], c["high"], strict=True), strict=True))

    def depths(self, name: str, pooling: str, probe: str) -> dict[int, Interval]:
        """{depth: interval} of a probe, "knn" or "linear", on "cls" or "mean" features."""
        found = self.report(name, "depths")
        return dict(zip(found["depth"], map(of, found[pooling][probe]), strict=True))


@torch.no_grad()
def last_stage(network: nn.Module, source: Loaded) -> Tensor:
    """What a ResNet holds at each place before it pools: (images, places, D)."""
    parts = [network.forward_features(normalize(source.images(some))) for some in torch.arange(len(source)).split(64)]
    return torch.cat(parts).flatten(2).mT


def gram_rows(shown: Representations, names: tuple[str, ...] = ()) -> Tensor:
    """Centred Gram matrices of all parts, or of those named, by minibatch: (minibatches, L, BATCH^2) float64."""
    rows = []
    for batch in minibatches(len(shown.source), None, BATCH, seed=0):
        grams = shown.grams(batch)
        rows.append(torch.stack([centered(gram).flatten() for name, gram in grams.items() if not names or name in names]))
    return torch.stack(rows)


def cka(first: Tensor, second: Tensor) -> Tensor:
    """CKA of layers in pairs, from `gram_rows`: (minibatches, ..., BATCH^2) twice -> (...), a ratio of sums."""
    cross, own, other = ((a * b).sum(-1).sum(0) for a, b in ((first, second), (first, first), (second, second)))
    return cross / (own * other).sqrt()
