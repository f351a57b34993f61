#!/usr/bin/env bash
# Runs timeldm_jax on every worker of a Cloud TPU pod slice: copies this checkout there, installs it
# with pip, then starts the same command on all workers.
#
# What to change: nothing in this file; name the slice and the run with flags or variables, e.g.
#
#   launch/tpu_pod.sh --name=my-slice --zone=us-central2-b --project=my-project \
#     --config=configs/etth.py --workdir=gs://my-bucket/timeldm/etth
#
# The slice exists already (gcloud compute tpus tpu-vm create ..., or a queued resource) and its
# service account may write to the bucket. Run this inside tmux: it lasts as long as the run.
# When the slice was preempted and is back, the same command resumes from the last checkpoint.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: launch/tpu_pod.sh [flags] [-- more flags of timeldm_jax.launch]

  --name=NAME        the TPU slice               (or the variable TPU_NAME)
  --zone=ZONE        its zone                    (or TPU_ZONE)
  --project=PROJECT  its project                 (or TPU_PROJECT)
  --config=CONFIG    as in configs/etth.py:paper (or CONFIG)
  --workdir=GS       a folder on gs://           (or WORKDIR)
  --skip_setup       the workers have this version installed: only run
  --help             this text

Exit status: 0 when every worker succeeded, otherwise that of the step that failed.
USAGE
}

fail() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}

name=${TPU_NAME:-} zone=${TPU_ZONE:-} project=${TPU_PROJECT:-}
config=${CONFIG:-} workdir=${WORKDIR:-} setup=yes
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --config=*) config=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --skip_setup) setup=no ;;
    --help | -h) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    *) fail "unknown flag $1 (--help lists the flags)" ;;
  esac
  shift
done
for needed in name zone project config workdir; do
  [[ -n ${!needed} ]] || fail "--$needed is missing (--help lists the flags)"
done
# Workers share no disk: a local path would be another folder on each of them.
[[ $workdir == gs://* ]] || fail "--workdir must be on gs://, not $workdir"

tpu=(gcloud compute tpus tpu-vm)
where=(--zone="$zone" --project="$project" --worker=all)

# gcloud waits for all workers and fails when the command failed on any of them. A worker that dies
# takes the others along: JAX notices the missing heartbeat and ends every process.
on_all_workers() {
  "${tpu[@]}" ssh "$name" "${where[@]}" --command="$1"
}

if [[ $setup == yes ]]; then
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  archive=$(mktemp -d)/timeldm_jax.tar.gz
  trap 'rm -rf "$(dirname "$archive")"' EXIT
  tar -C "$root" --exclude=__pycache__ -czf "$archive" \
    timeldm_jax pyproject.toml requirements.lock README.md LICENSE
  "${tpu[@]}" scp "$archive" "$name:timeldm_jax.tar.gz" "${where[@]}"
  # Runs on the workers. Their image may come with an older Python than 3.11.
  setup_command=$(
    cat <<'SETUP'
set -eu
python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if $candidate -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  sudo apt-get -qq update
  sudo apt-get -qq install -y python3.11-venv
  python=python3.11
fi
rm -rf timeldm && mkdir timeldm
tar -xzf timeldm_jax.tar.gz -C timeldm
cd timeldm
$python -m venv .venv
.venv/bin/python -m pip install --quiet --no-deps -r requirements.lock
.venv/bin/python -m pip install --quiet -c requirements.lock '.[tpu]'
SETUP
  )
  on_all_workers "$setup_command"
fi

run=(python -m timeldm_jax.launch --config="$config" --workdir="$workdir" --distributed "$@")
printf -v quoted '%q ' "${run[@]}"
on_all_workers "cd timeldm && . .venv/bin/activate && exec $quoted"
