"""What every verb owes its user."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reconciler.cli import VERBS, cli
from tests.cli.farm import Farm
from tests.test_architecture import PROJECT

BELOW = [
    f"{name} {below}"
    for name in VERBS
    if isinstance(group := cli.get_command(click.Context(cli), name), click.Group)
    for below in group.list_commands(click.Context(group))
]


@pytest.mark.parametrize("verb", [*VERBS, *BELOW])
def test_help_has_examples_and_fits_80_columns(verb: str) -> None:
    for flag in ("-h", "--help"):
        result = CliRunner().invoke(cli, [*verb.split(), flag])
        assert result.exit_code == 0
        examples = result.output.partition("  Examples:\n")[2].splitlines()
        assert examples
        begun = [
            x for x, before in zip(examples, ["", *examples], strict=False) if before[-1:] != "|"
        ]
        assert all("reconciler" in line for line in begun), "an example was wrapped"
        assert not [line for line in result.output.splitlines() if len(line) > 80]


def test_notes_stay_as_they_are_written() -> None:
    said = CliRunner().invoke(cli, ["run", "--help"]).output
    assert "\n  Exit status with --once:\n    0  all is as declared\n    1  something" in said


@pytest.mark.parametrize("group", ["", "incremental", "caches"])
def test_verbs_are_listed_in_their_order(group: str) -> None:
    output = CliRunner().invoke(cli, [*group.split(), "--help"]).output
    verbs = output.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    below = [each.split()[1] for each in BELOW if each.split()[0] == group]
    assert [line.split()[0] for line in verbs] == (below or list(VERBS))
    assert not [line for line in verbs if line.endswith("...")], "say it in fewer words"


def test_without_a_verb_its_help_is_printed() -> None:
    command = [sys.executable, "-m", "reconciler"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=PROJECT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: reconciler [OPTIONS] VERB")


@pytest.mark.parametrize("verb", ["why", "log", "graph", "incremental explain"])
def test_where_a_job_is_to_be_named_a_jobset_tells_its_jobs(good: Farm, verb: str) -> None:
    said = str(good.failure(*verb.split(), "web"))
    assert said == (
        "web is a jobset: name one of its jobs (web.site), or see `reconciler status web`"
    )


def test_a_fault_on_a_terminal_is_broken_between_words(good: Farm) -> None:
    text = good.terminal("status", "nothing")
    first, *below = text.splitlines()
    assert first.startswith("error: there is no jobset, job or derivation nothing")
    assert below
    assert all(len(line) <= 80 for line in (first, *below))


def test_an_explained_fault_is_one_line(farm: Farm) -> None:
    done = farm.process("status", "nothing")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no jobset, job or derivation nothing")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stat"], "error: there is no verb stat; did you mean status?"),
        (["incremental", "stats"], "error: there is no verb stats; did you mean status?"),
        (["caches", "verfiy"], "error: there is no verb verfiy; did you mean verify?"),
        (["log"], "error: Missing argument 'JOB'."),
        (["log", "a", "--attempt", "0"], "error: Invalid value for '--attempt'"),
        (["status", "--nothing"], "error: No such option"),
    ],
)
def test_usage(farm: Farm, arguments: list[str], said: str) -> None:
    done = farm.process(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "see: reconciler" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_state(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "status", "--state-dir", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
    )
    assert done.returncode == 4
    assert "error: there is no state in" in done.stderr


def test_places_are_taken_before_and_behind_the_verb_and_from_variables(good: Farm) -> None:
    state, config = ["--state-dir", str(good.state_dir)], ["--config", str(good.config)]
    variables = {
        "RECONCILER_STATE_DIR": str(good.state_dir),
        "RECONCILER_CONFIG": str(good.config),
    }
    wrong = {"RECONCILER_STATE_DIR": "/nowhere", "RECONCILER_CONFIG": "/nowhere"}
    for arguments, environment in (
        ([*state, *config, "status"], wrong),
        (["status", *state, *config], wrong),
        ([*state, "status", *config], wrong),
        (["--state-dir", "/nowhere", "status", *state, *config], {}),
        (["status"], variables),
    ):
        result = CliRunner().invoke(cli, arguments, env=environment)
        assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_a_closed_pipe_is_no_fault(good: Farm) -> None:
    command = [sys.executable, "-m", "reconciler", "events", "--limit", "0", *good.places]
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, cwd=PROJECT) as process:
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_an_interrupt_is_quiet(good: Farm) -> None:
    command = [sys.executable, "-m", "reconciler", "events", "-f", *good.places]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as process:
        guard = threading.Timer(30, process.kill)
        guard.start()
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        guard.cancel()
    assert process.returncode == 130
    assert errors.strip() == ""


def test_colours_are_for_terminals_that_want_them(good: Farm) -> None:
    script = shutil.which("script")
    assert script, "script (of util-linux) makes the terminal of this test"
    command = f"{sys.executable} -m reconciler status {' '.join(good.places)}"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm"}
    environment.pop("NO_COLOR", None)

    def on_terminal(**more: str) -> str:
        return subprocess.run(
            [script, "-qec", command, "/dev/null"],
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
        ).stdout

    assert "\x1b[32m" in on_terminal()
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    assert "\x1b" not in on_terminal(TERM="dumb")
    assert "\x1b" not in good.process("status").stdout


def test_what_the_encoding_lacks_is_left_out(good: Farm) -> None:
    ended = good.process("status", environment={"PYTHONIOENCODING": "latin-1"})
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert "? in sync: 2 jobsets" in ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        monkeypatch.setenv("PATH", "/nowhere")
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_RECONCILER_COMPLETE" in result.output


def test_names_are_completed(good: Farm) -> None:
    def complete(words: str) -> set[str]:
        done = good.process(
            environment={
                "_RECONCILER_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split(" ")) - 1),
                "RECONCILER_STATE_DIR": str(good.state_dir),
            }
        )
        return {line.partition(",")[2] for line in done.stdout.splitlines()}

    assert complete("reconciler why web.") == {"web.next", "web.site"}
    assert complete("reconciler why web.next.") == {"web.next.lib"}
    assert "status" in complete("reconciler st")


def test_a_full_disk_behind_standard_output_is_told(good: Farm) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", "--state-dir", str(good.state_dir), "status"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write to standard output: No space left on device\n"
