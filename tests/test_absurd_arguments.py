"""Command lines with absurd values end soon, with one line that names the option or the file.

Every option of every command occurs. The command lines are determined by a seed. They run in two
processes of which the time and the memory are limited, each command line in a new folder.
"""

import contextlib
import faulthandler
import json
import os
import random
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
from helpers.commands import run, save_model
from matplotlib.figure import Figure
from PIL import Image

from minivit import analysis, data, training
from minivit.cli.option_file import MAX_BYTES
from minivit.cli.options import parse_data, parse_path
from minivit.cli.parser import COMMANDS, build_parser
from minivit.terminal import KEPT, UNSAFE, escape

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux"),
]

ROOT = Path(__file__).parents[1]
SEED, COUNT = 0, 1_000  # of the command lines
SECONDS = 20  # per command line
MEMORY = 4 * 10**9  # bytes of address space
WORKERS = 2  # processes
MAX_LENGTH = 500  # characters of an error message
DEVICES = "/dev/null", "/dev/zero"  # must not be replaced


class Line(NamedTuple):
    """A command line.

    names: the message of an error must contain one of them, unless there are none
    required, forbidden: regular expressions that the message must match, and must not match
    status: the expected status, by default any of 0, 1 and 2
    """

    arguments: list[str]
    names: list[str] = []  # noqa: RUF012, not changed
    required: str = ""
    forbidden: str = ""
    status: int | None = None
    group: str = "combinations"

    def __str__(self):
        return shlex.join(shorten(argument, 60) for argument in self.arguments)


class Result(NamedTuple):
    """The result of a command line.

    status: None for an exception and for a process that ended. created, changed: files, relative to
    the working directory. outside: whether a device or the root folder has changed
    """

    status: int | None
    out: str
    err: str
    created: list[str] = []  # noqa: RUF012, not changed
    changed: list[str] = []  # noqa: RUF012, not changed
    outside: bool = False


def shorten(text, length):
    return text if len(text) <= length else f"{text[:length]}... ({len(text)} characters)"


# --- values -----------------------------------------------------------------------------------
INTEGERS = (
    "-1", "0", "1000000", str(10**9), str(10**18), str(-(10**18)), "9" * 400, "9" * 5_000,
    "+1", "1_0", "0x10", "0012", "1e10", "8.0",
)  # fmt: skip
NUMBERS = (
    "nan", "-nan", "inf", "-inf", "1e308", "1e-320", "-0.0", "1e400", "-1e30", "1e10", "0.5",
    "1,5", "1e", ".", "9" * 400,
)  # fmt: skip
SIZES = ("1x1x1", "8x0", "0x8", "8x", "x8", "x", "1x1000000", "100000", "8X8", "-8x8")
LISTS = ("1,2,3", "1,,2", ",", "1,1,1,1,1,1,1,1,1", "0,0", "1000000,1")
TEXTS = (
    "", " ", "\t", "\n", "a\nb", "None", "true", "@", "@missing", "--", "-", "=", "==1", "%s", "{}",
    "٣", "³", "８", "déjà vu", "모델", "\U0001f600", "\u202eabc", "\x1b[2J\x07", "\x7f",
    "\udcff\udcfe", "a" * 300, "a" * 5_000, "é" * 300, "--help", "-h", "--lr", "*", "$HOME", "~",
    "a'b", 'a"b',
)  # fmt: skip
PATHS = (
    "../../..", "..", ".", "folder", "folder/", "classes", "empty", "binary", "text.txt",
    "latin.txt", "large.txt", "digit.png", "model.npz", "missing/file", "text.txt/below", "null",
    "loop", "dangling", "a/" * 3_000,
)  # fmt: skip
SYSTEM_PATHS = ("/", "/dev/null", "/dev/zero", "/proc/self/mem")
INPUTS = ("weights", "origin", "labels", "images")  # options that only read files

