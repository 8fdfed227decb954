"""The README's table of results, made from data/results: `python -m lib.evaluation.table` writes it into README.md."""
import json
from pathlib import Path

from lib.training.checkpoint import write_atomically

ROOT = Path(__file__).parents[2]
START, END = "<!-- measured -->\n", "<!-- end of measured -->"
NAMES = {"mocov3": "MoCo v3", "simmim": "SimMIM"}


def table(folder: Path = ROOT / "data" / "results") -> str:
    """Markdown: a line for each imagenette-*.json, trained beside untrained."""
    lines = ["| | images seen | minutes | k-NN | k-NN, untrained | linear | linear, untrained |",
             "|---|---|---|---|---|---|---|"]
    for path in sorted(folder.glob("imagenette-*.json")):
        result = json.loads(path.read_text())
        recipe = result["recipe"]
        cells = [f"{100 * m['accuracy']:.1f} % ({100 * m['interval'][0]:.1f}–{100 * m['interval'][1]:.1f})"
                 for probe in ("knn", "linear") for m in (result["trained"][probe], result["untrained"][probe])]
        seen = max(line["step"] for line in result["log"]) * recipe["batch_size"]
        cells = [f"{NAMES[recipe['objective']]}, {recipe['epochs']} epochs", f"{seen:,}",
                 f"{result['training']['minutes']:.0f}", *cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def put(readme: str, rows: str) -> str:
    """README text with the table between its two marks."""
    before, rest = readme.split(START)
    return before + START + "\n" + rows + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = put(path.read_text(), table())
    write_atomically(path, lambda temporary: temporary.write_text(text))
