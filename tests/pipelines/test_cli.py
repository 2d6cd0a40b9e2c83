"""The command line: quick help, one plain message for a user's error, JSON alone on stdout."""

from __future__ import annotations

import json
import time

import pytest

from medae.errors import RESUME, Interrupted
from pipelines import stage

COMMANDS = {
    *("check", "plan", "pretrain", "finetune", "detect", "diagnose", "predict"),
    *("brainmask", "evaluate", "run", "demo", "curve", "export", "promote", "info", "data"),
}


def test_help_is_quick_and_names_every_command(medae, tmp_path):
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        answer = medae("--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - began)
    assert answer.returncode == 0
    listed = answer.stdout.split("Commands:")[1]
    assert {line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "} == COMMANDS
    assert "beside the same network from scratch." in " ".join(listed.split())
    assert min(seconds) < 0.5


def test_the_version_is_said_and_nothing_else(monkeypatch, capsys):
    from medae import __version__
    from pipelines import cli

    monkeypatch.setattr("sys.argv", ["medae", "--version"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    assert capsys.readouterr() == (f"medae {__version__}\n", "")


def test_help_imports_nothing_heavy(medae, tmp_path):
    import subprocess
    import sys

    heavy = ("torch", "monai", "mlflow", "numpy", "pydantic")
    script = f"import sys, pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pretrain", "no-such"), ("no configuration 'no-such'", "hippocampus")),
        (("pretrain", "phantoms", "--set", "fit.steps=many"), ("fit.steps", "integer")),
        (("pretrain", "hippocampus"), ("does not exist", "MEDAE_DATA", "medicaldecathlon")),
        (("check", "nowhere"), ("does not exist", "remedy")),
        (("info", "nowhere"), ("nowhere",)),
        (("evaluate", "a", "b"), ("does not exist",)),
        (("pretrain", "phantoms", "--resume", "--force"), ("Choose one",)),
        (
            ("run", "demo", "--set", "detect.fals_positive_rate=1"),
            ("fals_positive_rate", "did you mean false_positive_rate"),
        ),
        (
            ("pretrain", "configs/finetune/phantoms.yaml"),
            ("configuration of medae finetune, not of medae pretrain", "remedy"),
        ),
        (("finetune", "configs/pipelines/demo.yaml"), ("configuration of medae run, not of medae finetune",)),
        (("finetune", "configs/pretrain/phantoms.yaml"), ("medae pretrain or detect, not of medae finetune",)),
        (("finetune", "configs/detect/phantoms.yaml", "--encoder", "x"), ("medae detect, not of medae finetune",)),
        (("detect", "configs/finetune/phantoms.yaml", "--model", "x"), ("medae finetune, not of medae detect",)),
        (("run", "configs/finetune/phantoms.yaml"), ("configuration of medae finetune, not of medae run",)),
    ],
)
def test_a_users_error_is_one_plain_message_and_status_2(medae_here, tmp_path, arguments, words):
    answer = medae_here(*arguments, cwd=tmp_path, MEDAE_DATA=str(tmp_path))
    assert answer.returncode == 2
    assert all(word in answer.stderr for word in words), answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


@pytest.mark.parametrize(
    ("content", "command", "commands"),
    [
        ({"stages": {}}, "run", ("run",)),
        ({}, "run", ()),
        ({"name": "a", "fit": {}, "labelled": 3}, "finetune", ("finetune",)),
        ({"network": {"kind": "autoencoder"}, "fit": {}}, "detect", ("pretrain", "detect")),
        ({"network": {"kind": "unet"}, "validation_batches": 3}, "finetune", ("finetune",)),
        ({"network": {"kind": "vae"}, "labelled": 3}, "pretrain", ()),
        ({"probe": {}, "labelled": 3}, "pretrain", ()),
    ],
)
def test_what_a_configuration_can_be_for(content, command, commands):
    assert stage._commands_of(content) == commands
    stage.check_stage(command, content, "x.yaml")


def test_an_interruption_is_status_130_with_its_message(monkeypatch, capsys):
    from pipelines import cli

    def stopped(*_: object) -> None:
        raise Interrupted("Training was interrupted.", remedy="Go on with --resume.")

    monkeypatch.setattr("pipelines.info.run", stopped)
    monkeypatch.setattr("sys.argv", ["medae", "info", "x"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("Training was interrupted.\n  remedy: Go on with --resume.")


@pytest.mark.parametrize(
    ("arguments", "where", "words"),
    [
        (["check", "x"], "pipelines.check.run", "Interrupted.\n"),
        (["finetune", "x"], "pipelines.stage.command", "Interrupted. The same command goes on with --resume.\n"),
        (["run", "x"], "pipelines.run.run", "Interrupted. The same command goes on where it was.\n"),
        (
            ["run", "x", "--force"],
            "pipelines.run.run",
            "Interrupted. The same command without --force goes on where it was.\n",
        ),
    ],
)
def test_ctrl_c_is_answered_with_how_to_go_on(monkeypatch, capsys, arguments, where, words):
    from pipelines import cli

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stopped)
    monkeypatch.setattr("sys.argv", ["medae", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith(words)


@pytest.mark.parametrize(
    ("arguments", "where", "words"),
    [
        (["run", "x"], "pipelines.run.run", "is intact: run the same command again."),
        (["run", "x", "--no-resume"], "pipelines.run.run", "is intact: run the same command without --no-resume again."),
        (["pretrain", "x"], "pipelines.stage.command", "is intact: go on with --resume (Python: resume=True)."),
    ],
)
def test_a_stopped_training_is_gone_on_with_as_its_command_does(monkeypatch, capsys, arguments, where, words):
    from pipelines import cli

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("Training was interrupted.", remedy=f"The checkpoint of step 3 is intact: {RESUME}.")

    monkeypatch.setattr(where, stopped)
    monkeypatch.setattr("sys.argv", ["medae", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err.strip().endswith(words)


def test_a_fault_of_ours_is_status_1_with_a_traceback(monkeypatch, capsys):
    from pipelines import cli

    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("pipelines.info.run", broken)
    monkeypatch.setattr("sys.argv", ["medae", "info", "x"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "fault of medae" in shown


def test_a_users_error_in_a_process_of_its_own(medae, tmp_path):
    answer = medae("pretrain", "no-such", cwd=tmp_path)
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[1].startswith("Error: There is no configuration 'no-such'"), answer.stderr
    assert answer.stdout == ""


def test_json_stands_alone_on_stdout(medae, smoke):
    phantoms = smoke.folder / "runs" / "smoke-phantoms"
    answer = medae("check", str(phantoms), "--json", cwd=smoke.folder)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["facts"]["cases"] == 10
    assert found == json.loads((smoke.folder / "runs" / "check" / "smoke-phantoms" / "result.json").read_text())
