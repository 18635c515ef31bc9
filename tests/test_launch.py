"""launch_tpu.sh with a stand-in gcloud, whose workers are folders here."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.conftest import REPO

pytestmark = pytest.mark.slow

SCRIPT = REPO / "launch_tpu.sh"

# Records its calls; keeps the states of the TPU and of its queued resource in files, which are
# missing where there is none; runs what ssh is asked to in the folder of every worker meant ($AT),
# where `python` says its arguments and ends as the test wants. Only installing is left out.
# v5litepod-16 has two workers, as some types of many chips have more.
# $FAKE/failures has lines WORDS|TIMES|STATUS|MESSAGE: calls with these words fail so many times.
# $FAKE/later says "N STATE": the TPU is in that state from the N-th look at it on.
# $FAKE/hook is run before every $command on a worker.
GCLOUD = r"""#!/usr/bin/env bash
echo "${*//$'\n'/ }" >> "$FAKE/calls"
if [ -e "$FAKE/failures" ]; then
  number=0
  while IFS='|' read -r words times status message; do
    number=$((number + 1))
    case "$*" in *"$words"*) ;; *) continue ;; esac
    [ "$times" -gt 0 ] || continue
    sed -i "${number}s/|$times|/|$((times - 1))|/" "$FAKE/failures"
    echo "ERROR: (gcloud.$3.$4.$5) $message" >&2
    exit "$status"
  done < "$FAKE/failures"
fi
command=""
for word in "$@"; do case "$word" in --command=*) command=${word#--command=} ;; esac; done
there_is() {
  [ -e "$FAKE/$1" ] && return
  echo "ERROR: (gcloud.compute.tpus.$1) NOT_FOUND: Resource '$1' was not found" >&2
  exit 1
}
free() {
  [ ! -e "$FAKE/$1" ] && return
  echo "ERROR: (gcloud.compute.tpus.$1) ALREADY_EXISTS: Resource '$1' already exists" >&2
  exit 1
}
build() {
  echo READY > "$FAKE/tpu"; workers=0
  case "$1" in *v5litepod-16*) workers="0 1" ;; esac
  for i in $workers; do
    mkdir -p "$FAKE/worker$i/clipjax/venv/bin"
    ln -sf "$FAKE/python" "$FAKE/worker$i/clipjax/venv/bin/python"
  done
}
raze() { rm -rf "$FAKE/tpu" "$FAKE"/worker*; }
case "$*" in
  *"queued-resources describe"*)
    there_is queue; cat "$FAKE/queue"
    [ "$(cat "$FAKE/queue")" = PROVISIONING ] || exit 0
    build "$*"; echo ACTIVE > "$FAKE/queue" ;;
  *"queued-resources create"*) free queue; echo PROVISIONING > "$FAKE/queue" ;;
  *"queued-resources delete"*) there_is queue; rm "$FAKE/queue"; raze ;;
  *"tpu-vm create"*) free tpu; build "$*" ;;
  *"tpu-vm delete"*) there_is tpu; raze ;;
  *"tpu-vm start"*) echo READY > "$FAKE/tpu" ;;
  *"tpu-vm describe"*)
    if [ -e "$FAKE/later" ]; then
      read -r looks state < "$FAKE/later"
      echo "$((looks - 1)) $state" > "$FAKE/later"
      if [ "$looks" = 1 ]; then echo "$state" > "$FAKE/tpu"; rm "$FAKE/later"; fi
    fi
    there_is tpu; cat "$FAKE/tpu" ;;
  *"tpu-vm ssh"*)
    [ "$(cat "$FAKE/tpu")" = READY ] || exit 255
    case "$command" in *"--install-here"*) exit 0 ;; esac
    case "$*" in *--worker=all*) meant=("$FAKE"/worker*) ;; *) meant=("$FAKE/worker0") ;; esac
    for AT in "${meant[@]}"; do
      export AT
      [ ! -e "$FAKE/hook" ] || . "$FAKE/hook"
      (cd "$AT" && exec setsid bash -c "$command") & shell=$!
      trap 'kill -9 -- -$shell; exit 1' INT  # in an orderly way, as gcloud does
      while kill -0 $shell 2>/dev/null; do  # a preempted worker takes the connection with it
        [ "$(cat "$FAKE/tpu")" = READY ] || { kill -9 -- -$shell; exit 255; }
        sleep 1
      done
      wait $shell || exit $?
    done ;;
