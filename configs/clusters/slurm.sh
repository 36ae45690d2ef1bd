#!/usr/bin/env bash
# A run on the nodes of a Slurm job: sbatch configs/clusters/slurm.sh, from the repository, which all nodes see. Not run by us.
#SBATCH --job-name=headrace
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --exclusive
#SBATCH --time=24:00:00
set -euo pipefail

RUNS=${RUNS:-$HOME/headrace-runs}   # on storage that all nodes share
PORT=${PORT:-6379}
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$RUNS/token-$SLURM_JOB_ID"

# The token is in a file that its owner alone reads, and on no command line.
mkdir -p "$RUNS"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"; kill $(jobs -p) 2>/dev/null || true' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
start=(ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats)

srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap \
  "${start[@]}" --head --node-ip-address="$address" --port="$PORT" --dashboard-host=127.0.0.1 &
until ray status --address="$address:$PORT" >/dev/null 2>&1; do sleep 2; done   # Slurm's --time ends the wait
if ((${#nodes[@]} > 1)); then
  others=$(IFS=,; echo "${nodes[*]:1}")
  srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$others" --overlap \
    "${start[@]}" --address="$address:$PORT" &
fi
until (($(ray list nodes --address="$address:$PORT" --format=json 2>/dev/null | grep -c '"ALIVE"') == ${#nodes[@]})); do
  sleep 2
done

python launch.py run "${CONFIG:-configs/quickstart.yaml}" name="slurm-$SLURM_JOB_ID" runs_folder="$RUNS" \
  cluster.address="$address:$PORT" publish.backend=object_store \
  rollout.workers="${#nodes[@]}" rollout.placement.strategy=spread
