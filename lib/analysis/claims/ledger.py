"""The ledger of all claims: measured by `python -m lib.analysis claims`, kept in data/results/claims.json, shown in the README.

Each claim is written as soon as it is measured, with its own command, commit and date, in the place of what was known of it:
the command may be stopped, and given again for some claims only. `python -m lib.analysis.claims.ledger` puts the summary into
README.md.
"""
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.analysis.claims import CLAIMS, Lab, measured
from lib.analysis.claims.claim import BOTH
from lib.analysis.claims.intervals import apart, over_seeds
from lib.analysis.claims.verdict import INCONCLUSIVE, NOT_HERE, NOT_SUPPORTED, SUPPORTED, reading
from lib.errors import CourseError
from lib.evaluation.report import put_into_readme, write_report

ROOT = Path(__file__).parents[3]
LEDGER = ROOT / "data" / "results" / "claims.json"
ALL = "python -m lib.analysis claims"                              # what measures all of it; each entry has its own command
VERDICTS = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE, NOT_HERE)
NEEDED = {"id", "world", "verdict", "why", "reads", "checks", "seeds", "first", "left_out", "control"}           # of an entry


def chosen(ids: Iterable[str], world: str) -> list[str]:
    """The ids of the claims to measure, all if none is named. Raises CourseError for one that there is not."""
    known = [id for id, claim in CLAIMS.items() if world in claim.worlds]
    strange = [id for id in ids if id not in known]
    if strange or not known:
        raise CourseError(f"there is no claim {strange[0]!r} in world {world!r}; there are {', '.join(known)}" if known else
                          f"no claim is measured in world {world!r}")
    return list(dict.fromkeys(ids)) or known


def measure(ids: list[str], lab: Lab, command: str, path: Path = LEDGER) -> Iterator[dict]:
    """Measure claims one after the other, write each at once, and yield it. What else the file holds stays.

    Raises CourseError where something is missing that a claim was once measured with, or images: what was measured stays.
    """
    for entry in written(path) if path.exists() else []:
        if entry["id"] in ids and entry["world"] == lab.world and entry.get("images", 0) > lab.images:
            raise CourseError(f"{entry['id']} was measured on {entry['images']} images, more than {lab.images}, and {path} "
                              "keeps that; to put this elsewhere give --out")
    for id in ids:
        new = measured(CLAIMS[id], lab) | {"command": command}
        known = {(entry["id"], entry["world"]): entry for entry in (written(path) if path.exists() else [])}
        old = known.get((id, lab.world), {})
        if old.get("checks") and not new["checks"] and CLAIMS[id].measure:
            why = new["why"].removeprefix("not measured yet: ")
            raise CourseError(f"{id} cannot be measured any more: {why}; {path} keeps what it had")
        if lost := set(old.get("seeds", [])) - set(new["seeds"]):
            why = new["left_out"].get(str(min(lost)), "not all of its networks ship")
            raise CourseError(f"{id} cannot be measured any more with seed {min(lost)}: {why}; {path} keeps what it had")
        known[id, lab.world] = new
        order = sorted((key for key in known if key[0] in CLAIMS), key=lambda key: (key[1], list(CLAIMS).index(key[0])))
        seeds = sorted({seed for key in order for seed in known[key]["seeds"]})
        write_report(path, {"claims": [known[key] for key in order]}, command=ALL, seeds=seeds, device="cpu")
        yield new


