"""launch_tpu.sh with a stand-in gcloud, whose workers are folders here."""

import os
import shutil
import subprocess

import pytest

from tests.conftest import REPO

SCRIPT = REPO / "launch_tpu.sh"

# Records its calls; keeps the TPU's state in a file; runs what ssh is asked to in the folder of
# every worker meant ($AT), where `python` says its arguments and ends as the test wants. Only
# installing is left out. v5litepod-16 has two workers, as some types of many chips have more.
GCLOUD = """#!/usr/bin/env bash
echo "$*" >> "$FAKE/calls"
command=""
for word in "$@"; do case "$word" in --command=*) command=${word#--command=} ;; esac; done
case "$*" in
  *"queued-resources describe"*) echo ACTIVE ;;
  *"queued-resources create"* | *"tpu-vm create"*)
    echo READY > "$FAKE/state"; workers=0
    case "$*" in *v5litepod-16*) workers="0 1" ;; esac
    for i in $workers; do
      mkdir -p "$FAKE/worker$i/clipjax/venv/bin"
      cp "$FAKE/python" "$FAKE/worker$i/clipjax/venv/bin/python"
    done ;;
  *delete*) rm -rf "$FAKE/state" "$FAKE"/worker* ;;
  *"tpu-vm describe"*) cat "$FAKE/state" ;;
  *"tpu-vm ssh"*)
    [ "$(cat "$FAKE/state")" = READY ] || exit 255
    case "$command" in *"pip install"*) exit 0 ;; esac
    case "$*" in *--worker=all*) meant=("$FAKE"/worker*) ;; *) meant=("$FAKE/worker0") ;; esac
    for AT in "${meant[@]}"; do
      export AT
      cd "$AT" && setsid bash -c "$command" & shell=$!
      while kill -0 $shell 2>/dev/null; do  # a preempted worker takes the connection with it
        [ "$(cat "$FAKE/state")" = READY ] || { kill -9 -- -$shell; exit 255; }
        sleep 0.2
      done
      wait $shell || exit $?
    done ;;
esac
"""
TMUX = """#!/usr/bin/env bash
case "$1" in
  has-session) [ -e "$AT/session" ] ;;
  kill-session) [ -e "$AT/session" ] && rm "$AT/session" ;;
  new-session) touch "$AT/session"; (bash -c "${@: -1}"; rm -f "$AT/session") & ;;
esac
"""


@pytest.fixture
def launch(tmp_path):
    """Runs the script; `python` is what a worker runs as venv/bin/python."""

    def run(*words, python="exit 0"):
        programs = {"gcloud": GCLOUD, "tmux": TMUX, "python": "#!/usr/bin/env bash\n" + python}
        for name, text in programs.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        env = os.environ | {"FAKE": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            [SCRIPT, *words], env=env, capture_output=True, text=True, timeout=120
        )
        calls = tmp_path / "calls"
        done.calls = calls.read_text().splitlines() if calls.exists() else []
        return done

    return run


ARGS = ("study", "--zone=z1", "--type=v5litepod-8", "--poll=1")


def test_the_command_runs_on_the_worker_and_its_log_is_shown(launch):
    done = launch(*ARGS, "--", "--config=a b.py", python='printf "<%s>" "$@"')
    assert done.returncode == 0, done.stderr
    assert "<-m><experiments.main><--config=a b.py>" in done.stdout  # quoting survives all shells
    verbs = [next(v for v in ("describe", "create", "scp", "ssh") if v in c) for c in done.calls]
    assert verbs[:5] == ["describe", "create", "ssh", "scp", "ssh"]


def test_a_pod_runs_the_command_on_every_worker_and_shows_the_first(launch, tmp_path):
    words = ("pod", "--zone=z1", "--type=v5litepod-16", "--poll=1", "--", "--config=x")
    done = launch(*words, python='echo "$@" > "$AT/ran"; echo "here is ${AT##*/}"')
    assert done.returncode == 0, done.stderr
    assert "here is worker0" in done.stdout and "here is worker1" not in done.stdout
    ran = [(tmp_path / worker / "ran").read_text() for worker in ("worker0", "worker1")]
    assert ran == ["-m experiments.main --config=x\n"] * 2