TINY = "--depth 1 --width 8 --heads 2 --mlp-width 8"
DIGITS = f"train {TINY} --epochs 1 --batch-size 100 --warmup 0"
CLASSES = f"{DIGITS} --data classes --image-size 8 --patch-size 4 --shift 0"
TUNED = "train --from model.npz --epochs 1 --batch-size 100 --warmup 0"
EVALUATE = "evaluate --weights model.npz"
PREDICT, ATTENTION = (f"{name} digit.png --weights model.npz" for name in ("predict", "attention"))
BASES = {  # valid command lines to which an option is added
    "train": CLASSES,
    "evaluate": EVALUATE,
    "predict": PREDICT,
    "attention": ATTENTION,
    "gradcheck": "gradcheck layer_norm",
    "cost": "cost --image-size 32 --width 192 --heads 3",
    "exercise": "exercise 4",
    ("train", "data"): DIGITS,
    ("train", "epochs"): f"{CLASSES} --print-config",
    ("train", "origin"): TUNED,
    ("train", "resize"): f"{TUNED} --image-size 8",
    ("train", "stem"): f"{CLASSES} --patch-size 1",
    ("evaluate", "resize"): f"{EVALUATE} --image-size 8",
    ("predict", "resize"): f"{PREDICT} --image-size 8",
    ("attention", "resize"): f"{ATTENTION} --image-size 8",
    ("attention", "data"): "attention --weights model.npz",
    ("cost", "stem"): "cost ViT-B/1 --image-size 32",
    ("exercise", "chapter"): "exercise --hint 1",
}


def list_options():
    """Return the pairs (command, argparse action) of all options and positional arguments."""
    (commands,) = [a for a in build_parser()._actions if isinstance(a.choices, dict)]
    return [(name, a) for name, parser in commands.choices.items() for a in parser._actions]


def draw_value(rng, action):
    """Draw a value, mostly of the kind that the option takes."""
    if action.type in (parse_path, parse_data):
        system = SYSTEM_PATHS[1:] if action.dest == "data" else SYSTEM_PATHS
        pools = (PATHS, PATHS, TEXTS, system if action.dest in (*INPUTS, "data") else PATHS)
    elif action.nargs == 0 or action.type is None:
        pools = (TEXTS, TEXTS, NUMBERS, PATHS)
    else:
        numbers = INTEGERS, INTEGERS, NUMBERS, NUMBERS, SIZES, LISTS
        pools = (*numbers, TEXTS, TEXTS, PATHS, SYSTEM_PATHS)
    return rng.choice(rng.choice(pools))


def draw_line(rng, command, action):
    """Add an option with an absurd value to a valid command line."""
    base = BASES.get((command, action.dest), BASES[command]).split()
    value = draw_value(rng, action)
    names = [value, value.removeprefix("@"), *value.split(",")]
    names += [value.rstrip("/")] * (value != "/")
    with contextlib.suppress(ValueError):  # an error message contains 12, not 0012
        names.append(str(int(value)))
    if not action.option_strings:
        line = [*base, value] if value.startswith("-") else [command, value, *base[1:]]
        return Line(line, [action.metavar, action.dest, *names], group=command)
    name = rng.choice(action.option_strings)
    separate = action.nargs != 0 and rng.random() < 0.5
    added = [name, value] if separate else [f"{name}={value}"]
    return Line([*base, *added], [*action.option_strings, *names], group=command)


def draw_lines(rng, count):
    """Return different command lines, equally many for each option."""
    lines, options = {}, list_options()
    while len(lines) < count:
        rng.shuffle(options)
        for command, action in options:
            line = draw_line(rng, command, action)
            lines[tuple(line.arguments)] = line
    return list(lines.values())[:count]


