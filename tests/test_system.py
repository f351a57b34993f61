"""Faults of the system and signals: one line each, nothing lost, and one run a work directory."""

import errno
import gc
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from etils import epath

from timeldm_jax import TimeLDM, command, experiment
from timeldm_jax.errors import ConfigError
from timeldm_jax.training import checkpoint, loop
from timeldm_jax.workdir import Workdir, only_run, open_atomic


@pytest.fixture
def workdir(tmp_path):
    return Workdir(epath.Path(tmp_path / "run"))


def test_one_run_at_a_time_has_a_work_directory(workdir):
    with only_run(workdir) as others:
        assert others == ""
        with only_run(workdir) as second:
            assert f"process {os.getpid()} on " in second
        assert workdir.holder.exists()  # who asked in vain took nothing away
    assert not workdir.holder.exists()
    with only_run(workdir) as others:
        assert others == ""


def test_a_killed_run_holds_nothing(workdir):
    script = f"""
        import time
        from etils import epath
        from timeldm_jax.workdir import Workdir, only_run
        with only_run(Workdir(epath.Path({str(workdir.root)!r}))):
            print("held", flush=True)
            time.sleep(60)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with only_run(workdir) as others:
            assert f"process {child.pid} on " in others
        child.kill()
    with only_run(workdir) as others:
        assert others == ""


def test_no_permission_needs_no_lock(workdir, monkeypatch):
    """What can only be read cannot be spoilt: a finished run may be looked at there."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", "it")

    monkeypatch.setattr("timeldm_jax.workdir.FileLock.acquire", refuse)
    with only_run(workdir) as others:
        assert others == ""


@pytest.mark.training
def test_a_second_command_is_refused_and_says_who_is_there(server, launch_flags, workdir, tmp_path):
    flags = (*launch_flags, f"--workdir={workdir.root}")
    with only_run(workdir):
        second = server.run(*flags, log=tmp_path / "log")
    assert second.code == 2
    assert f"is in use by another run (process {os.getpid()} on " in second.output
    assert "Traceback" not in second.output


@pytest.mark.training
@pytest.mark.parametrize("place", ["a file", "a file/run"])
def test_a_file_where_a_folder_should_be_is_one_line(server, launch_flags, tmp_path, place):
    (tmp_path / "a file").write_text("mine")
    child = server.run(*launch_flags, f"--workdir={tmp_path / place}", log=tmp_path / "log")
    assert child.code == 2
    assert child.output.splitlines()[-1].startswith("error: ")
    assert str(tmp_path / "a file") in child.output
    assert "Traceback" not in child.output
    assert (tmp_path / "a file").read_text() == "mine"


def test_a_full_disk_names_the_file_and_leaves_none(tmp_path):
    path = epath.Path(tmp_path / "scores.json")
    with pytest.raises(OSError, match="No space left on device") as caught, open_atomic(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_fit_is_not_begun(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    folder = epath.Path(tmp_path / "vae")
    with pytest.raises(OSError, match=r"no space left for a checkpoint of 1\.3 MB") as caught:
        checkpoint.save(folder, 1, {"w": np.zeros(200_000, np.float32)}, {}, loss=None)
    assert caught.value.filename == str(folder)
    assert not folder.exists()
    checkpoint.save(folder, 1, {"w": np.zeros(2, np.float32)}, {}, loss=None)
    assert checkpoint.steps(folder) == [1]


def test_a_fault_of_the_system_is_one_line_of_a_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, command.one_line_errors(then="; again resumes"):
        (tmp_path / "gone" / "file").write_text("")
    assert ended.value.code == 2
    expected = f"error: No such file or directory: {tmp_path / 'gone' / 'file'}; again resumes\n"
    assert capsys.readouterr().err == expected


def test_errors_of_our_own_are_not_hidden():
    with pytest.raises(ZeroDivisionError), command.one_line_errors():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="ours"), command.one_line_errors():
        raise ValueError("ours")
    with pytest.raises(SystemExit), command.one_line_errors(ValueError):
        raise ValueError("the user's")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_anywhere_ends_a_command_in_one_line(number, code, capsys):
    before = signal.getsignal(number)
    afterwards = []

    def stopped():
        try:
            os.kill(os.getpid(), number)
        finally:
            afterwards.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    with pytest.raises(SystemExit) as ended, command.one_line_errors(then="; again resumes"):
        stopped()
    assert afterwards == [signal.SIG_DFL] * 2  # the next one waits for nothing
    assert ended.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stopped: by ")
    assert line.endswith("; again resumes")
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("before", "second"),
    [(signal.default_int_handler, signal.default_int_handler), (lambda *_: None, signal.SIG_DFL)],
    ids=["in Python", "in a command"],
)
def test_training_waits_for_its_chunk_at_the_first_signal_only(before, second):
    own = signal.signal(signal.SIGINT, before)
    try:
        with loop._stop_signal() as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.is_set()
            assert request.is_interrupt
            assert signal.getsignal(signal.SIGINT) is second
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, own)


def test_sigterm_in_training_is_no_interrupt():
    with loop._stop_signal() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.is_set()
        assert not request.is_interrupt


ROWS = np.random.default_rng(0).normal(size=(300, 2))


@pytest.mark.parametrize("given", [True, False], ids=["workdir", "no workdir"])
def test_ctrl_c_in_python_keeps_what_was_done_and_says_where(tmp_path, monkeypatch, given):
    made = []

    def run(started):
        made.append(started.workdir)
        raise KeyboardInterrupt("stopped by a signal in stage vae; step 20 is saved")

    config = TimeLDM(window=8)._config
    config.vae.steps = config.ldm.steps = 100
    monkeypatch.setattr(experiment, "run", run)
    options = {"workdir": str(tmp_path / "run")} if given else {}
    with pytest.raises(KeyboardInterrupt) as stopped:
        TimeLDM(config=config).fit(ROWS, **options)
    gc.collect()  # the model, and with it a folder that was not kept
    (workdir,) = made
    try:
        assert "step 20 is saved; the same call with workdir=" in str(stopped.value)
        assert repr(str(workdir.root)) in str(stopped.value)
        assert workdir.config.exists()
    finally:
        shutil.rmtree(pathlib.Path(workdir.root))


def test_ctrl_c_before_anything_is_done_is_just_that(tmp_path, monkeypatch):
    def start(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "start", start)
    with pytest.raises(KeyboardInterrupt) as stopped:
        TimeLDM(window=8).fit(ROWS, workdir=str(tmp_path / "run"))
    assert str(stopped.value) == ""


def test_a_directory_that_another_run_took_meanwhile_is_refused(workdir):
    config = TimeLDM(window=8)._config
    started = experiment.Experiment(config, None, workdir)
    other = config.copy_and_resolve_references()
    other.vae.steps = 7
    workdir.root.mkdir()
    workdir.config.write_text(other.to_json())
    with pytest.raises(ConfigError, match="was taken by another run a moment ago"):
        experiment.run(started)
