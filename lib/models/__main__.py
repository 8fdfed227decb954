"""Official checkpoints from the command line: `python -m lib.models list`, `fetch mocov3-vitb16 simmim-vitb16`."""
from lib import cli
from lib.models import official


def list_checkpoints() -> None:
    """One line for each: its size where it is on the disk, else where it comes from."""
    for name, checkpoint in official.CHECKPOINTS.items():
        path = official.path_of(name)
        here = f"{path.stat().st_size / 1e6:,.0f} MB in {path}" if path.is_file() else f"not here: {checkpoint.address}"
        print(f"{name:20} {here}")


def fetch(names: list[str]) -> None:
    """Download, and show that every weight is in its place."""
    for name in names:
        official.known(name)
    for name in names:
        official.weights(name)
        record = official.check(name)
        print(f"{name} is in {official.path_of(name)}: {record['bytes']:,} bytes, SHA-256 {record['sha256']}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = cli.Parser(prog="python -m lib.models", description="Find and fetch official checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|fetch")
    commands.add_parser("list", help="the known checkpoints and where they are")
    fetching = commands.add_parser("fetch", help="download checkpoints, or check those that are here")
    fetching.add_argument("names", nargs="+", metavar="NAME", help=", ".join(official.CHECKPOINTS))
    given = parser.parse_args(arguments)
    cli.main(list_checkpoints if given.command == "list" else lambda: fetch(given.names))


if __name__ == "__main__":
    main()
