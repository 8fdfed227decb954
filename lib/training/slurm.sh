#!/bin/bash
# A run on a SLURM cluster that survives preemption and the end of its time, from an environment that is active:
#     sbatch lib/training/slurm.sh mocov3 --scale paper --data imagenet --out runs/mocov3-paper
# and evaluations of it, where --out is the file of the result and --keep holds the state after each epoch:
#     sbatch lib/training/slurm.sh finetune runs/mocov3-paper --recipe mocov3 --crop 0.875 --stored-size 320 --no-untrained \
#         --keep runs/mocov3-paper/tuning --out runs/mocov3-paper/finetuned.json
#     sbatch lib/training/slurm.sh frozen runs/mocov3-paper --protocol mocov3 --crop 0.875 --stored-size 320 --no-untrained \
#         --keep runs/mocov3-paper/tuning --out runs/mocov3-paper/linear.json
# 300 seconds before the end, or when a preempted job is given time to end (GraceTime), SLURM sends SIGTERM to the processes
# that srun started, and not to this shell. The run writes a checkpoint, and the job goes back into the queue. It may be
# given other --nodes then: the images keep their order. scancel sends SIGTERM too, but such a job is not put back;
# `scancel --signal=TERM JOB` asks a run for a checkpoint and puts it back.
#SBATCH --job-name=vits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

out= keep= before=
for word; do
    if [ "$before" = --out ]; then out=$word; fi
    case $word in --out=*) out=${word#--out=} ;; --keep | --keep=*) keep=yes ;; esac
    before=$word
done
out=${out/#\~\//$HOME/}            # as the program reads it
[ -n "$out" ] || { echo "give --out: the folder of a training, the file of an evaluation's result" >&2; exit 2; }
case $1 in
    frozen | attentive | finetune | depths)
        # Its processes end one by one, and one may fail because another has left it: the mark alone says that they were
        # stopped, and those that wait for one that has gone are ended.
        wait=60; export PROGRAM=lib.evaluation folder=$(dirname "$out") ;;
    *)
        wait=
        export PROGRAM=lib.training folder=$out
        if [ -e "$out/last.pt" ] || [ -e "$out/previous.pt" ]; then set -- "$@" --resume; fi ;;
esac
mkdir -p "$folder" || exit 2
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}            # of one task of an array
id=${id:-$SLURM_JOB_ID}
export STOPPED="$folder/stopped-$SLURM_JOB_ID"     # made by a process that was stopped and would go on
rm -f "$STOPPED"

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export OMP_NUM_THREADS=1
trap : TERM                        # this shell lives on, to put the job back

# What each process runs. It ends with 0 where the run ends with 75: --kill-on-bad-exit, which spares a job whose one process
# has failed from waiting for it until its time is up, must not kill those that are still on their way out.
process='trap : TERM
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
export LOCAL_WORLD_SIZE=${SLURM_STEP_TASKS_PER_NODE%%[!0-9]*}
python -m "$PROGRAM" "$@"
code=$?
if [ $code -eq 75 ]; then touch "$STOPPED" && exit 0; fi
exit $code'

# Since SLURM 22.05 srun does not take --cpus-per-task over from sbatch.
srun --kill-on-bad-exit=1 ${wait:+--wait=$wait} ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    bash -c "$process" bash "$@"
code=$?
if [ -e "$STOPPED" ] && { [ $code -eq 0 ] || [ -n "$wait" ]; }; then
    rm -f "$STOPPED"
    code=75
    # RUNNING: nobody but the run has ended this job. One that scancel ended is COMPLETING by now, and so is one that SLURM
    # itself puts back because it was preempted.
    state=$(squeue --noheader --jobs="$id" --format=%T)
    if [ -n "$wait" ] && [ -z "$keep" ] && [ "${SLURM_RESTART_COUNT:-0}" -ge 3 ]; then
        echo "job $id was stopped four times, and without --keep it begins anew each time: it is not put back" >&2
    elif [ "$state" = RUNNING ]; then
        scontrol requeue "$id"
    else
        echo "job $id is ${state:-unknown to squeue}, not RUNNING: it is not put back into the queue" >&2
    fi
fi
exit $code
