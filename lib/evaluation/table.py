"""Tables of results: rebuilt from the shipped checkpoints, or read from data/results for the README.

`python -m lib.evaluation table --world shapes` measures every shipped checkpoint again and says where that differs from what
was written down. `python -m lib.evaluation.table` puts what was written down into README.md.
"""
from pathlib import Path

from lib.data import open_source
from lib.errors import CourseError
from lib.evaluation.report import put_into_readme, read_report
from lib.evaluation.yardsticks import COUNTS, measure
from lib.models import zoo
from lib.training.build import from_description

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "data" / "results"
NAMES = {"supervised": "Supervised", "mocov3": "MoCo v3", "dino": "DINO", "simmim": "SimMIM", "mae": "MAE", "hybrid": "Hybrid",
         "untrained": "Untrained"}
COLUMNS = {"knn": "k-NN", "linear": "linear", "attentive": "attentive", "finetuned": "fine-tuned", "texture": "texture",
           "ground": "ground", "x": "x (R²)", "y": "y (R²)", "miou": "object mIoU"}
MORE = ("finetuned", "depths", "curves", "attentive", "noise", "shape-bias")    # measured of a network in files of their own
TOLERANCE = 0.015          # of a share: half precision, other libraries and processors turn some images of a thousand


def written(world: str, name: str, kind: str = "trained", folder: Path = RESULTS) -> dict:
    """What data/results says of a network of a world: {"knn": {"value", "interval"}, ...}; "attentive", "finetuned" if it was.

    name: a checkpoint that ships, "untrained", or one that was measured only, as "hybrid-0.4" of the sweep over λ. kind:
    "untrained" is its own control, a network of the same kind and pooling. Raises CourseError if there is no such measurement.
    """
    stem, kind = (zoo.names(world)[0], "untrained") if name == "untrained" else (name, kind)
    path = _path(world, stem, folder)
    further = {what: path.with_stem(f"{path.stem}-{what}") for what in ("attentive", "finetuned")}
    return read_report(path, kind)[kind] | {what: read_report(file, kind)[kind][what] for what, file in further.items()
                                            if file.exists()}


def trained_steps(world: str, name: str, folder: Path = RESULTS) -> int:
    """How many steps a measured network was trained for, by its log. Raises CourseError if there is no such measurement."""
    return read_report(_path(world, name, folder), "log")["log"][-1]["step"]


def _path(world: str, name: str, folder: Path) -> Path:
    path = folder / "zoo" / f"{world}-{name}.json"
    if not path.exists():
        known = sorted(p.stem.removeprefix(f"{world}-") for p in path.parent.glob(f"{world}-*.json")
                       if not any(f"-{what}" in p.stem for what in MORE))
        raise CourseError(f"data/results has nothing of {name!r} in world {world!r}; there are {', '.join(known) or 'none'}")
    return path


def measured(world: str, what: str, kind: str = "trained", folder: Path = RESULTS, again: bool = False) -> dict[str, dict]:
    """What a further command found, "noise" or "shape-bias" say, of every shipped network that data/results has it of.

    -> {name: what the command writes under `kind`}, in the manifest's order. kind: "untrained" is each network's own control.
    again: further trainings too, each behind its first.
    Raises CourseError for another measurement, and if there is none of any network.
    """
    if what not in MORE:
        raise CourseError(f"nothing is measured under the name {what!r}; there are {', '.join(MORE)}")
    names = [training for name in zoo.names(world) for training in (zoo.trainings(name, world) if again else [name])]
    paths = {name: folder / "zoo" / f"{world}-{name}-{what}.json" for name in names}
    found = {name: read_report(path, kind)[kind] for name, path in paths.items() if path.exists()}
    if not found:
        raise CourseError(f"data/results has no {what} of any network in world {world!r}; python -m lib.training.zoo --world "
                          f"{world} measures those that ship")
    return found


def remeasure(world: str, name: str, device: str = "cpu") -> dict:
    """The yardsticks of a shipped checkpoint, or of "untrained", measured now."""
    recipe = from_description(zoo.manifest()[f"{world}/{zoo.names(world)[0] if name == 'untrained' else name}"]["recipe"])
    sources = (open_source(recipe.data, split, recipe.image_size, difficulty=recipe.difficulty,
                           limit=COUNTS[split] if recipe.data == "shapes" else None) for split in ("train", "val"))
    return measure(zoo.load(name, world).to(device), *sources, recipe.pooling)


def cell(m: dict) -> str:
    return f"{100 * m['value']:.1f} % ({100 * m['interval'][0]:.1f}–{100 * m['interval'][1]:.1f})"


def as_markdown(found: dict[str, dict]) -> str:
    """A line for each network; all numbers are percentages, with 95 % intervals over images."""
    columns = [c for c in COLUMNS if all(c in m for m in found.values())]
    lines = [f"| | {' | '.join(COLUMNS[c] for c in columns)} |", "|---" * (1 + len(columns)) + "|"]
    return "\n".join([*lines, *(f"| {NAMES.get(name, name)} | {' | '.join(cell(m[c]) for c in columns)} |"
                                for name, m in found.items())]) + "\n"


def rebuild(world: str, device: str = "cpu") -> str:
    """The table of a world, measured now, and a line that says whether it agrees with data/results."""
    found = {name: remeasure(world, name, device) for name in [*zoo.names(world), "untrained"]}
    differ = [f"{name} {column}: {m['value']:.4f} now, {written(world, name)[column]['value']:.4f} in data/results"
              for name, columns in found.items() for column, m in columns.items()
              if abs(m["value"] - written(world, name)[column]["value"]) > TOLERANCE]
    return as_markdown(found) + "\n" + ("agrees with data/results" if not differ else "DIFFERS: " + "; ".join(differ))


# ---------------------------------------------------------------------------------------------------------- the README

def table(folder: Path = RESULTS) -> str:
    """Markdown: the shipped checkpoints of each world, and what is known of the hard one."""
    parts, shipped = [], zoo.manifest() if (zoo.FOLDER / "manifest.json").exists() else {}
    for world in dict.fromkeys(key.split("/")[0] for key in shipped):
        found = {name: written(world, name, folder=folder) for name in [*zoo.names(world), "untrained"]}
        parts.append(f"Checkpoints of world `{world}`:\n\n{as_markdown(found)}")
    hard = folder / "shapes-hard-supervised.json"
    if hard.exists():
        found = read_report(hard)
        trained, untrained = (cell(found[kind]["linear"]) for kind in ("trained", "untrained"))
        parts.append("The `hard` end of the world challenges even who has labels. Trained and measured there, the recipe of\n"
                     f"Supervised ({found['log'][-1]['step']} steps) names {trained} of the shapes by linear probe,\n"
                     f"an untrained network {untrained}.\n")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    put_into_readme("measured", table())