def test_a_preempted_tpu_is_made_again_and_the_run_goes_on(launch):
    python = """
    echo "attempt $(cat "$FAKE/attempts" 2>/dev/null)"
    [ -e "$FAKE/attempts" ] && exit 0
    echo second > "$FAKE/attempts"
    echo PREEMPTED > "$FAKE/state"; rm -f "$AT/session"; kill -9 $PPID; sleep 1
    """
    done = launch(*ARGS, "--spot", "--", "--config=x", python=python)
    assert done.returncode == 0, done.stderr
    assert "making it again" in done.stdout and "attempt second" in done.stdout
    assert sum("tpu-vm create" in call and "--spot" in call for call in done.calls) == 2
    assert sum("tpu-vm delete" in call for call in done.calls) == 1


@pytest.mark.parametrize("code", [75, 143])
def test_a_run_that_was_told_to_stop_is_started_again(launch, code):
    python = f"""
    echo "attempt $(cat "$FAKE/attempts" 2>/dev/null)"
    [ -e "$FAKE/attempts" ] && exit 0
    echo second > "$FAKE/attempts"; exit {code}
    """
    done = launch(*ARGS, "--", "--config=x", python=python)
    assert done.returncode == 0, done.stderr
    assert f"told to stop (exit code {code})" in done.stdout and "attempt second" in done.stdout
    assert sum("tpu-vm create" in call for call in done.calls) == 1  # the TPU is still there


def test_a_run_that_is_stopped_again_and_again_is_given_up(launch):
    done = launch(*ARGS, "--retries=1", "--", "--config=x", python="exit 75")
    assert done.returncode == 1 and "gave up after the run was stopped 2 times" in done.stderr


def test_a_failed_run_is_not_repeated(launch):
    done = launch(*ARGS, "--", "--config=x", python="echo broken; exit 3")
    assert done.returncode == 3 and "broken" in done.stdout and "exit code 3" in done.stderr
    assert sum("create" in call for call in done.calls) == 1


def test_a_queued_resource_is_awaited_and_deleted(launch):
    assert launch(*ARGS, "--queued", "--", "--config=x").returncode == 0
    done = launch("study", "--zone=z1", "--queued", "--delete")
    assert any("queued-resources create study" in c and "--node-id=study" in c for c in done.calls)
    assert "queued-resources delete study" in done.calls[-1]


def test_a_dry_run_prints_every_command_and_runs_none(launch):
    done = launch(*ARGS, "--project=p1", "--dry-run", "--", "--config=x")
    assert done.returncode == 0 and done.calls == []
    lines = done.stdout.splitlines()
    for verb in ("tpu-vm create study", "scp", "pip", "tmux", "tail"):
        assert any(verb in line for line in lines), verb
    clouds = [line for line in lines if line.startswith("gcloud")]
    assert all("--zone=z1" in line and "--project=p1" in line for line in clouds)


@pytest.mark.parametrize(
    "words, says",
    [
        ((), "name"),
        (("study",), "--zone"),
        (("study", "--zone=z"), "nothing to run"),
        (("study", "--zone=z", "--sopt", "--", "x"), "--sopt"),
        (("study", "--zone=z", "--", "--config=x"), "--type"),
    ],
)
def test_what_is_missing_is_named(launch, words, says):
    done = launch(*words)
    assert done.returncode == 1 and says in done.stderr
    assert not any("create" in call for call in done.calls)


def test_shellcheck_is_content():
    if not shutil.which("shellcheck"):
        pytest.skip('needs shellcheck: pip install -e ".[test]"')
    subprocess.run(["shellcheck", SCRIPT], check=True)
