#!/usr/bin/env bash
# Runs an experiment on a Cloud TPU: makes (or reuses) the TPU, installs this checkout on all of its
# workers, starts the command in tmux, follows worker 0, and starts again after a preemption.
# Every round of the loop at the end looks at how things are and does what is next, so that a call
# of gcloud may fail at any place: the next round looks again.
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
--retries=N       times the TPU is made again and the run started again, and times in a row that
                  a failing call of gcloud is tried again (default 20)
--poll=SECONDS    between looks at something that is awaited (default 20)
--watch=SECONDS   how long the TPU is looked at after a run failed: did it fail because the TPU
                  is being taken away? (default 60)
--dry-run         print every command, run none
--delete          delete the TPU and its queued resource, and stop
--install-here    what is run on the workers: make the environment in this checkout, and stop
--help            this text

After a preemption the run goes on where it stopped if --workdir is on a disk that outlives the TPU.
The same is done where the run ended with 75 or 143 (told to stop), where a worker lost contact with
another one, and where the TPU goes within --watch after any other failure. A run that fails on a
TPU that stays is not repeated: this script ends with its exit code.

A call of gcloud that fails is tried again after a pause, twice as long each time, ten minutes at
most. Only two times where trying does not help: until there is a TPU (no permission, unknown type),
unless gcloud speaks of capacity, and where a worker says that it cannot be installed on. Options
that gcloud does not understand end it at once.

Stopping this script (Ctrl-C) leaves the run and the TPU alone; the same command follows it again.
Stop it before --delete elsewhere: a spot TPU that is gone is made again.
END
}

