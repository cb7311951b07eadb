#!/usr/bin/env bash
# Sets up a node of a cluster and runs commands on it. Used by cluster.yaml, on-prem.yaml, slurm.sh and the Dockerfile.
#
#   node.sh setup          install the hashed lock and this checkout into .venv, next to this folder
#   node.sh COMMAND ...    run a command from that .venv in the environment of the nodes: node.sh ray start --head
#
# PYTHON names the interpreter, by default python3. It must be 3.11 or newer and the same on all nodes, because Ray refuses
# others. Credentials and addresses come only from the node's ~/.orchestrator.env (lines VARIABLE=value, used literally;
# mode 600).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

setup() {
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python must be 3.11 or newer, but got $("$python" --version 2>&1). Choose another: PYTHON=python3.12" >&2
    exit 2
  }
  # If an earlier attempt stopped half-way, because ensurepip was missing, .venv has no pip.
  "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$root/requirements/bootstrap.txt"
  # Compile to bytecode once here; otherwise every worker process would do it again.
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode --require-hashes -r "$root/requirements/run.txt"
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation --editable "$root"
}

enter() {
  if [ -f ~/.orchestrator.env ]; then
    local line
    # Read it as kubectl does, literally: a shell would interpret & and $ in a value.
    while IFS= read -r line || [ -n "$line" ]; do
      if [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]]; then
        export "${line?}"
      elif [ -n "$line" ] && [[ $line != "#"* ]]; then
        echo "$HOME/.orchestrator.env must have lines VARIABLE=value, but one has no name or no =." >&2
        exit 2
      fi
    done <~/.orchestrator.env
  fi
  [ ! -f ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token
  export PATH="$venv/bin:$PATH"
  # Ray always listens on all interfaces, so everything that connects to a node must show the token.
  export RAY_AUTH_MODE=token
  export RAY_USAGE_STATS_ENABLED=0
  # By default, Ray kills a cancelled job 3 s after asking it to stop. A sweep survives that, but needs longer to end
  # tidily.
  export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-30}"
  export ORCHESTRATOR_HOME="${ORCHESTRATOR_HOME:-$HOME/orchestrator}"
  ulimit -n "$(ulimit -Hn)"
}

case "${1:-}" in
  setup) setup ;;
  "")
    echo "Name a command. For example: node.sh setup, or node.sh ray status" >&2
    exit 2
    ;;
  *)
    enter
    exec "$@"
    ;;
esac
