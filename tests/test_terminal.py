"""Output that is safe for a terminal: control characters, encodings, and streams that fail."""

import errno
import fcntl
import io
import os
import pty
import signal
import subprocess
import sys
import termios

import numpy as np
import pytest
from helpers.commands import BUFFERED, QUICK, error_of, run, save_model
from PIL import Image

from minivit import ViT, data, terminal, weights
from minivit.terminal import SafeStream, escape, print_message, progress_bar, safe_streams

EVIL = "\x1b[2J\x07"  # clears the screen and rings the bell
COMMAND = [sys.executable, "-m", "minivit"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Provide the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, ü × 한국어", "plain text, ü × 한국어"),
        (EVIL, r"\x1b[2J\x07"),
        ("a\nb\rc\td\x7f\x85", r"a\nb\rc\td\x7f\x85"),
        ("\u202etxt.exe\u2028\u2066", r"\u202etxt.exe\u2028\u2066"),
        ("\udcff", r"\udcff"),  # the byte 255 in a file name that is not UTF-8
    ],
)
def test_unsafe_characters_are_escaped(text, expected):
    assert escape(text) == expected
    stream = io.StringIO()
    SafeStream(stream, SafeStream(stream)).write(text)
    assert stream.getvalue() == expected.replace(r"\n", "\n").replace(r"\t", "\t")


def array_name(folder):
    model = save_model("evil.npz")
    arrays = weights.export(model.params, model.config, "timm") | {EVIL: np.zeros(1, "f")}
    np.savez("evil.npz", **arrays)
    return ["predict", "--weights", "evil.npz", "--heads", 2, "x.png"], r"'\x1b[2J\x07' is unknown"


def file_name(folder):
    (folder / f"{EVIL}.npz").write_bytes(b"hello")
    return ["predict", "--weights", f"{EVIL}.npz"], r"\x1b[2J\x07.npz is not a complete .npz file"


def option(folder):
    return ["train", f"--{EVIL}"], r"unknown option '--\x1b[2J\x07'"


@pytest.mark.parametrize("case", [array_name, file_name, option])
def test_an_error_message_contains_no_control_characters(folder, case):
    line, expected = case(folder)
    status = 2 if case is option else 1
    assert expected in error_of(*line, status=status)


def test_the_errors_of_the_python_interface_contain_no_control_characters(folder):
    _, expected = array_name(folder)
    with pytest.raises(weights.CheckpointError) as error:
        ViT.load("evil.npz", heads=2)
    assert expected in str(error.value)


def test_file_names_and_labels_in_the_output_are_escaped(folder):
    save_model("model.npz", classes=2)
    Image.new("L", (8, 8)).save(f"{EVIL}.png")
    (folder / "labels.txt").write_text(f"cat{EVIL}\ndog\n")
    out = run("predict", f"{EVIL}.png", "--weights", "model.npz", "--labels", "labels.txt").out
    assert escape(EVIL) + ".png\n" in out
    assert escape(f"cat{EVIL}") + "\n" in out
    assert "\x1b" not in out


def test_class_folders_may_have_control_characters_and_newlines(folder, capsys):
    for name in (f"c{EVIL}", "d\ne"):
        for i in range(10):
            path = folder / "pets" / name / f"{i}{EVIL}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    path.write_bytes(b"hello")
    dataset = data.load_folder(folder / "pets", (8, 8))
    assert dataset.classes == (r"c\x1b[2J\x07", r"d\ne")
    dataset.images.read(slice(None))
    dataset.held_out_images.read(slice(None))
    skipped = capsys.readouterr().err
    assert skipped.startswith("skipped: ")
    assert escape(f"9{EVIL}.png") in skipped
    assert "\x1b" not in skipped


def test_a_character_that_cannot_be_encoded_is_escaped():
    save_model("model.npz", classes=2)
    Image.new("L", (8, 8)).save("é×.png")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    line = [*COMMAND, "predict", "é×.png", "--weights", "model.npz"]
    result = subprocess.run(line, env=environment, capture_output=True)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.startswith(rb"\xe9\xd7.png: ")
    line[-1] = "é×.npz"
    result = subprocess.run(line, env=environment, capture_output=True)
    assert rb"there is no file \xe9\xd7.npz" in result.stderr


def test_the_streams_are_restored(capsys):
    before = sys.stdout, sys.stderr
    with safe_streams():
        print(EVIL)
        print_message(EVIL)
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr() == (escape(EVIL) + "\n", escape(EVIL) + "\n")


class Failing(io.StringIO):
    """A stream whose writes fail with an error."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))

    flush = write


def test_only_the_error_of_a_closed_terminal_is_ignored():
    assert SafeStream(Failing(errno.EIO)).write("text") == 4
    with pytest.raises(OSError, match="No space left"):
        SafeStream(Failing(errno.ENOSPC)).write("text")


def test_a_progress_bar_moves_the_cursor_and_a_message_is_printed_above_it(monkeypatch):
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    with safe_streams(), progress_bar(total=2) as bar:
        bar.update()
        print_message(f"a note {EVIL}")
    assert "\r" in stream.getvalue()
    assert f"\ra note {escape(EVIL)}\n" in stream.getvalue()


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_run_completes_with_closed_standard_streams(redirection, folder):
    line = " ".join(["exec", *COMMAND, "train", *map(str, QUICK), "--out run", redirection])
    result = subprocess.run(line, shell=True, executable="/bin/bash", capture_output=True)
    assert result.returncode == 0
    assert b"Traceback" not in result.stdout + result.stderr
    assert {"model.npz", "log.csv", "curves.png", "attention.png"} <= {*os.listdir("run")}


def test_a_message_without_stderr_does_not_fail(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    print_message("text")
    assert progress_bar(total=1).disable
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("ignored", "status"), [(True, 0), (False, 128 + signal.SIGHUP)])
def test_closing_the_terminal_does_not_cause_an_error(folder, ignored, status):
    terminal_side, process_side = pty.openpty()

    def prepare():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # becomes the controlling terminal
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    line = [*COMMAND, "train", *map(str, QUICK), "--epochs", "2" if ignored else "1000000"]
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), process_side)
    with subprocess.Popen(line, **streams, start_new_session=True, preexec_fn=prepare) as process:
        os.close(process_side)
        while not (folder / "runs/digits/log.csv").exists():
            os.read(terminal_side, 1)
        os.close(terminal_side)  # sends SIGHUP, as closing a window does
    assert process.returncode == status
    figures = {"curves.png", "attention.png"} if ignored else set()
    assert {*os.listdir("runs/digits")} == {"model.npz", "log.csv", "steps.csv"} | figures


def test_unwritable_output_gives_a_one_line_error():
    options = {"stderr": subprocess.PIPE, "text": True, "env": BUFFERED}
    with open("/dev/full", "w") as full:
        result = subprocess.run([*COMMAND, "cost"], stdout=full, **options)
    message = "minivit: error: cannot write to stdout: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, message)


def test_server_responses_are_escaped(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise OSError(EVIL)

    monkeypatch.setattr(data.download, "urlopen", fail)
    with pytest.raises(ConnectionError) as error:
        data.load_mnist(root=folder)
    assert escape(EVIL) in str(error.value)
    assert not terminal.UNSAFE.search(str(error.value))