say() { echo "launch_tpu.sh: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# On a worker: clipjax in ./venv. It wants Python 3.11; images of TPU VMs have 3.10, often without
# ensurepip, so that `python3 -m venv` fails. There uv brings a Python of its own.
install_here() {
  cd "$here"
  local recent='sys.exit(sys.version_info < (3, 11))'
  command -v tmux >/dev/null || fail "there is no tmux on this machine; take an image that has it (--version)."
  if ! venv/bin/python -c "import sys, pip; $recent" 2>/dev/null; then # or half made
    rm -rf venv
    if python3 -c "import sys, venv, ensurepip; $recent" 2>/dev/null; then
      python3 -m venv venv
    else
      find_uv || fail "there is no Python 3.11 with venv on this machine, and uv, which brings one, could be had neither from PyPI nor from astral.sh; its messages are above, can the machine reach the internet?"
      "$uv" venv --quiet --seed --python 3.11 venv ||
        fail "there is no Python 3.11 with venv on this machine, and uv could not bring one; its message is above."
    fi
  fi
  venv/bin/python -m pip install -q -e ".[tpu]" || fail "clipjax could not be installed; pip's message is above."
}

# Sets uv to the program, in this folder if the machine has none.
find_uv() {
  for uv in "$(command -v uv)" "$HOME/.local/bin/uv" uv/bin/uv; do
    if [ -x "$uv" ]; then return; fi
  done
  python3 -m pip install -q --target uv uv && [ -x "$uv" ] && return
  curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="$here/uv/bin" sh && [ -x "$uv" ]
}

name="" zone="" type="" version="" project="" module=experiments.main
spot=false queued=false dry=false delete=false retries=20 poll=20 watch=60
while [ $# -gt 0 ]; do
  case "$1" in
    --help | -h) usage; exit 0 ;;
    --install-here) install_here; exit 0 ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --module=*) module=${1#*=} ;;
    --retries=*) retries=${1#*=} ;;
    --poll=*) poll=${1#*=} ;;
    --watch=*) watch=${1#*=} ;;
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
[[ $poll =~ ^[1-9][0-9]*$ ]] || fail "--poll=$poll is not a number of seconds."
[[ $watch =~ ^[0-9]+$ ]] || fail "--watch=$watch is not a number of seconds."
$dry || command -v gcloud >/dev/null || fail "gcloud is not installed; https://cloud.google.com/sdk has it."
$dry || $delete || git -C "$here" rev-parse --git-dir >/dev/null 2>&1 ||
  fail "$here is not a git checkout; git tells which files belong to it (git clone, or git init and git add)."

place=(--zone="$zone")
[ -z "$project" ] || place+=(--project="$project")
scratch=${TMPDIR:-/tmp}/clipjax-$name.$$
pack=$scratch/clipjax.tar.gz

# A command as a shell takes it back. (printf %q would put a backslash before every space.)
words() {
  local word line="" quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/$quote}'"
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

command=$(words venv/bin/python -m "$module" "$@") # what the workers run

# Runs a command; with --dry-run prints it instead.
run() {
  if $dry; then
    words "$@"
  else
    "$@"
  fi
}

# Two ways to run a command so that $scratch/error has what it complained of: shown as it comes, ...
heard() { { "$@" 2>&1 >&4 | tee "$scratch/error" >&2; } 4>&1; }

# ... or only where it fails.
quietly() {
  "$@" 2>"$scratch/error" && return
  cat "$scratch/error" >&2
  return 1
}

vm() { run gcloud compute tpus tpu-vm "$1" "$name" "${place[@]}" "${@:2}"; }
queue() { run gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"; }
on() { vm ssh --worker="$1" --command="$2"; } # on WORKER COMMAND

ask_state() { vm describe --format='value(state)'; }
ask_queue() { queue describe --format='value(state.state)'; }

# What one of these two says; nothing where there is no such thing. Fails where gcloud did without
# saying so: then there may well be one.
told() {
  local status=0
  "$@" 2>"$scratch/error" || status=$?
  if [ "$status" = 0 ] || grep -q NOT_FOUND "$scratch/error"; then return 0; fi
  cat "$scratch/error" >&2
  return "$status"
}

# The command line that deletes what this one made.
deletion() { words ./launch_tpu.sh "$name" "${place[@]}" --delete; }

# Deletes what there is of both. A TPU goes with its queued resource.
remove() {
  local found=false now
  now=$(told ask_queue) || [ $? = 2 ] || return 1 # 2: of a gcloud too old to know queued resources
  if [ -n "$now" ]; then
    found=true
    heard queue delete --force --quiet || return 1
  fi
  now=$(told ask_state) || return 1
  if [ -n "$now" ]; then
    found=true
    heard vm delete --quiet || return 1
  fi
  left=false there=false
  $found
}

runtime() {
  case "$type" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

create() {
  local what=(--accelerator-type="$type")
  if $spot; then what+=(--spot); fi
  if $queued; then
    queue create --node-id="$name" --runtime-version="${version:-$(runtime)}" "${what[@]}"
  else
    vm create --version="${version:-$(runtime)}" "${what[@]}"
  fi
}

# Ends where the TPU cannot be made (again), before what is left of it is removed.
may_make() {
  [ -n "$type" ] || fail "TPU $name in $zone ${1:-does not exist}; give --type=TYPE to make it."
  if [ "$made" -gt "$retries" ] || [ "$starts" -gt "$retries" ]; then give_up; fi
}

make() {
  may_make
  left=true # even a call that fails, or is stopped, may have made it
  local status=0
  heard create || status=$?
  [ "$status" != 2 ] || fail "gcloud did not understand its options; its message is above."
  [ "$status" = 0 ] || return 1
  made=$((made + 1))
  blank=true
}

# Brings a TPU that is not READY (its state is $1) one step nearer.
approach() {
  case "$1" in
    "") if $queued; then advance; else make_missing; fi ;;
    PREEMPTED | TERMINATED | FAILED) # nothing runs there any more
      may_make "is $1"
      echo "TPU $name is $1; making it again"
      remove && make ;;
    STOPPED) # by somebody, to go on with: what is on its disk is kept
      echo "TPU $name is STOPPED; starting it"
      heard vm start ;;
    *) echo "TPU $name is $1"
      sleep "$poll" ;;
  esac
}

# Preempted TPUs stay, as PREEMPTED, and one that is not spot goes only where somebody deletes it.
make_missing() {
  if $there && ! $spot; then
    left=false
    fail "TPU $name was deleted by somebody; the same command makes it again and goes on from the last checkpoint."
  fi
  make
}

# The same for a queued resource whose TPU is not there (yet).
advance() {
  local now
  now=$(told ask_queue) || return
  [ -z "$now" ] || left=true
  case "$now" in
    "") make_missing ;;
    SUSPENDED) # what a preemption leaves
      may_make "is gone with its queued resource"
      echo "queued resource $name is $now; making it again"
      remove && make ;;
    FAILED)
      queue describe >&2 || true # why
      remove || return
      echo "queued resource $name was FAILED" >"$scratch/error"
      return 1 ;;
    ACTIVE)
      echo "queued resource $name is ACTIVE, its TPU is not there" | tee "$scratch/error" >&2
      return 1 ;;
    *) echo "queued resource $name: $now"
      sleep "$poll" ;;
  esac
}