esac
"""
# Its session outlives the connection, as a server's does.
TMUX = """#!/usr/bin/env bash
case "$1" in
  has-session) [ -e "$AT/session" ] ;;
  kill-session) echo killed >> "$FAKE/killed"; [ -e "$AT/session" ] && rm "$AT/session" ;;
  new-session)
    touch "$AT/session"
    AT=$AT setsid bash -c "${@: -1}; rm -f '$AT/session'" > /dev/null 2>&1 & ;;
esac
"""
# Time is short here; what was asked for is kept.
SLEEP = """#!/usr/bin/env bash
echo "$1" >> "$FAKE/sleeps"
exec /bin/sleep 0.03
"""


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    """The script in a checkout that is packed in no time."""
    checkout = tmp_path_factory.mktemp("checkout")
    shutil.copy(SCRIPT, checkout)
    for words in ("init -q", "add ."):
        subprocess.run(["git", *words.split()], cwd=checkout, check=True)
    return checkout / SCRIPT.name


@pytest.fixture
def launch(tmp_path, script):
    """Runs the script; `python` is what a worker runs as venv/bin/python."""

    def prepare(python="exit 0", failures=(), hook=""):
        programs = {"gcloud": GCLOUD, "tmux": TMUX, "sleep": SLEEP}
        for name, text in (programs | {"python": f"#!/usr/bin/env bash\n{python}\n"}).items():
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").chmod(0o755)
            (tmp_path / "new").replace(tmp_path / name)  # the old one may be running
        (tmp_path / "failures").write_text("".join(f"{line}\n" for line in failures))
        (tmp_path / "hook").write_text(hook)
        (tmp_path / "tmp").mkdir(exist_ok=True)
        return os.environ | {
            "FAKE": str(tmp_path),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path / "tmp"),
        }

    def run(*words, **options):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        env = prepare(**options)
        done = subprocess.run([script, *words], env=env, capture_output=True, text=True, timeout=60)
        done.calls = calls.read_text().splitlines() if calls.exists() else []
        assert not any((tmp_path / "tmp").iterdir())
        return done

    run.prepare = prepare
    return run


ARGS = ("study", "--zone=z1", "--type=v5litepod-8", "--poll=1", "--watch=3")
RUN = ("--", "--config=x")
TWICE = """
    echo "attempt $(cat "$FAKE/attempts" 2>/dev/null)"
    [ -e "$FAKE/attempts" ] && exit 0
    echo second > "$FAKE/attempts"
