"""Look inside a network: `python -m lib.analysis curves shapes/mocov3 --out x.json`; or test what papers say: `... claims`.

A network is a run's folder, a checkpoint that ships ("shapes/mocov3"), an official one ("official:mocov3-vitb16") or "timm:"
and a name. It is measured beside an untrained one of its kind, the negative control.
"""
from lib import cli

if __name__ == "__main__":                                         # now, since the imports below take seconds
    cli.end_early("stopped; the same command begins again, and claims that were measured are kept")

import shlex
import sys
from pathlib import Path

from lib.analysis.claims import Lab, ledger
from lib.analysis.curves import curves
from lib.data import open_source
from lib.data.shapes import DIFFICULTIES
from lib.errors import CourseError
from lib.evaluation.load import open_subject
from lib.evaluation.report import check_out, write_report
from lib.training.trainer import pick_device


def write_curves(arguments: list[str]) -> None:
    parser = cli.Parser(prog="python -m lib.analysis curves", description="Attention, tokens and frequencies at every depth.")
    parser.add_argument("network", help="a run's folder, a shipped one (shapes/mocov3), official:NAME or timm:NAME")
    parser.add_argument("--data", help="a set or folder; that of the training if left out")
    parser.add_argument("--difficulty", choices=tuple(DIFFICULTIES), help="of shapes, if not that of the training")
    parser.add_argument("--images", type=int, default=500, help="of the validation split, evenly spread over the set")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run")
    parser.add_argument("--out", help="a JSON file to write")
    a = parser.parse_args(arguments)
    a.out = a.out and str(Path(a.out).expanduser())                # as a shell would read --out=~/x.json
    check_out(a.out, "lib.analysis curves")
    subject, device = open_subject(a.network), pick_device(a.device)
    data, difficulty = a.data or subject.data, a.difficulty or subject.difficulty
    if data is None:
        raise CourseError("--data is needed: nothing says what this network is to be shown")
    source = open_source(data, "val", subject.size, limit=a.images, difficulty=difficulty)
    result = {"network": a.network, "recipe": subject.recipe, "data": data, "images": len(source)}
    for kind in ("trained", "untrained"):
        result[kind] = curves(getattr(subject, "backbone" if kind == "trained" else kind).to(device), source)
        for name, found in result[kind].items():
            print(f"{kind:>9} {name:>20}: {' '.join(f'{value:.3g}' for value in found['value'])}", flush=True)
    if a.out:
        write_report(a.out, result, command=f"python -m lib.analysis {shlex.join(sys.argv[1:])}", seeds=[], device=device)


def write_claims(arguments: list[str]) -> None:
    parser = cli.Parser(prog="python -m lib.analysis claims", description="Measure the claims of the papers: a line for each.")
    parser.add_argument("--world", default="shapes", help="whose networks")
    parser.add_argument("--id", nargs="+", default=[], metavar="ID", help="these only, such as park-2; all if left out")
    parser.add_argument("--images", type=int, default=256, help="of the validation split, at least 64")
    parser.add_argument("--out", default=str(ledger.LEDGER), help="a JSON file to write; what else it holds stays")
    a = parser.parse_args(arguments)
    a.out = str(Path(a.out).expanduser()) if a.out else a.out
    check_out(a.out, "lib.analysis claims")
    if Path(a.out).exists():
        ledger.written(Path(a.out))                                # told before the work, not after it
    lab, words = Lab(a.world, a.images), f"python -m lib.analysis {shlex.join(sys.argv[1:])}"
    for entry in ledger.measure(ledger.chosen(a.id, a.world), lab, words, Path(a.out)):
        print(ledger.line(entry), flush=True)
    print(f"written to {a.out}")


def main() -> None:
    arguments = sys.argv[1:]
    if arguments[:1] == ["curves"]:
        return write_curves(arguments[1:])
    if arguments[:1] == ["claims"]:
        return write_claims(arguments[1:])
    if not arguments or arguments[:1] in (["-h"], ["--help"]):
        return print(__doc__ + "\n  curves   attention, tokens and frequencies at every depth"
                     "\n  claims   every claim of the papers, measured, with a verdict\n\n"
                     "Each has a --help of its own: python -m lib.analysis curves --help")
    raise CourseError(f"there is no {arguments[0]!r}; choose curves or claims")


if __name__ == "__main__":
    cli.main(main)
