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
# If a node fails, Slurm starts the job again, and the job continues its sweep.
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the time limit, tell the sweep to stop, so that it ends tidily; `resume` continues it.
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [ "$#" -eq 0 ]; then
  echo "Name a command. For example: sbatch cluster/slurm.sh sweep voc" >&2
  exit 2
fi
node=${SLURM_SUBMIT_DIR:?"is set by sbatch: start it with sbatch cluster/slurm.sh ..."}/cluster/node.sh
# Two allocations may share a node, so each has ten ports of its own, below those that Linux hands out.
port=$((20000 + SLURM_JOB_ID % 1200 * 10))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')

choose_command() {  # sets `words`: the given command, or after a requeue the one that continues what it began
  local name="" word previous="" again=${SLURM_RESTART_COUNT:-0}
  words=("$@")
  case "$1" in
    sweep | train | ablate)
      for word in "$@"; do
        [ "$previous" != --name ] || name=$word
        [ "${word#--name=}" = "$word" ] || name=${word#--name=}
        previous=$word
      done
      # Named after the job, so that the job finds its sweep again.
      [ -n "$name" ] || { name=job-$SLURM_JOB_ID && words+=(--name "$name"); }
      # It may have been stopped before it began anything.
      if [ "$again" -gt 0 ] && bash "$node" orchestrator status "$name" >/dev/null 2>&1; then
        words=(resume "$name" --steal-lease)
      fi
      ;;
    # Slurm has ended the driver before, which may have been on a node that nobody can look at any more.
    resume | promote) [ "$again" -eq 0 ] || words+=(--steal-lease) ;;
    extend)
      if [ "$again" -gt 0 ]; then
        echo "This job was requeued; its trials may have been added already. Look: orchestrator status. Then: sbatch" \
          "cluster/slurm.sh resume" >&2
        exit 2
      fi
      ;;
  esac
}
choose_command "$@"

# Create the token, readable by its owner only: Ray itself would make it readable by everyone.
(
  umask 077
  mkdir -p ~/.ray
  [ -s ~/.ray/auth_token ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >~/.ray/auth_token
)

steps=()
ray_start() {  # runs on the given nodes until the allocation ends
  # srun does not inherit --cpus-per-task from sbatch; without it, all trials of a node would share one CPU.
  srun --overlap --export=ALL --cpus-per-task="$SLURM_CPUS_PER_TASK" "${@:2}" \
    bash "$node" ray start "$1" --block --log-color=false --num-cpus="$SLURM_CPUS_PER_TASK" \
    --temp-dir="/tmp/ray-$SLURM_JOB_ID" --min-worker-port=0 --max-worker-port=0 \
    --dashboard-agent-listen-port="$((port + 3))" --metrics-export-port="$((port + 4))" \
    --runtime-env-agent-port="$((port + 5))" "${head_options[@]}" &
  steps+=("$!")
}

release() {  # end Ray at once: if asked, it would drain its nodes for half a minute, which nobody needs any more
  local step
  kill -KILL "${steps[@]}" 2>/dev/null || true
  wait "${steps[@]}" 2>/dev/null || true  # otherwise bash prints each of them as killed
  for step in $(squeue --steps --noheader --format=%i --jobs="$SLURM_JOB_ID"); do
    case "$step" in
      *.batch | *.extern) ;;
      *) scancel --signal=KILL "$step" 2>/dev/null || true ;;  # it may have ended by itself
    esac
  done
}
trap release EXIT

watch() {  # wait for a process, return its exit code, and end it early if Ray's head ends
  local code=0 is_alone=""
  while kill -0 "$1" 2>/dev/null; do
    if [ -z "$is_alone" ] && ! kill -0 "$head_step" 2>/dev/null; then
      echo "Ray's head on $head has ended; see its messages above. Continue with: sbatch cluster/slurm.sh resume" >&2
      is_alone=yes
      kill -TERM "$1" 2>/dev/null || true
    fi
    sleep 1 || true  # scancel ends it as well; the sweep must still have its time and its Ray
  done
  wait "$1" || code=$?
  [ -z "$is_alone" ] || [ "$code" -ne 130 ] || code=1
  return "$code"
}

await_nodes() {  # wait until so many nodes have joined
  bash "$node" python - "$address:$port" "$1" <<'END' &
import sys
import time

import ray

address, num_nodes = sys.argv[1], int(sys.argv[2])
deadline = time.monotonic() + 300
while True:
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="WARNING")
        found = sum(node["Alive"] for node in ray.nodes())
    except (RuntimeError, OSError):
        found = 0  # the head is still starting
    if found >= num_nodes:
        sys.exit()
    if time.monotonic() > deadline:
        sys.exit(f"Only {found} of {num_nodes} nodes joined within 300 s. See their messages above.")
    time.sleep(2)
END
  starting=$!
  watch "$starting"
}

trap 'kill -TERM "$starting" 2>/dev/null || true; exit 130' TERM INT
starting=""
head_options=(--node-ip-address="$address" --port="$port" --dashboard-host=127.0.0.1
  --dashboard-port="$((port + 1))" --ray-client-server-port="$((port + 2))")
ray_start --head --nodes=1 --ntasks=1 --nodelist="$head"
head_step=${steps[0]}
head_options=()
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
  # A worker that finds the head half-started gives up.
  await_nodes 1
  ray_start --address="$address:$port" --nodes="$((SLURM_JOB_NUM_NODES - 1))" \
    --ntasks="$((SLURM_JOB_NUM_NODES - 1))" --exclude="$head"
fi
await_nodes "$SLURM_JOB_NUM_NODES"

# In the background, so that this shell can receive the signal and pass it on.
bash "$node" orchestrator "${words[@]}" --address "$address:$port" &
sweep=$!
trap 'kill -TERM "$sweep" 2>/dev/null || true' TERM INT
watch "$sweep"
