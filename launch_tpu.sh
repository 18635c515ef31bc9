#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU: makes (or reuses) the TPU, installs this checkout on all of its
# workers, starts the command in tmux, follows worker 0, and starts again after a preemption.
# A run that was told to stop by SIGTERM saves and ends with 75 (143: before it could listen).
set -euo pipefail

usage() {
  cat <<'END'
usage: ./launch_tpu.sh NAME --zone=ZONE [options] -- ARGUMENTS OF experiments.main

  ./launch_tpu.sh study --zone=ZONE --type=v5litepod-8 --spot -- \
      --config=configs/dann.py --workdir=/mnt/disk/study
  ./launch_tpu.sh study --zone=ZONE --delete

NAME              of the TPU VM; one that exists is reused
--zone=ZONE       where
--type=TYPE       accelerator type, needed to make one: v5litepod-8, v6e-4, ...
--version=NAME    runtime version; the usual one of the type by default
--project=NAME    gcloud's own project by default
--spot            a spot TPU: cheaper, can be preempted
--queued          ask by a queued resource and wait for it
--module=NAME     what to run: experiments.main by default, experiments.suite
--retries=N       times a preempted TPU is made, or a stopped run started, again (default 20)
--poll=SECONDS    between looks at something that is awaited (default 20)
--dry-run         print every command, run none
--delete          delete the TPU (and its queued resource) and stop
--help            this text

After a preemption the run goes on where it stopped if --workdir is on a disk that outlives the TPU.
Stopping this script leaves the run alone; the same command follows it again.
END
}

fail() {
  echo "launch_tpu.sh: $*" >&2
  exit 1
}

name="" zone="" type="" version="" project="" module=experiments.main
spot=false queued=false dry=false delete=false retries=20 poll=20
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) usage; exit 0 ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --module=*) module=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --poll=*) poll=${1#*=} ;;
    --spot) spot=true ;;
    --queued) queued=true ;;
    --dry-run) dry=true ;;
    --delete) delete=true ;;
    --) shift; break ;;
    -*) fail "unknown option $1; --help lists those there are." ;;
    *) [ -z "$name" ] || fail "two names, $name and $1; the run's arguments go after --."
      name=$1 ;;
  esac
  shift
done
[ -n "$name" ] || fail "give the TPU a name: ./launch_tpu.sh NAME --zone=ZONE -- ...; --help says more."
[ -n "$zone" ] || fail "give --zone=ZONE, where the TPU is or shall be."
$delete || [ $# -gt 0 ] || fail "nothing to run: the run's arguments go after --."
[[ $retries =~ ^[0-9]+$ ]] || fail "--retries=$retries is not a number."
$dry || command -v gcloud >/dev/null || fail "gcloud is not installed; https://cloud.google.com/sdk has it."

place=(--zone="$zone")
[ -z "$project" ] || place+=(--project="$project")
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Runs a command; with --dry-run prints it instead.
run() {
  if $dry; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

vm() { run gcloud compute tpus tpu-vm "$1" "$name" "${place[@]}" "${@:2}"; }
queue() { run gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"; }
on() { vm ssh --worker="$1" --command="$2"; } # on WORKER COMMAND

# READY, PREEMPTED, ...; empty where there is no such TPU.
state() {
  if $dry; then return; fi
  gcloud compute tpus tpu-vm describe "$name" "${place[@]}" --format='value(state)' 2>/dev/null || true
}

queue_state() {
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
    --format='value(state.state)' 2>/dev/null || true
}

remove() {
  if $queued; then
    queue delete --force --quiet
  else
    vm delete --quiet
  fi
}

runtime() {
  case "$type" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

make() {
  [ -n "$type" ] || fail "there is no TPU $name in $zone; give --type=TYPE to make one."
  local what=(--accelerator-type="$type")
  if $spot; then what+=(--spot); fi
  if $queued; then
    queue create --node-id="$name" --runtime-version="${version:-$(runtime)}" "${what[@]}"
    await_queue
  else
    vm create --version="${version:-$(runtime)}" "${what[@]}"
  fi
}

await_queue() {
  if $dry; then return; fi
  local now
  while true; do
    now=$(queue_state)
    case "$now" in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) fail "the queued resource $name is $now; --delete --queued removes it." ;;
    esac
    echo "queued resource $name: ${now:-unknown}"
    sleep "$poll"
  done
}

# The files git knows, as they are here, on all workers.
install() {
  local pack=/tmp/clipjax-$name.tar.gz
  # shellcheck disable=SC2016
  run bash -c 'cd "$1" && git ls-files -z | tar --null --ignore-failed-read -czf "$2" -T -' - "$here" "$pack"
  run gcloud compute tpus tpu-vm scp "$pack" "$name":clipjax.tar.gz "${place[@]}" --worker=all
  on all 'mkdir -p clipjax && tar -xzf clipjax.tar.gz -C clipjax && cd clipjax && python3 -m venv venv && venv/bin/pip install -q -e ".[tpu]"'
}

# Starts the command on all workers, which find each other (docs/parallel.md); on each, its exit
# status ends in run.status. What an earlier command left running there would only wait for it.
start() {
  local command
  command=$(printf '%q ' venv/bin/python -m "$module" "$@")
  on all "cd clipjax && { tmux kill-session -t clipjax 2>/dev/null || true; } && rm -f run.status run.log && tmux new-session -d -s clipjax '${command//\'/\'\\\'\'} > run.log 2>&1; echo \$? > run.status.new; mv run.status.new run.status'"
}

under_way() {
  ! $dry && on 0 'tmux has-session -t clipjax' 2>/dev/null
}

# Shows worker 0's log until the command ends. The TPU or the connection may be lost meanwhile.
follow() {
  # shellcheck disable=SC2016
  on 0 'cd clipjax && { tail -n +1 -F run.log 2>/dev/null & shown=$!; }; while [ ! -e run.status ]; do sleep 2; done; sleep 1; kill $shown' || true
}

# The command's exit status; empty where it has not ended or cannot be asked.
status() {
  if $dry; then
    echo 0
  else
    on 0 'cat clipjax/run.status' 2>/dev/null || true
  fi
}

if $delete; then
  remove
  exit 0
fi

made=0    # times a TPU was made
stopped=0 # times a run was told to stop
while [ "$made" -le "$retries" ]; do
  now=$(state)
  case "$now" in
    READY) ;;
    CREATING | STARTING | RESTARTING | REPAIRING)
      echo "TPU $name is $now"
      sleep "$poll"
      continue ;;
    *)
      if [ -n "$now" ]; then # PREEMPTED, TERMINATED, STOPPED, FAILED: nothing runs there any more
        echo "TPU $name is $now; making it again"
        remove
      fi
      made=$((made + 1))
      make ;;
  esac
  if ! under_way; then
    install
    start "$@"
  fi
  follow
  code=$(status)
  if [ "$code" = 75 ] || [ "$code" = 143 ]; then
    stopped=$((stopped + 1))
    [ "$stopped" -le "$retries" ] || fail "gave up after the run was stopped $stopped times; the same command goes on from the last checkpoint."
    echo "the run was told to stop (exit code $code); starting it again"
    sleep "$poll" # the TPU may be about to go
    continue
  fi
  if [ -n "$code" ]; then
    [ "$code" = 0 ] || echo "launch_tpu.sh: the run ended with exit code $code; its log is above." >&2
    exit "$code"
  fi
  echo "lost sight of TPU $name (it is $(state)); looking again"
  sleep "$poll"
done
fail "gave up after the TPU was made $made times; the same command goes on from the last checkpoint."