# The files git knows, as they are here. Packed once: a run goes on with the code it began with.
bundle() {
  # shellcheck disable=SC2016
  run bash -c 'set -o pipefail; cd "$1" && git ls-files -z | while IFS= read -r -d "" file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done | tar --null -czf "$2" -T -' - "$here" "$pack"
}

install() {
  run gcloud compute tpus tpu-vm scp "$pack" "$name":clipjax.tar.gz "${place[@]}" --worker=all &&
    on all 'mkdir -p clipjax && tar -xzf clipjax.tar.gz -C clipjax && cd clipjax && ./launch_tpu.sh --install-here'
}

# Starts the command on all workers, which find each other (docs/parallel.md); on each, its exit
# status ends in run.status. What an earlier command left running there would only wait for it.
start() {
  on all "cd clipjax && { tmux kill-session -t =clipjax 2>/dev/null || true; } && rm -f run.status run.log && printf '%s\\n' $(words "$command") > run.command && tmux new-session -d -s clipjax 'bash run.command > run.log 2>&1; echo \$? > run.status.new; mv run.status.new run.status'"
}

# What worker 0 says of the run, in words: a call that fails is one of the connection, never a "no".
ask_run() {
  # shellcheck disable=SC2016
  on 0 'if tmux has-session -t =clipjax 2>/dev/null; then echo session=yes; else echo session=no; fi; cd clipjax 2>/dev/null || exit 0; tail -n 100 run.log 2>/dev/null | grep -Eq "lost contact|another task died" && echo lost=yes; for what in status command; do [ ! -e run.$what ] || printf "%s\n" "$what=$(cat run.$what)"; done'
}

# Sets session (yes or no), code (the exit status of a run that ended), running (its command), lost.
look() {
  local said
  said=$(quietly ask_run) || return
  session=$(sed -n 's/^session=//p' <<<"$said")
  code=$(sed -n 's/^status=//p' <<<"$said")
  lost=$(sed -n 's/^lost=//p' <<<"$said")
  running=$(sed -n '/^command=/,$ { s/^command=//; p; }' <<<"$said") # may have several lines
  [ "$session" = yes ] || [ "$session" = no ]
}

# Shows worker 0's log until the command ends. The TPU or the connection may be lost meanwhile.
follow() {
  # shellcheck disable=SC2016
  on 0 'cd clipjax && { while [ ! -e run.status ] && tmux has-session -t =clipjax 2>/dev/null; do sleep 2; done & tail -n +1 -s 0.2 -F --pid=$! run.log 2>/dev/null; true; }'
}

# Ends: the session on the workers belongs to another command line.
another() {
  left=false # the sentence says it all
  local ssh=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}")
  fail "another command is under way on TPU $name: ${running:-unknown}
  look at it:  $(words "${ssh[@]}" --worker=0 --command='tail -F clipjax/run.log')
  stop it:     $(words "${ssh[@]}" --worker=all --command='tmux kill-session -t clipjax')
  delete it:   $(deletion)"
}

# Whether the TPU goes: other workers go sooner than its state tells, and the run fails of that.
goes() {
  local waited now
  for ((waited = 0; ; waited += poll)); do
    if now=$(told ask_state) && [ "$now" != READY ]; then return 0; fi
    [ "$waited" -lt "$watch" ] || return 1
    sleep "$poll"
  done
}

# After the run ended: ends this script, or lets the next round start it again.
conclude() {
  case "$code" in
    0) exit 0 ;;
    75 | 143) # it was told to stop by SIGTERM and saved; 143: before it could listen
      echo "the run was told to stop (exit code $code); starting it again"
      sleep "$poll" ;; # the TPU may be about to go
    "") echo "the run ended without an exit code (a restart of worker 0?); starting it again" ;;
    *)
      echo "the run ended with exit code $code; is TPU $name being taken away?"
      if goes; then
        echo "it is; the run goes on with the next one"
      elif [ -n "$lost" ]; then
        echo "no, but a worker lost contact with another one; starting the run again"
      else
        say "the run ended with exit code $code; its log is above."
        exit "$code"
      fi ;;
  esac
  blank=true
}

