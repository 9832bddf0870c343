"""The lock on the folder of a training run, and temporary files that a killed process left."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.commands import QUICK, error_of, names_in, run
from helpers.models import few_digits
from helpers.trainings import make_recipe, new_model

from minivit import files, training
from minivit.training import LockedError, lock, lock_folder

HOLD = """
import sys, time
from minivit.training import lock_folder
with lock_folder(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Start a process that holds the lock on the folder `run`, and return the process."""
    monkeypatch.chdir(tmp_path)
    line = [sys.executable, "-c", HOLD, "run"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_a_second_run_is_rejected_and_the_error_names_the_first_process(holder):
    message = error_of("train", *QUICK, "--out", "run")
    pattern = (
        r"{} is in use by process {}, which started \d s ago\. Wait for it, or choose another "
    )
    pattern = pattern.format(re.escape(str(Path("run").resolve())), holder.pid)
    assert re.fullmatch(pattern + "folder with --out", message)
    assert names_in(Path("run")) == ["run.lock"]
    with pytest.raises(LockedError, match=f"in use by process {holder.pid}, "):
        training.train(new_model(), few_digits(), make_recipe(), "run")
    Path("run/model.npz").write_bytes(b"the checkpoint")
    assert "in use by" in error_of("train", "--resume", "--out", "run")
    with pytest.raises(LockedError, match="in use by"):
        training.resume("run", new_model(), few_digits())
    assert Path("run/model.npz").read_bytes() == b"the checkpoint"


def test_the_lock_of_a_killed_process_is_released(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert Path("run/run.lock").exists()
    with lock_folder("run"):
        assert Path("run/run.lock").read_text().split()[0] == str(os.getpid())
    assert not Path("run").exists() or names_in(Path("run")) == []


def test_a_lock_can_be_nested_and_is_released_after_an_error(tmp_path):
    def fail_in_nested_locks():
        with lock_folder(tmp_path):
            with lock_folder(tmp_path):
                pass
            assert names_in(tmp_path) == ["run.lock"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_nested_locks()
    assert names_in(tmp_path) == []


def test_folders_are_created_and_removed_again_if_nothing_was_written(tmp_path):
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert names_in(tmp_path / "a") == ["file"]


def test_a_lock_file_that_another_process_deletes_is_created_again(tmp_path, monkeypatch):
    path, flock = tmp_path / "run.lock", lock.fcntl.flock

    def delete_and_lock(file, operation):
        monkeypatch.setattr(lock.fcntl, "flock", flock)  # only once
        path.unlink()  # as the process that held the lock does when it releases it
        flock(file, operation)

    monkeypatch.setattr(lock.fcntl, "flock", delete_and_lock)
    with lock_folder(tmp_path):
        assert path.exists()


def test_a_file_system_without_locks_is_accepted(tmp_path, monkeypatch):
    def fail(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", fail)
    with lock_folder(tmp_path):
        assert names_in(tmp_path) == ["run.lock"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200_000, "2 days")],
)
def test_an_age_is_formatted_in_a_suitable_unit(seconds, text):
    assert lock.format_age(seconds) == text


# --- temporary files -----------------------------------------------------------------------------


def test_a_new_run_deletes_the_temporary_files_of_a_killed_one(tmp_path):
    left, kept = ("model.npz.0123abcd.tmp", "curves.png.01234567.tmp"), ("notes.tmp", "x.npz.tmp")
    for name in left + kept:
        (tmp_path / name).touch()
    assert run("train", *QUICK, "--out", tmp_path).status == 0
    outputs = ["attention.png", "curves.png", "log.csv", "model.npz", "steps.csv"]
    assert names_in(tmp_path) == sorted([*outputs, *kept])


def test_writing_a_file_deletes_its_temporary_files_after_a_day(tmp_path):
    for name, age in {
        "a.png.0123abcd.tmp": 2,
        "a.png.0123abce.tmp": 0.5,
        "b.png.01234567.tmp": 2,
    }.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, time.time() - age * files.DAY))
    files.write_atomically(tmp_path / "a.png", lambda file: file.write(b"new"))
    assert names_in(tmp_path) == ["a.png", "a.png.0123abce.tmp", "b.png.01234567.tmp"]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.png"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_file_permissions_respect_the_umask_without_changing_it(tmp_path, mask, monkeypatch):
    code = "from minivit.files import write_atomically as w; import os, sys\n"
    code += "os.umask(int(sys.argv[1])); os.umask = None\n"  # so that any other call fails
    code += "w('file', lambda file: file.write(b'x'))"
    subprocess.run([sys.executable, "-c", code, str(mask)], cwd=tmp_path, check=True)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_symbolic_link_is_replaced_and_a_device_is_not(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.write_atomically(tmp_path / "link", lambda file: file.write(b"new"))
    assert ((tmp_path / "target").read_bytes(), (tmp_path / "link").read_bytes()) == (
        b"old",
        b"new",
    )
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomically(tmp_path / "pipe", lambda file: file.write(b"new"))
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
