#!/usr/bin/env bash
# Runs one command of the orchestrator on the nodes of a Slurm allocation. See docs/cluster.md.
#
#   sbatch cluster/slurm.sh sweep voc --storage /shared/checkpoints
#   sbatch cluster/slurm.sh resume
#
# Run `bash cluster/node.sh setup` first, and submit in the checkout. The checkout, ORCHESTRATOR_HOME and your home
# directory (for Ray's token) must be on a file system that all nodes share. Adapt the sizes below.
#SBATCH --job-name=spml
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=12:00:00
#SBATCH --output=spml-%j.log
# Two minutes before the time limit, tell the sweep to stop, so that it ends tidily; `resume` continues it.
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "Name a command. For example: sbatch cluster/slurm.sh sweep voc" >&2
  exit 2
fi
node=${SLURM_SUBMIT_DIR:?"is set by sbatch: start it with sbatch cluster/slurm.sh ..."}/cluster/node.sh
# Two allocations of one user may share a node, so each uses its own port.
port=$((20000 + SLURM_JOB_ID % 20000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')

# Create the token, readable by its owner only: Ray itself would make it readable by everyone.
(
  umask 077
  mkdir -p ~/.ray
  [ -s ~/.ray/auth_token ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >~/.ray/auth_token
)

ray_start() {  # runs on the given nodes until the allocation ends
  # srun does not inherit --cpus-per-task from sbatch; without it, all trials of a node would share one CPU.
  srun --overlap --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" "$@" &
}
ray_start --nodes=1 --ntasks=1 --nodelist="$head" \
  bash "$node" ray start --head --block --node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1 \
  --num-cpus="$SLURM_CPUS_PER_TASK"
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  # No need to wait for the head: the workers do.
  ray_start --nodes="$((SLURM_JOB_NUM_NODES - 1))" --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head" \
    bash "$node" ray start --block --address="$address:$port" --num-cpus="$SLURM_CPUS_PER_TASK"
fi

bash "$node" python - "$address:$port" "$SLURM_JOB_NUM_NODES" <<'EOF'
import sys
import time

import ray

address, num_nodes = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 300
while True:
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        found = sum(node["Alive"] for node in ray.nodes())
    except (RuntimeError, OSError):
        found = 0  # the head is still starting
    if found >= num_nodes:
        sys.exit()
    if time.monotonic() > deadline:
        sys.exit(f"Only {found} of {num_nodes} nodes joined within 300 s. See their messages above.")
    time.sleep(2)
EOF

# Run in the background, so that this shell can receive the signal and pass it on.
bash "$node" orchestrator "$@" --address "$address:$port" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM INT
code=0
wait "$sweep" || code=$?
# A signal ends `wait`, but the sweep still needs time to stop.
while kill -0 "$sweep" 2>/dev/null; do
  wait "$sweep" && code=0 || code=$?
done
exit "$code"