# --- particular command lines -----------------------------------------------------------------
MODEL = r"smaller .*--(width|depth|mlp-width)", "--(batch|image)-size"
IMAGE = r"smaller .*image|larger patches", "--batch-size"
PATCH = r"smaller .*--patch-size", "--batch-size"
TRAIN = (  # options, and what the message must match and must not match
    ("--width 1000000", *MODEL),
    ("--width 1000000 --heads 1000000 --mlp-width 1", *MODEL),
    ("--width 1000000 --print-config", *MODEL),
    ("--depth 1000 --width 100000", *MODEL),
    ("--depth 1000 --width 20000 --batch-size 1", *MODEL),
    ("--mlp-width 1000000000", *MODEL),
    ("--width 1000000000 --heads 1000000000", *MODEL),
    ("--hidden-head 1000000000", "--hidden-head", "--batch-size"),
    ("--image-size 3000 --patch-size 1", *IMAGE),
    ("--image-size 300 --patch-size 1", *IMAGE),
    ("--image-size 300 --patch-size 1 --batch-size 1", *IMAGE),
    ("--image-size 150 --patch-size 1", r"--(image|batch)-size"),
    ("--image-size 100000", *IMAGE),
    ("--image-size 8x1000000 --patch-size 8", *IMAGE),
    ("--image-size 1000000000x8 --patch-size 8", *IMAGE),
    ("--image-size 100000 --patch-size 100000", *PATCH),
    ("--image-size 1000000000 --patch-size 1000000000", *PATCH),
    ("--data classes --image-size 100000 --patch-size 50000", *PATCH),
    ("--data classes --image-size 20000 --patch-size 10000", *PATCH),
    ("--data classes --image-size 1 --patch-size 1", "smaller --shift"),
    ("--data classes --image-size 1 --patch-size 1 --shift 0",),
    ("--data classes --image-size 8 --max-pixels 1", "(images from|read: images in) classes"),
    ("--width 2 --heads 1 --image-size 4096 --patch-size 4096", r"--(image|batch)-size"),
    (
        "--width 2 --heads 1 --image-size 4096 --patch-size 4096 --batch-size 1000000000",
        r"--(image|batch)-size",
    ),
    ("--image-size 8 --patch-size 9", "--image-size 8 x 8 cannot be cut into patches of 9 x 9"),
    ("--positions relative --image-size 300 --patch-size 1", *IMAGE),
    ("--positions 2d --width 9 --heads 1", "a multiple of 2"),
    ("--heads 1000000", "width 8 is not a multiple of 1000000 heads"),
    ("--stem 1,1,1,1,1,1,1,1,1", "stem must have at most 8 stages"),
    ("--stem 1000000", "stem must be at most 100"),
    ("--stem 100,100,100,100,100,100,100,100", "feature map .* cannot be cut into patches"),
    ("--stem 1,1,1,1,1,1,1,1 --patch-size 1", "--stem", "--batch-size"),
    ("--stem root --stem-width 32000000 --patch-size 1", "--stem-width", "--batch-size"),
    ("--stem root --stem-width 1000000000 --patch-size 1", "--stem-width", "--batch-size"),
    ("--stem root --stem-width 33 --patch-size 1", "stem-width 33 is not a multiple of 32"),
    ("--randaugment 1000000000", "--randaugment must be at most 100"),
    ("--randaugment 2 --randaugment-magnitude 1e308", "--randaugment-magnitude must be from 0"),
    ("--random-erasing 1 --randaugment 100",),
    ("--mixup 1e308 --cutmix 1e308",),
    ("--mixup 1e-320 --cutmix 1e-320",),
    ("--batch-size 1000000000",),
    ("--batch-size 1000000000 --shards 1000000000",),
    ("--batch-size 1 --shards 1000000000 --epochs 0", "--epochs: expected a positive integer"),
    ("--grad-accumulation 1000000000 --threads 1000000",),
    ("--threads 1000000 --shards 1000000000",),
    ("--weight-decay 1e10", "--weight-decay", "--lr"),
    ("--weight-decay 1e308", "--weight-decay", "--lr"),
    ("--weight-decay 1e10 --optimiser sgd", "--weight-decay", "--lr"),
    ("--weight-decay 1e300 --lr 1e300", "--(weight-decay|lr)"),
    ("--lr 1e30", "--lr", "--weight-decay"),
    ("--lr 1e308", "--lr", "--weight-decay"),
    ("--lr 1e308 --optimiser sgd --grad-clip 0", "--lr", "--weight-decay"),
    ("--lr 1e-320",),
    ("--position-std 1",),
    ("--position-std 1e308", "--position-std must be at most 1"),
    ("--norm-eps 1e308", "--norm-eps must be at most 1"),
    ("--norm-eps 1e-320",),
    ("--norm-eps 0 --position-std 0", "--norm-eps", "--lr"),
    ("--warmup 1e300", "--warmup must be at most 1,000,000"),
    ("--warmup 1000000",),
    ("--epochs 999999999999999999 --lr nan", "--(epochs|lr) must be"),
    ("--epochs 999999999999999999 --print-config", "--epochs must be at most 1,000,000"),
    ("--epochs 1000000 --print-config",),
    ("--epochs 1000000 --warmup nan", "--warmup must be"),
    ("--seed 1000000000000000000", "--seed: expected an integer of at most 18 digits"),
    ("--seed 999999999999999999",),
    ("--shift 1000000", "shift 1000000 exceeds .* smaller --shift"),
    ("--shift 8",),
    ("--grad-clip 1e-320",),
    ("--grad-clip 1e308",),
    ("--ema 0.9999999999999999",),
    ("--dropout 0.9999999999999999 --drop-path 0.9999999999999999",),
    ("--label-smoothing 0.9999999999999999",),
    ("--precision tf32", "--precision requires --device gpu"),
    ("--from missing --print-config", "--depth.*: with --from, missing"),
)
OTHERS = (  # command line, and what the message must match and must not match
    ("train --resume", "there is no file runs/digits/model.npz"),
    ("train --resume --out folder", "there is no file folder/model.npz"),
    ("train --resume --out model.npz", "model.npz"),
    ("train --from missing --print-config", "there is no file missing"),
    ("train --from model.npz --image-size 7", "--image-size 7 x 7 cannot be cut", "config"),
    ("train --from model.npz --image-size 100000", *IMAGE),
    ("train --from model.npz --norm-eps 10", "--norm-eps must be at most 1", "config"),
    (f"{PREDICT} --short-side 999999999999999999", "smaller --short-side"),
    (f"{PREDICT} --short-side 1000000", "smaller --short-side"),
    (f"{PREDICT} --short-side 1",),
    (f"{PREDICT} --max-pixels 1", "digit.png.*--max-pixels"),
    (f"{PREDICT} --top 999999999999999999",),
    (f"{PREDICT} --labels /proc/self/mem", "/proc/self/mem"),
    (f"{PREDICT} --image-size 100000", *IMAGE),
    (f"{PREDICT} --image-size 600", *IMAGE),
    (f"{PREDICT} --image-size 9", "--image-size 9 x 9 cannot be cut into patches"),
    (f"{PREDICT} --heads 7", "is not a multiple of 7 heads", "config"),
    (f"{PREDICT} --norm-eps 10", "--norm-eps must be at most 1, not 10", "config"),
    (f"{EVALUATE} --norm-eps nan", "--norm-eps must be finite", "config"),
    (f"{EVALUATE} --image-size 100000", *IMAGE),
    (f"{EVALUATE} --image-size 600", *IMAGE),
    (f"{EVALUATE} --image-size 999999999999999998", "--image-size must be at most"),
    (f"{EVALUATE} --shots 1000000000", "fewer than 1000000000 shots"),
    (f"{EVALUATE} --shots 1 0", "--shots: expected a positive integer"),
    (f"{EVALUATE} --data classes", "model.npz has 10 classes"),
    (f"{EVALUATE} --data classes --max-pixels 1", r"model.npz|--max-pixels"),
    ("attention --weights model.npz --layer 1000000", "--layer must be all, 1 to 2 or -1 to -2"),
    ("attention --weights model.npz --image-size 600", *IMAGE),
    ("attention --weights model.npz --image-size 300 --kind positions", *IMAGE),
    (f"{ATTENTION} --short-side 1000000000", "smaller --short-side"),
    (f"{ATTENTION} --out missing/x.png", "missing/x.png"),
    (f"{ATTENTION} --out folder", "folder"),
    (f"{ATTENTION} --out x.xyz",),
    ("cost ViT-B/100000000", "cannot be cut into patches of 100000000 x 100000000"),
    ("cost ViT-B/0", "patch-size must be a positive integer"),
    (f"cost ViT-B/{'9' * 5_000}", "ViT-B/999"),
    ("cost --width 1000000000 --heads 1 --depth 1000 --mlp-width 1000000000",),
    ("cost --batch-size 999999999999999999 --shards 999999999999999999",),
    ("cost --batch-size 999999999999999999 --threads 999999999999999999",),
    ("cost --image-size 100000 --patch-size 1", *IMAGE),
    ("cost --image-size 1000000000 --patch-size 1000000000",),
    ("cost --classes 1000000000 --hidden-head 1000000000",),
    ("cost --stem 100,100,100,100,100,100,100,100 --image-size 512 --patch-size 1",),
    ("cost --stem 100,100,100,100,100,100,100,100,1", "stem must have at most 8 stages"),
    ("cost --csv missing/file", "missing/file: No such file or directory"),
    ("cost --csv text.txt/below", "text.txt/below: Not a directory"),
    ("exercise 999999999999999999", "no exercise '?9999"),
    (f"exercise {'9' * 5_000}", "no exercise '?9999"),
    ("exercise ٣ --start", "no exercise '?٣"),
    ("exercise 4 --hint 4", "--hint"),
    ("exercise --hint 1000000", "--hint"),
    ("gradcheck layer_norm --device gpu", "GPU|CuPy"),
    ("gradcheck no such function", "contains all of these words: no such function"),
    ("train" * 1_000, "unknown command 'traintrain"),
    ("\x1b[2J", r"unknown command '\\x1b\[2J"),
)


