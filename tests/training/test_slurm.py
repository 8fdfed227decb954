"""The script for a SLURM cluster, with stand-ins for srun, scontrol and python that write down how they were called."""
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "lib" / "training" / "slurm.sh"
STANDINS = {
    "srun": """while [[ $1 == --* ]]; do echo "srun $1" >> calls.txt; shift; done         # two processes, as srun would end
        trap : TERM; worst=0
        for rank in 0 1; do
            SLURM_PROCID=$rank SLURM_LOCALID=1 SLURM_NTASKS=2 "$@"; code=$?
            if [ $code -gt $worst ]; then worst=$code; fi
        done
        exit $worst""",
    "scontrol": 'echo "scontrol $*" >> calls.txt; if [ "$1" = show ]; then echo node7; echo node8; fi',
    "squeue": 'echo "squeue $2" >> calls.txt; echo $STATE',
    "python": """echo "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $*" >> calls.txt
        trap : TERM; if [ "$SIGNALLED" ]; then kill -TERM 0; fi               # to the whole process group, as SLURM does
        set -- $STATUS; if [ $RANK = 1 ] && [ "$2" ]; then exit $2; fi; exit $1""",
}


@pytest.fixture
def submit(tmp_path):
    """submit(status of python, or of each process, arguments) -> the script's own status, and the calls it made."""
    for name, body in STANDINS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(status: int | str, *arguments: str, state: str = "RUNNING", **more: str) -> tuple[int, list[str]]:
        calls = tmp_path / "calls.txt"
        calls.unlink(missing_ok=True)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node[7-8]",
                       "STATUS": str(status), "STATE": state, "HOME": str(tmp_path / "home")} | more
        done = subprocess.run(["bash", SCRIPT, *arguments], cwd=tmp_path, env=environment, timeout=60, capture_output=True,
                              start_new_session=True)
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    run.folder = tmp_path
    return run


def test_a_job_that_was_stopped_goes_back_into_the_queue(submit):
    status, calls = submit(os.EX_TEMPFAIL, "mae", "--out", "a run", "--epochs", "3")
    assert status == os.EX_TEMPFAIL and calls[-1] == "scontrol requeue 4711"
    assert "1 1 2 node7 -m lib.training mae --out a run --epochs 3" in calls
    assert not list((submit.folder / "a run").iterdir())           # the next start finds no mark of this one


def test_one_process_that_ends_does_not_have_the_others_killed_by_srun(submit):
    """srun ends all when one status is not 0, and its own is the highest: a stopped process must give it 0."""
    (submit.folder / "srun").write_text((submit.folder / "srun").read_text().replace("worst=$code", "exit 137"))
    assert submit(os.EX_TEMPFAIL, "mae", "--out", "run")[1][-1] == "scontrol requeue 4711"
    assert submit("75 2", "mae", "--out", "run")[0] == 137


def test_sigterm_to_every_process_leaves_the_shells_alive(submit):
    status, calls = submit(os.EX_TEMPFAIL, "mae", "--out", "run", SIGNALLED="yes")
    assert status == os.EX_TEMPFAIL and calls[-1] == "scontrol requeue 4711"


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED", ""])
def test_a_job_that_was_cancelled_or_is_put_back_by_slurm_is_left_alone(submit, state):
    status, calls = submit(os.EX_TEMPFAIL, "mae", "--out", "run", state=state)
    assert status == os.EX_TEMPFAIL and not [call for call in calls if "requeue" in call]


@pytest.mark.parametrize("status", ["75 2", "2 75"])
def test_a_job_in_which_one_process_failed_does_not_come_back(submit, status):
    done, calls = submit(status, "mae", "--out", "run")
    assert done == 2 and not [call for call in calls if "requeue" in call]
    assert submit(0, "mae", "--out", "run")[0] == 0                # and its mark is not taken for one of this start


def test_srun_gives_each_process_its_cores_and_ends_all_when_one_fails(submit):
    assert {"srun --kill-on-bad-exit=1", "srun --cpus-per-task=6"} <= \
        set(submit(0, "mae", "--out", "run", SLURM_CPUS_PER_TASK="6")[1])
    assert not [call for call in submit(0, "mae", "--out", "run")[1] if "cpus" in call]