"""
# In one act, because the script may look and make the TPU again between any two; what is left of
# its session goes with it.
PREEMPTED = TWICE + 'echo PREEMPTED > "$FAKE/new"; mv "$FAKE/new" "$FAKE/tpu"; kill -9 0'
CAPACITY = 'There is no more capacity in the zone "z1"'


def count(done, *words):
    return sum(all(word in call for word in words) for call in done.calls)


def test_the_command_runs_on_the_worker_and_its_log_is_shown(launch):
    given = ["--config=a b.py", '--config.note=it\'s $HOME "here" \\ * ;', "", "two\nlines"]
    done = launch(*ARGS, "--", *given, python='printf "<%s>" "$@"')
    assert done.returncode == 0, done.stderr
    said = "".join(f"<{word}>" for word in ["-m", "experiments.main", *given])
    assert said in done.stdout  # quoting survives all shells
    verbs = [next(v for v in ("describe", "create", "scp", "ssh") if v in c) for c in done.calls]
    assert verbs[:6] == ["describe", "create", "describe", "scp", "ssh", "ssh"]
    assert "cost money until it is deleted: ./launch_tpu.sh study --zone=z1 --delete" in done.stderr


def test_a_pod_runs_the_command_on_every_worker_and_shows_the_first(launch, tmp_path):
    words = ("pod", "--zone=z1", "--type=v5litepod-16", "--poll=1", *RUN)
    done = launch(*words, python='echo "$@" > "$AT/ran"; echo "here is ${AT##*/}"')
    assert done.returncode == 0, done.stderr
    assert "here is worker0" in done.stdout and "here is worker1" not in done.stdout
    ran = [(tmp_path / worker / "ran").read_text() for worker in ("worker0", "worker1")]
    assert ran == ["-m experiments.main --config=x\n"] * 2


def test_a_preempted_tpu_is_made_again_and_the_run_goes_on(launch):
    done = launch(*ARGS, "--spot", *RUN, python=PREEMPTED)
    assert done.returncode == 0, done.stderr
    assert "making it again" in done.stdout and "attempt second" in done.stdout
    assert count(done, "tpu-vm create", "--spot") == 2
    assert count(done, "tpu-vm delete") == 1


@pytest.mark.parametrize("code", [1, 134])
def test_a_run_that_fails_before_the_tpu_is_seen_to_go_is_a_preemption(launch, code):
    """Another worker goes first: the state turns three looks later."""
    python = TWICE + f'echo "3 PREEMPTED" > "$FAKE/later"; exit {code}'
    done = launch(*ARGS, "--spot", *RUN, python=python)
    assert done.returncode == 0, done.stderr
    assert f"ended with exit code {code}" in done.stdout and "attempt second" in done.stdout
    assert count(done, "tpu-vm create") == 2


@pytest.mark.parametrize("code", [75, 143])
def test_a_run_that_was_told_to_stop_is_started_again(launch, code):
    done = launch(*ARGS, *RUN, python=TWICE + f"exit {code}")
    assert done.returncode == 0, done.stderr
    assert f"told to stop (exit code {code})" in done.stdout and "attempt second" in done.stdout
    assert count(done, "tpu-vm create") == 1  # the TPU is still there


@pytest.mark.parametrize("line", ["process 0 of 2 lost contact with", "that another task died;"])
def test_a_run_that_lost_contact_on_a_tpu_that_stays_is_started_again(launch, line):
    done = launch(*ARGS, *RUN, python=TWICE + f'echo "clipjax: {line}"; exit 1')
    assert done.returncode == 0, done.stderr
    assert "starting the run again" in done.stdout and count(done, "tpu-vm create") == 1


def test_a_run_whose_session_is_gone_without_an_exit_code_is_started_again(launch):
    """Worker 0 was restarted, say."""
    done = launch(*ARGS, *RUN, python=TWICE + 'rm "$AT/session"; kill -9 0')
    assert done.returncode == 0, done.stderr
    assert "without an exit code" in done.stdout and count(done, "tpu-vm create") == 1


def test_a_run_that_is_stopped_again_and_again_is_given_up(launch):
    done = launch(*ARGS, "--retries=1", *RUN, python="exit 75")
    assert done.returncode == 1 and "the run started 2 times" in done.stderr
    assert "--delete" in done.stderr


def test_preemptions_are_counted(launch):
    python = PREEMPTED.replace('[ -e "$FAKE/attempts" ] && exit 0', "")
    done = launch(*ARGS, "--spot", "--retries=1", *RUN, python=python)
    assert done.returncode == 1 and "was made 2 times" in done.stderr
    assert count(done, "tpu-vm create") == 2 and count(done, "tpu-vm delete") == 1


def test_a_failed_run_is_not_repeated(launch):
    done = launch(*ARGS, *RUN, python="echo broken; exit 3")
    assert done.returncode == 3 and "broken" in done.stdout and "exit code 3" in done.stderr
    assert count(done, "create") == 1 and count(done, "tmux new-session") == 1
    assert count(done, "describe") >= 4  # --watch=3: looked at for a while


def test_a_run_that_failed_while_the_connection_was_lost_is_not_repeated(launch):
    """The log, the state and the run cannot be seen for a while; then the run has failed."""
    failures = ["--pid=|1|255|lost", "tpu-vm describe study|0|1|UNAVAILABLE: later"]
    python = 'sed -i "2s/|0|/|2|/" "$FAKE/failures"; exit 3'
    done = launch(*ARGS, *RUN, python=python, failures=failures)
    assert done.returncode == 3 and "UNAVAILABLE" in done.stderr
    assert count(done, "tmux new-session") == 1


def test_no_capacity_after_a_preemption_is_awaited(launch, tmp_path):
    python = PREEMPTED.replace(
        "echo PREEMPTED", 'sed -i "s/|0|/|4|/" "$FAKE/failures"; echo PREEMPTED'
    )
    done = launch(*ARGS, "--spot", *RUN, python=python, failures=[f"tpu-vm create|0|1|{CAPACITY}"])
    assert done.returncode == 0, done.stderr
    assert count(done, "tpu-vm create") == 6 and "attempt second" in done.stdout
    assert [f"again in {n} s" in done.stderr for n in (1, 2, 4, 8)] == [True] * 4
    assert {"1", "2", "4", "8"} <= set((tmp_path / "sleeps").read_text().split())


def test_no_capacity_is_given_up_after_all_retries(launch):
    failures = [f"tpu-vm create|99|1|{CAPACITY}"]
    done = launch(*ARGS, "--retries=4", *RUN, failures=failures)
    assert done.returncode == 1 and count(done, "tpu-vm create") == 5
    last = done.stderr.rindex("no more capacity")
    assert "5 times in a row" in done.stderr[last:]  # gcloud's message is just above


def test_what_trying_again_does_not_help_ends_soon(launch):
    failures = ["tpu-vm create|99|1|PERMISSION_DENIED: tpu.nodes.create denied"]
    done = launch(*ARGS, *RUN, failures=failures)
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr
    assert count(done, "tpu-vm create") == 3
    failures = ["tpu-vm create|99|2|argument --accelerator-type: invalid"]
    done = launch(*ARGS, *RUN, failures=failures)
    assert done.returncode == 1 and "argument --accelerator-type" in done.stderr
    assert count(done, "tpu-vm create") == 1


@pytest.mark.parametrize("step", ["tpu-vm scp", "--install-here", "tmux new-session"])
def test_a_worker_that_cannot_be_reached_yet_is_tried_again(launch, step):
    failures = [f"{step}|3|255|[/usr/bin/ssh] exited with return code [255]."]
    done = launch(*ARGS, *RUN, failures=failures, python="echo it runs")
    assert done.returncode == 0, done.stderr
    assert "it runs" in done.stdout and count(done, "tpu-vm create") == 1
    assert done.stderr.count("return code [255]") == 3


@pytest.mark.parametrize("step", ["tpu-vm scp", "--install-here", "tmux new-session"])
def test_a_tpu_that_goes_while_it_is_set_up_is_made_again(launch, tmp_path, step):
    (tmp_path / "later").write_text("3 PREEMPTED")
    done = launch(*ARGS, "--spot", *RUN, failures=[f"{step}|1|255|ssh"], python="echo it runs")
    assert done.returncode == 0, done.stderr
    assert "it runs" in done.stdout and count(done, "tpu-vm create") == 2


def test_a_worker_that_cannot_be_installed_on_ends_soon_and_the_tpu_is_named(launch):
    failures = ["--install-here|99|1|launch_tpu.sh: clipjax could not be installed"]
    done = launch(*ARGS, "--project=p1", *RUN, failures=failures)
    assert done.returncode == 1 and count(done, "--install-here") == 3
    assert "./launch_tpu.sh study --zone=z1 --project=p1 --delete" in done.stderr


def test_a_start_that_failed_halfway_is_repeated_on_all_workers(launch, tmp_path):
    """Worker 0 runs, worker 1 does not: no run to follow."""
    hook = """case "$AT$command" in *worker1*new-session*)
      [ -e "$FAKE/half" ] || { touch "$FAKE/half"; exit 255; } ;; esac"""
    words = ("pod", "--zone=z1", "--type=v5litepod-16", "--poll=1", *RUN)
    python = """echo "$AT" >> "$FAKE/ran"
    for i in {1..200}; do grep -q worker1 "$FAKE/ran" && exit 0; sleep 1; done; exit 1"""
    launch(*words)  # the TPU is there already
    done = launch(*words, python=python, hook=hook)
    assert done.returncode == 0, done.stderr
    ran = (tmp_path / "ran").read_text().split()
    assert [sum(f"worker{i}" in line for line in ran) for i in (0, 1)] == [2, 1]


def test_a_description_that_fails_is_not_taken_for_no_tpu(launch):
    launch(*ARGS, *RUN)
    failures = ["tpu-vm describe|2|1|UNAVAILABLE: try later"]
    done = launch(*ARGS, *RUN, failures=failures, python="echo it runs")
    assert done.returncode == 0 and "it runs" in done.stdout
    assert count(done, "tpu-vm create") == 0 and done.stderr.count("UNAVAILABLE") == 2


@pytest.fixture
def under_way(launch, script, tmp_path):
    """A run that goes on until $FAKE/over is there, left by a script that got Ctrl-C."""
    python = 'echo "it runs"; for i in {1..900}; do [ ! -e "$FAKE/over" ] || exit 0; sleep 1; done'
    env = launch.prepare(python=python)
    with (tmp_path / "out").open("w") as out:
        script = subprocess.Popen(
            [script, *ARGS, *RUN],
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        until = time.monotonic() + 30
        while "it runs" not in (tmp_path / "out").read_text() and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(script.pid, signal.SIGINT)
        script.wait(30)
    yield script.returncode, (tmp_path / "out").read_text()
    (tmp_path / "over").touch()


def test_ctrl_c_says_what_is_still_there_and_the_same_command_follows_it(under_way, launch):
    code, said = under_way
    assert code == 130
    assert "the run goes on without this script" in said
    assert "until it is deleted: ./launch_tpu.sh study --zone=z1 --delete" in said
    hook = 'case "$command" in *tail*-F*) touch "$FAKE/over" ;; esac'
    done = launch(*ARGS, *RUN, hook=hook)
    assert done.returncode == 0 and "it runs" in done.stdout
    assert count(done, "create") + count(done, "new-session") == 0


def test_a_worker_that_does_not_answer_is_no_reason_to_start_again(under_way, launch, tmp_path):
    before = (tmp_path / "killed").read_text()
    failures = ["session=yes|99|255|ssh: connection timed out"]
    done = launch(*ARGS, "--retries=2", *RUN, failures=failures)
    assert done.returncode == 1 and "did not answer" in done.stderr
    assert "connection timed out" in done.stderr
    assert count(done, "new-session") + count(done, "scp") == 0
    assert (tmp_path / "killed").read_text() == before


def test_another_command_under_way_is_not_taken_for_this_one(under_way, launch):
    done = launch(*ARGS, "--", "--config=new")
    assert done.returncode == 1 and count(done, "new-session") == 0
    assert "another command is under way" in done.stderr and "--config=x" in done.stderr
    for words in ("tail -F clipjax/run.log", "tmux kill-session", "--delete"):
        assert words in done.stderr, words


def test_a_queued_resource_is_awaited_and_deleted(launch):
    assert launch(*ARGS, "--queued", *RUN).returncode == 0
    done = launch("study", "--zone=z1", "--queued", "--delete")
    assert done.returncode == 0 and count(done, "queued-resources delete study") == 1


def test_a_queued_resource_is_deleted_without_being_mentioned(launch, tmp_path):
    done = launch(*ARGS, "--queued", *RUN)
    assert count(done, "queued-resources create study", "--node-id=study") == 1
    done = launch("study", "--zone=z1", "--delete")
    assert done.returncode == 0 and count(done, "queued-resources delete study", "--force") == 1
    assert not (tmp_path / "queue").exists() and not (tmp_path / "tpu").exists()


@pytest.mark.parametrize("left", ["PREEMPTED", ""])
def test_a_preempted_queued_resource_is_made_again(launch, left):
    """It is SUSPENDED; its TPU may be gone or not."""
    python = PREEMPTED.replace("mv ", 'echo SUSPENDED > "$FAKE/queue"; mv ')
    if not left:
        python = python.replace('mv "$FAKE/new"', "rm")
    done = launch(*ARGS, "--spot", "--queued", *RUN, python=python)
    assert done.returncode == 0, done.stderr
    assert "attempt second" in done.stdout and count(done, "queued-resources create") == 2


def test_delete_deletes_what_there_is_or_says_so(launch, tmp_path):
    launch(*ARGS, *RUN)
    done = launch("study", "--zone=z1", "--delete")
    assert done.returncode == 0 and count(done, "tpu-vm delete study") == 1
    assert not (tmp_path / "tpu").exists()
    done = launch("study", "--zone=z1", "--delete")
    assert done.returncode == 1 and "nothing was deleted" in done.stderr


def test_a_deletion_that_fails_is_said(launch):
    launch(*ARGS, *RUN)
    for call in ("queued-resources describe", "tpu-vm describe", "tpu-vm delete"):
        failures = [f"{call}|1|1|UNAVAILABLE: try later"]
        done = launch("study", "--zone=z1", "--delete", failures=failures)
        assert done.returncode == 1 and "UNAVAILABLE" in done.stderr
        assert "cost money until" in done.stderr


def test_a_gcloud_without_queued_resources_deletes_the_tpu(launch, tmp_path):
    launch(*ARGS, *RUN)
    failures = ["queued-resources describe|1|2|Invalid choice: 'queued-resources'."]
    assert launch("study", "--zone=z1", "--delete", failures=failures).returncode == 0
    assert not (tmp_path / "tpu").exists()


def test_a_tpu_that_somebody_deleted_is_not_made_again(launch):
    done = launch(*ARGS, *RUN, python='rm "$FAKE/tpu"; exit 1')
    assert done.returncode == 1 and "deleted by somebody" in done.stderr
    assert count(done, "tpu-vm create") == 1


def test_a_stopped_tpu_is_started_with_its_disk(launch, tmp_path):
    launch(*ARGS, *RUN)
    (tmp_path / "tpu").write_text("STOPPED")
    done = launch(*ARGS, *RUN, python="echo it runs")
    assert done.returncode == 0 and count(done, "create") + count(done, "delete study") == 0


def test_a_preempted_tpu_stays_where_its_type_is_not_given(launch, tmp_path):
    launch(*ARGS, *RUN)
    (tmp_path / "tpu").write_text("PREEMPTED")
    done = launch("study", "--zone=z1", *RUN)
    assert done.returncode == 1 and "is PREEMPTED; give --type" in done.stderr
    assert count(done, "delete study") == 0


def test_a_dry_run_prints_every_command_and_runs_none(launch):
    done = launch(*ARGS, "--project=p1", "--dry-run", *RUN)
    assert done.returncode == 0 and done.calls == []
    lines = done.stdout.splitlines()
    verbs = (
        "describe",
        "tpu-vm create study",
        "scp",
        "--install-here",
        "tmux new",
        "tail",
        "delete",
    )
    for verb in verbs:
        assert any(verb in line for line in lines), verb
    clouds = [line for line in lines if line.startswith("gcloud")]
    assert all("--zone=z1" in line and "--project=p1" in line for line in clouds)
    done = launch("study", "--zone=z1", "--delete", "--dry-run")
    assert done.returncode == 0 and done.calls == []
    assert "queued-resources delete" in done.stdout and "tpu-vm delete" in done.stdout


def test_the_commands_of_a_dry_run_can_be_pasted(launch, tmp_path):
    """Pasted one after the other they do what the script does."""
    done = launch(*ARGS, "--dry-run", "--", "--config=it's a b")
    (tmp_path / "pasted").write_text(done.stdout)
    env = launch.prepare(python='printf "<%s>" "$@"')
    pasted = subprocess.run(
        ["bash", tmp_path / "pasted"], env=env, capture_output=True, text=True, timeout=60
    )
    assert "<-m><experiments.main><--config=it's a b>" in pasted.stdout, pasted.stderr
    assert "status=0" in pasted.stdout and not (tmp_path / "tpu").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "name"),
        (("study",), "--zone"),
        (("study", "--zone=z"), "nothing to run"),
        (("study", "--zone=z", "--sopt", "--", "x"), "--sopt"),
        (("study", "--zone=z", "--poll=0", "--", "x"), "--poll=0"),
        (("study", "--zone=z", "--watch=", "--", "x"), "--watch="),
        (("study", "--zone=z", "--", "--config=x"), "--type"),
    ],
)
def test_what_is_missing_is_named(launch, words, says):
    done = launch(*words)
    assert done.returncode == 1 and says in done.stderr
    assert count(done, "create") == 0


@pytest.fixture
def worker(tmp_path):
    """Runs --install-here on a machine that has these programs only."""

    def run(*, python, curl="exit 1", tmux=True):
        home, programs = tmp_path / "clipjax", tmp_path / "bin"
        for folder in (home, programs):
            folder.mkdir()
        shutil.copy(SCRIPT, home)
        for name in ("bash", "dirname", "rm", "env", "sh", "mkdir", "cp", "chmod", "cat"):
            (programs / name).symlink_to(shutil.which(name))
        stands = {"python3": python, "curl": curl} | ({"tmux": "true"} if tmux else {})
        for name, text in stands.items():
            (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (programs / name).chmod(0o755)
        env = {"PATH": str(programs), "HOME": str(tmp_path), "AT": str(tmp_path)}
        done = subprocess.run(
            [home / SCRIPT.name, "--install-here"], env=env, capture_output=True, text=True
        )
        done.calls = (tmp_path / "did").read_text() if (tmp_path / "did").exists() else ""
        return done

    return run


# `venv` and uv alike leave this as the environment's python.
VENV = """mkdir -p venv/bin; { echo '#!/usr/bin/env bash'; echo 'echo "venv $*" >> $AT/did'; \
} > venv/bin/python; chmod +x venv/bin/python"""
UV = f"""mkdir -p "$folder"; cat > "$folder/uv" <<'END'
#!/usr/bin/env bash
echo "uv $*" >> $AT/did
{VENV}
END
chmod +x "$folder/uv\""""
OLD = """case "$1$2" in -mpip) {pip} ;; -c*) exit 1 ;; *) exit 99 ;; esac"""