give_up() {
  fail "gave up after TPU $name was made $made times and the run started $starts times (--retries=$retries); the same command goes on from the last checkpoint."
}

# After a failed call ($1 says which): waits, longer each time in a row, or gives up.
again() {
  failures=$((failures + 1))
  if hopeless; then refusals=$((refusals + 1)); fi
  if [ "$failures" -gt "$retries" ] || [ "$refusals" -gt 2 ]; then
    fail "$1, $failures times in a row; its last message is above. The same command tries again."
  fi
  local pause=$poll doubled
  for ((doubled = 1; doubled < failures && pause < 600; doubled++)); do pause=$((pause * 2)); done
  if [ "$pause" -gt 600 ]; then pause=600; fi
  say "$1; trying again in $pause s ($failures of $retries)"
  sleep "$pause"
}

# Whether the last failure is one that trying again seldom helps.
hopeless() {
  if $seen; then
    grep -q 'launch_tpu.sh: ' "$scratch/error" # of --install-here on a worker
  else
    if grep -qi capacity "$scratch/error"; then return 1; fi
  fi
}

plan() {
  echo "# the files of this checkout"
  run mkdir -m 700 "$scratch"
  bundle
  echo "# what there is: a TPU that is READY and runs nothing leads to the installation"
  ask_state
  if $queued; then ask_queue; fi
  echo "# where there is none"
  create
  echo "# the installation, and the run in tmux"
  install
  start
  echo "# worker 0's log, then how the run ended"
  follow
  ask_run
  echo "# after a preemption, before all of this again"
  plan_removal
}

plan_removal() {
  ask_queue
  echo "# where there is one"
  queue delete --force --quiet
  ask_state
  echo "# where there still is one"
  vm delete --quiet
}

# At every end, Ctrl-C too.
farewell() {
  rm -rf "$scratch"
  $left || return 0
  if $following; then say "the run goes on without this script; the same command follows it again."; fi
  say "TPU $name may be there and cost money until it is deleted: $(deletion)"
}

if $dry; then
  if $delete; then plan_removal; else plan; fi
  exit 0
fi

made=0            # times the TPU was made
starts=0          # times the run was started
failures=0        # failed calls of gcloud in a row
refusals=0        # those of them that trying again seldom helps
seen=false        # there was a TPU: gcloud's options and rights are good
there=false       # ... and it was not removed here
left=false        # there may be a TPU that costs money
following=false   # a run is under way on it
shown=false       # ... and its log was shown to the end
blank=false       # no run on it is to be followed: just made, the run ended, or half started
mkdir -m 700 "$scratch"
: >"$scratch/error"
trap farewell EXIT
trap 'exit 130' INT # gcloud ends in some orderly way, which must not look like a lost connection

if $delete; then
  left=true
  if remove; then exit 0; fi
  if ! $left; then fail "there is no TPU and no queued resource $name in $zone${project:+ of $project}; nothing was deleted."; fi
  fail "not everything was deleted; gcloud's message is above."
fi

bundle || fail "the files of $here could not be packed."
while true; do
  now=$(told ask_state) || { again "gcloud did not tell how TPU $name is"; continue; }
  if [ "$now" != READY ]; then
    following=false
    [ -z "$now" ] || left=true
    approach "$now" || again "TPU $name could not be had"
    continue
  fi
  seen=true there=true left=true

  if ! $blank; then
    look || { again "worker 0 of TPU $name did not answer"; continue; }
    failures=0 refusals=0
    if [ "$session" = yes ] && [ -z "$code" ]; then
      [ "$running" = "$command" ] || another
      following=true shown=false
    elif $following && $shown; then
      following=false
      conclude
      continue
    fi
    if $following; then
      if follow; then shown=true; else sleep "$poll"; fi
      continue
    fi
  fi

  [ "$starts" -le "$retries" ] || give_up
  heard install || { again "clipjax could not be installed on TPU $name"; continue; }
  blank=true # from here on a failure may leave the run on some workers only
  heard start || { again "the run could not be started on TPU $name"; continue; }
  starts=$((starts + 1)) failures=0 refusals=0
  blank=false following=true shown=false
done