def written(path: Path = LEDGER) -> list[dict]:
    """What was measured, as `claim.measured` gives it, in the order of CLAIMS. Raises CourseError if there is no ledger."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["claims"]
        whole = all(NEEDED <= set(entry) and all(
            isinstance(those["seeds"], list) and all(len(check["values"]) == len(those["seeds"]) for check in those["checks"])
            for those in (entry, entry["control"] or entry)) for entry in found)
    except FileNotFoundError:
        raise CourseError(f"{path} does not exist; python -m lib.analysis claims writes it") from None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise CourseError(f"{path} is no ledger of this version, or a damaged one; choose another --out, or delete it, "
                          "and python -m lib.analysis claims writes it anew")
    return found


def of_one_training(entry: dict) -> dict:
    """An entry as the first training alone would have it."""
    return entry | (entry["first"] or {})


def of_world(entries: list[dict], world: str) -> dict[str, dict]:
    """{id: entry} of one world."""
    return {entry["id"]: entry for entry in entries if entry["world"] == world}


def counts(entries: list[dict]) -> dict[str, int]:
    """How many claims have which verdict, in the order of VERDICTS."""
    found = Counter(entry["verdict"] for entry in entries)
    return {verdict: found[verdict] for verdict in VERDICTS}


def deciding(entry: dict) -> dict | None:
    """The check that made the verdict, or would have: the first that reads like it, or the first of all; None for none."""
    return next((c for c in entry["checks"] if c["reading"] == entry["reads"]), next(iter(entry["checks"]), None))


def control_reads(entry: dict) -> str:
    """What the checks say with untrained networks, SUPPORTED if those pass all of them; "" where there is no control."""
    return entry["control"]["reads"] if entry["control"] else ""


def gained(entry: dict) -> list[dict]:
    """What training adds to each check: the trained networks less random weights in the place of the first one, or of all.

    -> {"text", "values" one for each seed that both have, "low", "high", "says" "more", "less" or "open"}, in the order of the
    checks; [] without a control, or where it was not measured whole. Over several trainings: the differences of the seeds, and
    Student's interval of their mean (all saw the same images). With one: as if the two were independent, which errs to "open".
    """
    control = entry["control"]
    if not control or control["missing"] or not entry["reads"]:
        return []
    found = []
    for check, random in zip(entry["checks"], control["checks"], strict=True):
        drawn = dict(zip(control["seeds"], random["values"], strict=True))
        values = [value - drawn[seed] for seed, value in zip(entry["seeds"], check["values"], strict=True) if seed in drawn]
        ends = [tuple(c[key] for key in ("value", "low", "high")) for c in (check, random)]
        _, low, high = over_seeds([(v, v, v) for v in values]) if len(values) > 1 else apart(*ends)
        says = {SUPPORTED: "more", NOT_SUPPORTED: "less", INCONCLUSIVE: "open"}[reading(low, high)]
        found.append({"text": check["text"], "values": values, "low": low, "high": high, "says": says})
    return found


def digits(numbers: Iterable[float]) -> int:
    """After the point, for numbers of a size."""
    largest = max(map(abs, numbers))
    return 1 if largest >= 10 else 2 if largest >= 1 else 3


def number(check: dict) -> str:
    """ "+0.137 (+0.133 to +0.140) px", of a check."""
    some = digits((check["low"], check["high"]))
    value, low, high = (f"{check[key]:+.{some}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})" + (f" {check['unit']}" if check["unit"] else "")


def over_trainings(entries: list[dict]) -> str:
    """A table in Markdown: all checks of some claims, with the value of each training, and what they say together with its 95 %
    interval, over trainings and images."""
    seeds = sorted({seed for entry in entries for seed in entry["seeds"]})
    heads = ["check", *(f"seed {seed}" for seed in seeds), "together", "95 % interval"]
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in entries:
        for check in entry["checks"]:
            values = dict(zip(entry["seeds"], check["values"], strict=True))
            unit = f", {check['unit']}" if check["unit"] else ""
            unit += f", above {check['margin']:g}" if check["margin"] else ""
            cells = [f"{values[seed]:+.{digits(values.values())}f}" if seed in values else "" for seed in seeds]
            ends = f"{check['low']:+.{digits(values.values())}f} to {check['high']:+.{digits(values.values())}f}"
            rows.append(f"| {check['text']}{unit} ({entry['id']}) | {' | '.join(cells)} | {check['reading']} | {ends} |")
    return "\n".join(rows) + "\n"


def line(entry: dict) -> str:
    """A claim in one line of a terminal."""
    check = deciding(entry)
    ours = f"{check['text']}: {number(check)}" if check else ""
    why = entry["why"] if entry["verdict"] in (INCONCLUSIVE, NOT_HERE) else ""
    without = [f"without seed {seed}: {lacking}" for seed, lacking in entry["left_out"].items()]
    return f"{entry['id']:<11} {entry['verdict']:<24} {'; '.join(part for part in (ours, why, *without) if part)}"


def judged(entry: dict) -> str:
    """A verdict in Markdown; beside a supported claim, what random weights do to it."""
    if deciding(entry) and entry["verdict"] != entry["reads"]:
        return f"{entry['verdict']} ({entry['why']})"              # the checks speak, but a network is undertrained
    if entry["verdict"] != SUPPORTED:
        return f"**{entry['verdict']}**" if entry["verdict"] == NOT_SUPPORTED else entry["verdict"]
    passes = {SUPPORTED: "untrained too", INCONCLUSIVE: "untrained: open"}.get(control_reads(entry), "")
    says = Counter(check["says"] for check in gained(entry))
    adds = ", ".join(f"{says[word]} {word}" for word in ("more", "less", "open") if says[word])
    notes = "; ".join(part for part in (passes, f"training: {adds}" if adds else "") if part)
    return f"**{entry['verdict']}**" + (f" ({notes})" if notes else "")


def markdown(entries: list[dict]) -> str:
    """The summary for the README: how many claims have which verdict, and a line for each.

    Numbers are those of the world of shapes; where claims were measured on photographs too, their verdicts stand beside.
    """
    shapes, photographs = (of_world(entries, world) for world in BOTH)
    rows, heads = [], ["Claim", "The papers", "Here", "Trainings", "Verdict"] + ["On photographs"] * bool(photographs)
    for found, where in ((shapes, ""), (photographs, " on photographs")):
        if found:
            many = ", ".join(f"{n} {verdict}" for verdict, n in counts(list(found.values())).items())
            rows += [f"{len(found)} claims{where}: {many}.", ""]
    rows += [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for id, entry in shapes.items():
        check = deciding(entry)
        where = f"Fig. {entry['figure']}" if entry["figure"][0].isalnum() and entry["figure"] != "abstract" else "abstract"
        cells = [f"{id}, {where}", entry["statement"], f"{check['text']}: {number(check)}" if check else entry["why"],
                 str(len(entry["seeds"]) or ""), judged(entry),
                 *([judged(photographs[id]) if id in photographs else ""] if photographs else [])]
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    put_into_readme("ledger", markdown(written()))