@pytest.mark.parametrize("status", [0, 2, 1])
def test_a_job_that_ended_or_failed_does_not(submit, status):
    done, calls = submit(status, "mae", "--out", "run")
    assert done == status and not [call for call in calls if "requeue" in call]


@pytest.mark.parametrize("name", ["last.pt", "previous.pt"])
def test_a_job_that_comes_back_resumes(submit, name):
    for folder in ("run", "home/run"):
        (submit.folder / folder).mkdir(parents=True)
        (submit.folder / folder / name).touch()
    for given in (["--out", "run"], ["--out=run"], ["--out=~/run"], ["--out", "other", "--out=run"]):
        assert submit(0, "mae", *given)[1][-1].endswith(f"mae {' '.join(given)} --resume")
    assert not submit(0, "mae", "--out=run", "--out", "other")[1][-1].endswith("--resume")      # the last one counts


@pytest.mark.parametrize("name", ["frozen", "attentive", "finetune", "depths"])
def test_an_evaluation_is_started_and_comes_back_with_the_same_words(submit, name):
    """Its --out is a file; what it has done it finds in --keep by itself."""
    words = [name, "runs/x", "--keep", "runs/x", "--out", "results/x.json"]
    (submit.folder / "runs/x").mkdir(parents=True)
    (submit.folder / "runs/x/last.pt").touch()
    for _ in range(2):
        status, calls = submit(os.EX_TEMPFAIL, *words)
        assert status == os.EX_TEMPFAIL and calls[-1] == "scontrol requeue 4711"
        assert f"0 1 2 node7 -m lib.evaluation {' '.join(words)}" in calls
    assert not list((submit.folder / "results").iterdir())
    assert submit(0, *words[:-1], "here.json")[0] == 0


def test_an_evaluation_that_failed_because_a_process_was_stopped_before_it_comes_back(submit):
    """They end one by one: the other may find its partner gone. A training's processes agree beforehand."""
    words = ["finetune", "runs/x", "--keep", "runs/x", "--out", "x.json"]
    status, calls = submit("75 1", *words)
    assert status == os.EX_TEMPFAIL and calls[-1] == "scontrol requeue 4711" and "srun --wait=60" in calls
    assert submit("1 1", *words)[0] == 1 and not [call for call in submit("1 1", *words)[1] if "requeue" in call]
    assert not [call for call in submit(0, "mae", "--out", "run")[1] if "--wait" in call]


def test_an_evaluation_that_keeps_nothing_does_not_begin_anew_for_ever(submit):
    words = ["finetune", "runs/x", "--out", "x.json"]
    for count, comes_back in (("0", True), ("2", True), ("3", False)):
        status, calls = submit(75, *words, SLURM_RESTART_COUNT=count)
        assert status == os.EX_TEMPFAIL and ("scontrol requeue 4711" in calls) == comes_back
    for kept in (["--keep", "k"], ["--keep=k"]):
        assert "scontrol requeue 4711" in submit(75, *words, *kept, SLURM_RESTART_COUNT="9")[1]


def test_of_an_array_one_task_is_put_back(submit):
    """The number of the array is also that of one of its tasks: asked for by it, squeue answers for all of them."""
    task = dict(SLURM_ARRAY_JOB_ID="4711", SLURM_ARRAY_TASK_ID="5")
    assert submit(75, "mae", "--out", "run", **task)[1][-2:] == ["squeue --jobs=4711_5", "scontrol requeue 4711_5"]
    assert submit(75, "mae", "--out", "run")[1][-2:] == ["squeue --jobs=4711", "scontrol requeue 4711"]


def test_each_process_knows_how_many_share_its_machine(submit):
    (submit.folder / "python").write_text("#!/bin/bash\necho $LOCAL_WORLD_SIZE >> calls.txt\n")
    assert submit(0, "mae", "--out", "run", SLURM_STEP_TASKS_PER_NODE="8(x2)")[1][-2:] == ["8", "8"]


@pytest.mark.parametrize("name", ["mae", "finetune"])
def test_without_a_folder_it_says_so(submit, name):
    assert submit(0, name) == (2, [])


def test_its_first_lines_ask_for_a_warning_and_to_come_back():
    asked = [line.split(maxsplit=1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=TERM@300", "--open-mode=append"} <= set(asked)