def test_a_recent_python_makes_its_own_environment(worker):
    done = worker(python=f'case "$2" in venv) {VENV} ;; esac')
    assert done.returncode == 0, done.stderr
    assert done.calls.splitlines() == ["venv -m pip install -q -e .[tpu]"]


@pytest.mark.parametrize("source", ["PyPI", "astral.sh"])
def test_where_python_is_old_uv_brings_one(worker, source):
    if source == "PyPI":  # pip install --target uv uv
        done = worker(python=OLD.format(pip=f"folder=uv/bin; {UV}"))
    else:
        installer = f"""cat <<'INSTALLER'\nfolder="$UV_UNMANAGED_INSTALL"; {UV}\nINSTALLER"""
        done = worker(python=OLD.format(pip="exit 1"), curl=installer)
    assert done.returncode == 0, done.stderr
    made, installed = done.calls.splitlines()
    assert made == "uv venv --quiet --seed --python 3.11 venv"
    assert installed == "venv -m pip install -q -e .[tpu]"


def test_where_uv_cannot_be_had_a_sentence_says_so(worker):
    done = worker(python=OLD.format(pip="echo no route >&2; exit 1"))
    assert done.returncode == 1 and "no route" in done.stderr
    assert "no Python 3.11" in done.stderr and "uv" in done.stderr


def test_a_machine_without_tmux_says_so(worker):
    done = worker(python="exit 1", tmux=False)
    assert done.returncode == 1 and "no tmux" in done.stderr


def test_shellcheck_is_content():
    if not shutil.which("shellcheck"):
        pytest.skip('needs shellcheck: pip install -e ".[test]"')
    subprocess.run(["shellcheck", SCRIPT], check=True)