def repeat(content):
    """Repeat bytes up to the maximum size of an option file."""
    return content * (MAX_BYTES // len(content))


OPTION_FILES = {  # content, and a regular expression for the message, or None for a valid file
    "no-options": (b"", None),
    "comments": (repeat(b"# "), None),
    "quote": (b"--lr 'a\n--epochs 2\n", "quote, line 1: a quotation mark is not closed"),
    "quoted-lines": (b"'" + repeat(b"\n")[1:], "quoted-lines, line 1"),
    "quoted-words": (b"'" + repeat(b"a\n")[2:], "quoted-words, line 1"),
    "quoted-quotes": (b'"' + repeat(b"'\n")[2:], "quoted-quotes, line 1"),
    "quoted-value": (b"--out '" + repeat(b"\n")[99:] + b"'", "quoted-value, line 1: .*--out"),
    "backslash": (b"--out a\\", "backslash, line 1"),
    "backslashes": (repeat(b"\\\n"), r"unexpected argument '\\n"),
    "bytes": (bytes(range(256)) * 10, "bytes, line"),
    "latin-1": (b"--out caf\xe9", "latin-1, line 1: the text is not valid UTF-8"),
    "utf-16": ("--epochs 1\n".encode("utf-16"), "utf-16, line 1: the text is not valid UTF-8"),
    "byte-order-mark": (b"\xef\xbb\xbf--epochs 1\n", None),
    "zeros": (repeat(b"\0"), "zeros, line 1: .* is neither an option nor a value"),
    "zero": (b"--out a\0b", "zero, line 1: .* is neither an option nor a value"),
    "itself": (b"--epochs 1\n@itself\n", "itself, line 2: '@itself' is neither"),
    "another": (b"@comments", "another, line 1: '@comments' is neither"),
    "large.txt": (b"--epochs 1\n" * 200_000, "large.txt has more than"),
    "large-word": (b"x" * 2_000_000, "large-word has more than"),
    "options": (repeat(b"--flip\n"), None),
    "epochs": (repeat(b"--epochs 1\n"), None),
    "words": (repeat(b"a\n"), "unexpected argument 'a'"),
    "long-word": (repeat(b"x"), "unexpected argument 'xxx"),
    "long-value": (b"--epochs " + repeat(b"9")[9:], "long-value, line 1: argument --epochs"),
    "long-option": (b"--" + repeat(b"x")[2:], "long-option, line 1: unknown option '--xxx"),
    "long-path": (b"--out " + repeat(b"x")[6:], "long-path, line 1: argument --out"),
    "long-choice": (b"--optimiser " + repeat(b"x")[12:], "long-choice, line 1: argument --opt"),
    "control-value": (b"--optimiser '\x1b[2J\x07'", "control-value, line 1: argument --optim"),
    "control-option": (b"\n--\x1b[2J\x07\n", "control-option, line 2: unknown option"),
    "carriage-returns": (b"--epochs 1\r\n--lr 0.001\r--seed 3", None),
    "separators": ("--out a\u2028b\u202ec --epochs 0".encode(), "separators, line 1: .*--epochs"),
    "two-dashes": (b"--\n--epochs 1\n", "'--'"),
    "command": (b"predict\n", "unexpected argument 'predict'"),
    "help": (b"--help\n", None),
}  # fmt: skip
OPTION_PATHS = (
    "missing", ".", "folder", "", " ", "-", "@", "/", "/dev/zero", "/dev/null", "binary",
    "model.npz", "digit.png", "loop", "dangling", "text.txt/below", "x" * 300, "x" * 5_000,
    "\x1b[2J", "\udcff",
)  # fmt: skip


def particular_lines():
    for options, *advice in TRAIN:
        words = options.split()
        yield Line([*DIGITS.split(), *words], words * (not advice), *advice)
    for line, *advice in OTHERS:
        words = line.split()
        yield Line(words, words * (not advice), *advice)
    for name, (_, message) in OPTION_FILES.items():
        arguments = [*DIGITS.split(), f"@{name}", "--print-config"]
        status = 2 if message else 0
        yield Line(arguments, required=message or "", status=status, group="option files")
    for path in OPTION_PATHS:
        yield Line([*CLASSES.split(), f"@{path}"], [path, f"@{path}"], group="option files")


@cache
def all_lines():
    lines = list(particular_lines())
    return [*lines, *draw_lines(random.Random(SEED), COUNT - len(lines))]


# --- the process that runs the command lines --------------------------------------------------
def write_template(folder):
    """Write the files to which the command lines refer."""
    save_model(folder / "model.npz")
    digit = ((data.load_digits().held_out_images[0, ..., 0] + 1) * 127.5).astype(np.uint8)
    Image.fromarray(digit).save(folder / "digit.png")
    for name in ("cat", "dog"):
        (folder / "classes" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(digit).save(folder / "classes" / name / f"{i}.png")
    (folder / "folder").mkdir()
    contents = {name: content for name, (content, _) in OPTION_FILES.items()}
    contents["binary"] = random.Random(SEED).randbytes(3_000)
    contents |= {"empty": b"", "text.txt": b"hello\n", "latin.txt": b"caf\xe9\n" * 10}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nothing")


@contextlib.contextmanager
def working_directory(template):
    """Create a folder with the files of the template, enclosed by three other folders."""
    with tempfile.TemporaryDirectory(dir=template.parent) as outer:
        folder = Path(outer, "a", "b", "c")
        shutil.copytree(template, folder, symlinks=True, copy_function=os.link)
        with contextlib.suppress(PermissionError):  # only root may create a null device
            os.mknod(folder / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chdir(folder)
        try:
            yield Path(outer)
        finally:
            os.chdir(template)


def list_states(outer):
    """Return {path: state} of the files, where the state changes with the content."""
    states = {}
    for path in outer.rglob("*"):
        status = path.lstat()
        time = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        states[os.path.relpath(path, outer / "a/b/c")] = status.st_ino, status.st_mode, time
    return states


def system_state():
    """Return what no command may change: the devices, and the names in the root folder."""
    devices = [os.stat(path) for path in DEVICES]
    return [(s.st_mode, s.st_ino, s.st_rdev) for s in devices], sorted(os.listdir("/"))


def run_line(arguments, template):
    """Run a command line in this process and return its result."""
    with working_directory(template) as outer:
        before, system = list_states(outer), system_state()
        try:
            status, out, err = run(*arguments)
        except BaseException:
            status, out, err = None, "", traceback.format_exc()
        after = list_states(outer)
        created = sorted(after.keys() - before.keys())
        changed = sorted(name for name in before if after.get(name) != before[name])
        return Result(status, out, err, created, changed, system_state() != system)


def replace_slow_parts():
    """Replace the baseline and the figures, which take longer than a small training."""
    training.fit_logistic_regression = lambda dataset: 0.97
    for name in ("plot_curves", "plot_held_out", "plot_model"):
        setattr(analysis, name, lambda *args: Figure(figsize=(0.1, 0.1)))


def serve(template):
    """Run the command lines on stdin, which are JSON lists. Print their results as JSON."""
    import resource  # does not exist on Windows

    requests, replies = sys.stdin, sys.stdout
    sys.stdin = open(os.devnull)  # noqa: SIM115
    matplotlib.use("agg")
    replace_slow_parts()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for request in requests:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result = run_line(json.loads(request), template)
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(result), file=replies, flush=True)


class Worker:
    """A process that runs command lines. It is replaced if it ends."""

    def __init__(self, template):
        self.template, self.process = template, None
        self.errors = template.parent / f"errors-{id(self)}"

    def start(self):
        settings = {
            "PYTHONPATH": str(ROOT), "MINIVIT_DATA": str(self.template.parent / "cache"),
            "OPENBLAS_NUM_THREADS": "1", "https_proxy": "http://127.0.0.1:9",
        }  # fmt: skip
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(self.template)],
                env=os.environ | settings, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    def run(self, line):
        """Return the result of a command line."""
        if self.process is None:
            self.start()
        with contextlib.suppress(BrokenPipeError):  # the process has ended
            self.process.stdin.write(json.dumps(line.arguments) + "\n")
            self.process.stdin.flush()
        if reply := self.process.stdout.readline():
            return Result(*json.loads(reply))
        message = f"the process ended with status {self.close()}\n{self.errors.read_text()}"
        return Result(None, "", message)

    def close(self):
        """End the process and return its status."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        return process.wait()


def run_lines(lines, folder):
    """Return the results of command lines, which run in WORKERS processes."""
    template = folder / "template"
    template.mkdir()
    write_template(template)
    results = [None] * len(lines)

    def run_part(numbers):
        worker = Worker(template)
        try:
            for number in numbers:
                results[number] = worker.run(lines[number])
        finally:
            worker.close()

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run_part, [range(i, len(lines), WORKERS) for i in range(WORKERS)]))
    return results


# --- conditions -------------------------------------------------------------------------------
def is_named(message, name):
    """Return whether a message contains an option, a value or the start of a long value."""
    text = escape(name)
    if not text.strip() or re.fullmatch("[0-9a-z]", text):
        return f"'{text}'" in message
    start, end = text[:30], r"(?!\w)" if len(text) <= 30 else ""
    if re.search(rf"(?<![\w.-]){re.escape(start)}{end}", message):
        return True
    word = re.fullmatch(r"--([a-z]+)", name)  # as in "width 7 is not a multiple of 2 heads"
    return bool(word and re.search(rf"\b{word[1]} \d|\d {word[1]}\b", message))


def find_problems(line, result):
    """Yield what is wrong with the result of a command line."""
    status, output = result.status, result.out + result.err
    if status not in (0, 1, 2) or status != (line.status if line.status is not None else status):
        yield f"the status is {status}"
    if "Traceback" in output:
        yield "the output contains a traceback"
    if any(match[0] not in KEPT for match in UNSAFE.finditer(output)):
        yield "the output contains control characters"
    if status in (1, 2):
        yield from find_message_problems(line, result.err)
    yield from find_file_problems(line, result)


def find_message_problems(line, err):
    last = err.removesuffix("\n").rpartition("\n")[2]
    match = re.fullmatch(r"minivit(?: [a-z]+)?: error: (.+)", last)
    if not match:
        yield "the last line is not an error message"
        return
    message = match[1]
    if len(message) > MAX_LENGTH:
        yield f"the message has {len(message)} characters"
    skipped = re.findall(r"^skipped: .*", err, re.MULTILINE)  # the reasons for the error
    if line.names and not any(is_named(" ".join([*skipped, message]), n) for n in line.names):
        yield "the message names neither the option nor the value"
    if not re.search(line.required, message):
        yield f"the message does not match '{line.required}'"
    if line.forbidden and re.search(line.forbidden, message):
        yield f"the message matches '{line.forbidden}'"


def find_file_problems(line, result):
    files = result.created + result.changed
    if result.outside:
        yield "a device or the root folder has changed"
    if result.status == 2 and files:
        yield f"invalid usage changed files: {files}"
    if result.status == 1 and result.changed:
        yield f"a failed command changed files: {result.changed}"
    if any(name.endswith((".tmp", "run.lock")) for name in files):
        yield f"a temporary file remains: {files}"
    above = [name for name in files if name.startswith("..")]
    if above and not any(".." in argument for argument in line.arguments):
        yield f"files outside the working directory changed: {above}"


def describe(line, result, problems):
    output = shorten((result.out[-200:] + result.err).strip(), 1_500)
    return f"{escape(line)}\n  {'; '.join(problems)}\n  {escape(output, KEPT)}"


# --- tests ------------------------------------------------------------------------------------
def test_every_option_occurs_in_the_command_lines():
    lines = all_lines()
    assert len({tuple(line.arguments) for line in lines}) == len(lines) == COUNT
    expected = {(name, (a.option_strings or [a.metavar])[0]) for name, a in list_options()}
    assert {(line.group, line.names[0]) for line in lines if line.group in COMMANDS} == expected


@pytest.mark.parametrize("group", [*COMMANDS, "combinations", "option files"])
def test_absurd_values_are_used_or_reported_in_one_line(group, tmp_path):
    lines = [line for line in all_lines() if line.group == group]
    failures = []
    for line, result in zip(lines, run_lines(lines, tmp_path), strict=True):
        if problems := list(find_problems(line, result)):
            failures.append(describe(line, result, problems))
    assert not failures, f"{len(failures)} of {len(lines)}:\n" + "\n".join(failures)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
