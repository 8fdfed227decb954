#!/bin/bash
# A run on a SLURM cluster that survives preemption and the end of its time, from an environment that is active:
#     sbatch lib/training/slurm.sh mocov3 --scale paper --data imagenet --out runs/mocov3-paper
# Shortly before the end SLURM sends SIGTERM to every process. The run then writes a checkpoint and exits with 75, and the
# job goes back into the queue. It may be given other --nodes then: the images keep their order.
#SBATCH --job-name=vits
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

out=$(printf '%s\n' "$@" | grep -A1 -x -- --out | tail -n 1)
[ -n "$out" ] || { echo "give the folder of the run: --out FOLDER" >&2; exit 2; }
if [ -e "$out/last.pt" ] || [ -e "$out/previous.pt" ]; then set -- "$@" --resume; fi

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export OMP_NUM_THREADS=1
trap : TERM                       # this shell lives on, to put the job back

srun bash -c 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec python -m lib.training "$@"' \
    bash "$@"
code=$?
if [ $code -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
