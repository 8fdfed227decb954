"""The script for a SLURM cluster, with stand-ins for srun, scontrol and python that write down how they were called."""
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "lib" / "training" / "slurm.sh"
STANDINS = {
    "srun": 'SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_NTASKS=4 exec "$@"',
    "scontrol": 'echo "scontrol $*" >> calls.txt; if [ "$1" = show ]; then echo node7; echo node8; fi',
    "python": 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $*" >> calls.txt; exit $STATUS',
}


@pytest.fixture
def submit(tmp_path):
    """submit(status of python, arguments) -> the script's own status, and the calls it made."""
    for name, body in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(status: int, *arguments: str) -> tuple[int, list[str]]:
        calls = tmp_path / "calls.txt"
        calls.unlink(missing_ok=True)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[7-8]",
                       "STATUS": str(status)}
        done = subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, env=environment, timeout=60, capture_output=True)
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    run.folder = tmp_path
    return run


def test_a_job_that_was_stopped_goes_back_into_the_queue(submit):
    status, calls = submit(os.EX_TEMPFAIL, "mae", "--out", "a run", "--epochs", "3")
    assert status == os.EX_TEMPFAIL and calls[-1] == "scontrol requeue 4711"
    assert calls[1] == "3 1 4 node7 -m lib.training mae --out a run --epochs 3"


@pytest.mark.parametrize("status", [0, 2, 1])
def test_a_job_that_ended_or_failed_does_not(submit, status):
    done, calls = submit(status, "mae", "--out", "run")
    assert done == status and not [call for call in calls if "requeue" in call]


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_job_that_comes_back_resumes(submit, name):
    (submit.folder / "run").mkdir()
    (submit.folder / "run" / name).touch()
    assert submit(0, "mae", "--out", "run")[1][1].endswith("mae --out run --resume")


def test_without_a_folder_it_says_so(submit):
    assert submit(0, "mae") == (2, [])


def test_its_first_lines_ask_for_a_warning_and_to_come_back():
    asked = [line.split(maxsplit=1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append"} <= set(asked)
