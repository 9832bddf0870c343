"""The command line: help, options, errors, exit status, and the command `gradcheck`."""

import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import BUFFERED, QUICK, error_of, output_of, run, save_model
from PIL import Image

import minivit
from minivit import ViT, data, layers
from minivit.checking import cases
from minivit.cli import memory
from minivit.cli.parser import COMMANDS, parse_arguments
from minivit.training import loop


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Provide the working directory with a model, a digit and a text file."""
    monkeypatch.chdir(tmp_path)
    save_model("model.npz")
    digit = (data.load_digits().held_out_images[0, ..., 0] + 1) * 127.5
    Image.fromarray(digit.astype(np.uint8)).save("digit.png")
    Path("text.txt").write_text("hello")
    return tmp_path


# --- help -------------------------------------------------------------------------------------


def test_help_lists_the_commands():
    listed = re.findall(r"^    (\w+)\s", output_of("--help"), re.MULTILINE)
    assert listed == list(COMMANDS)


def test_the_version_is_that_of_the_package():
    assert output_of("--version") == f"minivit {minivit.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_option_and_gives_valid_examples(command, tmp_path, monkeypatch):
    text = output_of(command, "--help")
    usage, _, rest = text.partition("\n\n")
    described, _, examples = rest.partition("examples:")
    options = set(re.findall(r"--[a-z-]+", usage))
    assert options | {"--help"} == set(re.findall(r"^ .*?(--[a-z-]+)", described, re.M)) | {
        option for option in options if option.startswith("--no-")
    }
    for block in re.split(r"\n(?=  -)", described)[1:]:  # an option and its description
        words = re.sub(r"\[.*?\]|\{.*?\}", "", block.split("\n\n")[0])
        assert len(re.findall(r"\b[a-z]{2,}\b", words)) >= 3, block
    lines = re.findall(r"python -m minivit ([^>\n]*)", examples)
    assert len(lines) >= 3
    monkeypatch.chdir(tmp_path)
    Path("flowers").mkdir()
    Path("flowers.txt").write_text("--data flowers  # a comment\n")
    for line in lines:
        assert parse_arguments(shlex.split(line)).command == command


def test_help_shows_the_defaults_of_the_digits():
    text = " ".join(output_of("train", "--help").split())
    for words in ("--lr LR peak learning rate (default: 0.002)", "in pixels (default: 8)",
                  "probability 1/2 (default: no)", "such as 3,4,9 (default: none)"):  # fmt: skip
        assert words in text


# --- invalid usage: status 2 ------------------------------------------------------------------

POSITIVE = "expected a positive integer, not"
INVALID = [
    ("trian", "unknown command 'trian'; did you mean 'train'?"),
    ("xyz", "unknown command 'xyz'; see `minivit --help`"),
    ("train --lrr 9", "unknown option '--lrr'; did you mean '--lr'?"),
    ("train --decay=linear", "unknown option '--decay'; did you mean '--schedule'?"),
    ("gradcheck --xyz", "unknown option '--xyz'; see `minivit gradcheck --help`"),
    ("train digits", "unexpected argument 'digits'; see `minivit train --help`"),
    ("train @none.txt", "@none.txt: No such file or directory"),
    ("train --positions 3d", "--positions: unknown value '3d'; choose none, 1d, 2d"),
    (
        "train --data cats",
        "there is no data set or folder 'cats'; choose digits, scattered, mnist,",
    ),
    ("train --width 30 --heads 4", "width 30 is not a multiple of 4 heads"),
    ("train --patch-size 3", "--image-size 8 x 8 cannot be cut into patches of 3 x 3"),
    ("train --positions=2d --width=9 --heads=3", "a multiple of 2, not 9"),
    ("train --epochs 0", f"--epochs: {POSITIVE} '0'"),
    ("train --epochs 1.5", f"--epochs: {POSITIVE} '1.5'"),
    ("train --threads 0", f"--threads: {POSITIVE} '0'"),
    ("evaluate --shots 0", f"--shots: {POSITIVE} '0'"),
    ("predict --top 0 x.png", f"--top: {POSITIVE} '0'"),
    ("train --lr -0.1", "--lr must be finite and not negative: -0.1"),
    ("train --from x.npz --lr -1", "--lr must be finite and not negative: -1.0"),
    ("train --lr fast", "--lr: expected a number, not 'fast'"),
    ("train --dropout 1", "--dropout must be in [0, 1), not 1.0"),
    ("train --label-smoothing 1", "--label-smoothing must be below 1, not 1.0"),
    ("train --shift -1", "--shift must be at least 0, not -1"),
    ("train --norm-eps nan", "--norm-eps must be finite and not negative: nan"),
    ("train --image-size 8x8x8", "expected N or HxW, not '8x8x8'"),
    ("predict --image-size 31x", "expected N or HxW, not '31x'"),
    ("predict --image-size 0x8", f"--image-size: {POSITIVE} '0'"),
    ("predict --preprocess mine", "--preprocess: unknown value 'mine'; choose minivit, google"),
    (
        "attention --resize area",
        "--resize: unknown value 'area'; choose aligned, bilinear, bicubic, anti",
    ),
    ("train --stem 3,", f"--stem: {POSITIVE} ''"),
    ("train --resume --overwrite", "not allowed with argument --resume"),
    ("train --resume --from x.npz", "--resume uses the model and the recipe of"),
    ("train --resume --freeze", "--resume uses the model and the recipe of"),
    ("train --resume --width 8", "--resume uses the model and the recipe of"),
    ("train --resume --resize bicubic", "--resume uses the model and the recipe of"),
    ("train --resume --print-config", "not allowed with argument --resume"),
    ("train --resize bicubic", "--resize requires --from"),
    ("train --from x.npz --resize bicubic", "--resize requires --image-size"),
    ("attention --resize bicubic", "--resize requires --image-size"),
    ("train --from x.npz --width 8 --stem 3", "--width, --stem: with --from, x.npz determines"),
    ("train --precision tf32", "--precision requires --device gpu or auto"),
    ("attention --data digits x.png", "image files and --data cannot be combined"),
    ("attention --data digits --kind filters", "--data do not apply to --kind filters"),
    ("attention --kind positions x.png", "images and --data do not apply to --kind positions"),
    ("attention --kind distance --layer 1", "--layer does not apply to --kind distance"),
    (
        "attention --kind rollout",
        "--kind: unknown value 'rollout'; choose maps, distance, positions, ",
    ),
    ("attention --invert", "--invert can only be used with image files"),
    (
        "attention --kind filters --short-side 9 --labels x.txt",
        "--labels, --short-side can only be used with image files",
    ),
    ("predict --weights model.npz", "image files are required"),
    ("cost ViT-X/16", "unknown model 'ViT-X/16'"),
    ("gradcheck ViT layer_norm", "no function name contains all of these words: ViT layer"),
    ("exercise 99", "99"),
    ("exercise --start", "--start, --hint and --solution require a chapter"),
]


@pytest.mark.parametrize(("line", "message"), INVALID)
def test_invalid_usage_is_one_line(line, message, folder):
    before = sorted(folder.iterdir())
    assert message in error_of(*line.split(), status=2)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("layer", [0, 3, -3])
def test_a_layer_out_of_range_is_invalid_usage(folder, layer):
    message = error_of("attention", "--weights", "model.npz", f"--layer={layer}", status=2)
    assert message == f"--layer must be all, 1 to 2 or -1 to -2, not {layer}"


# --- failures: status 1 -----------------------------------------------------------------------


DAMAGES = {
    "truncated": lambda path: path.write_bytes(Path("model.npz").read_bytes()[:-200]),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"weights": [1, 2, 3]})),
    "object array": lambda path: np.savez(path, config=np.array([{}], dtype=object)),
    "text": lambda path: path.write_text("hello"),
    "missing": lambda path: None,
}
USES = ["evaluate --weights", "predict digit.png --weights", "attention --weights", "train --from"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("line", USES)
def test_the_error_names_an_invalid_or_missing_file_of_weights(folder, damage, line):
    damage(Path("bad.npz"))
    assert "bad.npz" in error_of(*line.split(), "bad.npz")
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict digit.png"])
def test_the_error_about_a_missing_default_model_says_how_to_create_it(folder, command):
    message = "runs/digits/model.npz does not exist. Train a model with `python -m minivit train`"
    assert error_of(*command.split()).startswith(message)


@pytest.mark.parametrize("command", ["predict", "attention"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"x" * 50, None])
def test_the_error_names_an_unreadable_image(folder, command, content):
    if content is not None:
        Path("bad.png").write_bytes(content)
    result = error_of(command, "--weights", "model.npz", "--", "digit.png", "bad.png")
    assert result.count("bad.png") == 1
    assert not Path("attention.png").exists()


@pytest.mark.parametrize("command", ["predict", "attention"])
def test_an_image_for_a_model_of_two_channels_is_an_error(folder, command):
    save_model("two.npz", channels=2)
    message = error_of(command, "--weights", "two.npz", "digit.png")
    assert re.match(r"digit\.png.* 2\b", message)


@pytest.mark.parametrize(("text", "lines"), [("", "0 lines"), ("\n\n", "0 lines"), ("a", "1 line")])
def test_the_error_names_an_invalid_file_of_labels(folder, text, lines):
    Path("labels.txt").write_text(text)
    words = ["--weights", "model.npz", "digit.png", "--labels"]
    for command in ("predict", "attention"):
        assert f"labels.txt has {lines}" in error_of(command, *words, "labels.txt")
        assert "digit.png is not a text file" in error_of(command, *words, "digit.png")
        assert "none.txt" in error_of(command, *words, "none.txt")
        assert ". is a folder" in error_of(command, *words, ".")
        assert ". is a folder" in error_of(command, *words[:2], ".")


@pytest.mark.parametrize("out", ["text.txt", "text.txt/below", "text.txt/far/below"])
def test_the_error_names_an_output_folder_that_cannot_be_created(folder, out):
    assert "text.txt" in error_of("train", *QUICK, "--out", out)
    assert Path("text.txt").read_text() == "hello"


def test_the_error_names_a_checkpoint_that_cannot_be_written(folder):
    Path("run/model.npz").mkdir(parents=True)
    message = error_of("train", *QUICK, "--out", "run")
    assert "run/model.npz" in message
    assert ".tmp" not in message


def test_the_error_names_a_figure_that_cannot_be_written(folder, monkeypatch):
    monkeypatch.setattr(ViT, "load", None)  # the error is detected before anything is computed
    words = ["attention", "--weights", "model.npz", "digit.png", "--out"]
    assert error_of(*words, "none/a.png").startswith(
        "cannot write none/a.png: the folder none does"
    )
    message = "cannot save a figure as {}: the suffix must be .png, .svg, .pdf, .jpg, .jpeg"
    for out in (".", "figure", "figure.gif"):
        assert error_of(*words, out, status=2) == f"--out: {message.format(repr(out))}"


@pytest.mark.parametrize("rate", ["1e9", "1e39"])
@pytest.mark.parametrize("words", [[], ["--from", "model.npz"]], ids=["new", "fine-tuned"])
def test_a_training_that_diverges_is_an_error(folder, words, rate):
    size = QUICK[-6:] if words else QUICK
    message = error_of("train", *words, *size, "--lr", rate, "--grad-clip", 0, "--out", "run")
    assert "in epoch 1" in message
    assert "may be too high" in message
    ViT.load("run/model.npz")


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("train --out run", ["--batch-size", "--grad-accumulation", "--shards"]),
        ("evaluate --weights model.npz", ["--image-size"]),
        ("predict --weights model.npz digit.png", ["--image-size"]),
        ("attention --weights model.npz", ["--image-size"]),
        ("gradcheck", []),
    ],
)
def test_the_error_of_exhausted_memory_names_options_of_the_command(
    folder, monkeypatch, line, options
):
    def exhaust(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(loop, "batch_gradients", exhaust)
    monkeypatch.setattr(ViT, "__call__", exhaust)
    monkeypatch.setattr(cases, "all_cases", exhaust)
    message = error_of(*line.split())
    assert message.startswith("out of memory")
    assert re.findall(r"--[a-z-]+", message) == options
    text = output_of(line.split()[0], "--help")
    assert all(option in text for option in options)


SMALLER_MODEL = "Pass a smaller --width, --mlp-width or --depth"
SMALLER_IMAGE = "Pass a smaller --image-size, or a model with larger patches"
TOO_LARGE = [  # command line, bytes of memory, error
    ("train --width 1000000", 25e9, "the model has 16.0 T parameters (64.0 TB), but this machine "
        f"has 25.0 GB of memory. {SMALLER_MODEL}"),
    ("train --width 512", 70e6, "training needs 84.5 MB of memory, but this machine has 70.0 MB. "
        + SMALLER_MODEL),
    ("train --image-size 128 --patch-size 1", 5e9, "training needs 30.4 GB of memory, but this "
        f"machine has 5.00 GB. {SMALLER_IMAGE}"),
    ("train --batch-size 1437 --shards 1", 50e6, "training needs 485 MB of memory, but this "
        "machine has 50.0 MB. Pass a smaller --batch-size, or a larger --grad-accumulation or "
        "--shards"),
    ("attention --image-size 120", 1e6, "an image of 120 x 120 pixels has 901 tokens, and the "
        f"attention weights need 13.0 MB, but this machine has 1.00 MB of memory. {SMALLER_IMAGE}"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "available", "message"), TOO_LARGE)
def test_a_model_too_large_for_memory_is_rejected_with_a_useful_suggestion(
    folder, monkeypatch, line, available, message
):
    monkeypatch.setattr(memory, "available_memory", lambda: int(available))
    assert error_of(*line.split()) == message


def test_the_available_memory_is_that_of_the_machine_or_the_limit_of_the_process():
    code = "import resource; from minivit.cli.memory import available_memory as f; a = f()\n"
    code += "resource.setrlimit(resource.RLIMIT_AS, (2**33, -1)); print(a, f())"
    line = [sys.executable, "-c", code]
    physical, limited = map(
        int, subprocess.run(line, capture_output=True, check=True).stdout.split()
    )
    assert physical > 10**8
    assert limited == min(physical, 2**33)


# --- processes --------------------------------------------------------------------------------


COMMAND = [sys.executable, "-m", "minivit"]


@pytest.mark.parametrize(
    ("line", "status", "error"),
    [
        ("evaluate --weights model.npz", 0, r""),
        ("evaluate", 1, r"minivit evaluate: error: .*\n"),
        ("evaluate --speed", 2, r"minivit evaluate: error: .*\n"),
        # without the warnings of NumPy
        (
            "train --epochs 1 --warmup 0 --lr 1e39 --grad-clip 0",
            1,
            r"minivit train: error: .* Pass a smaller --lr\n",
        ),
    ],
)
def test_a_process_ends_with_the_status_of_its_command(folder, line, status, error):
    result = subprocess.run([*COMMAND, *line.split()], cwd=folder, capture_output=True, text=True)
    assert result.returncode == status
    assert re.fullmatch(error, result.stderr)


@pytest.mark.parametrize("line", ["cost", "gradcheck linear"])
def test_closing_the_output_early_gives_no_traceback(line):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -0` does
    options = {"stdout": writer, "stderr": subprocess.PIPE, "text": True, "env": BUFFERED}
    result = subprocess.run([*COMMAND, *line.split()], **options)
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


# --- gradcheck --------------------------------------------------------------------------------


def test_gradcheck_prints_a_line_per_function_and_a_total():
    *rows, last = output_of("gradcheck", "attend").splitlines()
    errors = []
    for row, name in zip(rows, ["attend", "attend, bias"], strict=True):
        mark, rest = row.split(maxsplit=1)
        assert mark == "✓"
        assert rest.startswith(name)
        errors.append(float(rest.removeprefix(name)))
    assert last == (
        "correct: 2 of 2 functions, with 7 arguments in total; largest relative error "
        f"{max(errors):.1e} (tolerance 1e-12)"
    )
    assert max(errors) < 1e-12


def test_gradcheck_selects_the_names_with_all_words():
    rows = output_of("gradcheck", "cross_entropy", "soft").splitlines()[:-1]
    assert [row[2:].rpartition("  ")[0] for row in rows] == ["cross_entropy, soft targets"]


def test_gradcheck_prints_a_line_per_argument_on_request():
    words = ["gradcheck", "ViT", "none", "mean", "linear", "erf"]
    head, *arguments, last = output_of(*words, "--all").splitlines()
    assert output_of(*words).splitlines() == [head, last]
    assert f"with {len(arguments)} arguments in total" in last
    assert len(arguments) > 20
    assert all(line.startswith("  ✓ ") for line in arguments)
    names = [line.split()[1] for line in arguments]
    assert "params/blocks/1/attention/qkv/kernel" in names
    assert max(float(line.split()[-1]) for line in arguments) == float(head.split()[-1])


def test_gradcheck_fails_and_explains_a_wrong_gradient(monkeypatch):
    def doubled_softmax(x):
        value, pullback = layers.softmax(x)
        return value, lambda dy: 2 * pullback(dy)

    x = np.random.default_rng(0).normal(size=(2, 3))
    wrong = cases.Case("softmax", doubled_softmax, (x,))
    right = cases.Case("linear", layers.linear, (x, x.T.copy()))
    monkeypatch.setattr(cases, "layer_cases", lambda: [wrong, right])
    monkeypatch.setattr(cases, "model_cases", lambda: [])
    status, out, _ = run("gradcheck")
    softmax, explanation, linear, summary = out.splitlines()
    assert status == 1
    assert softmax.startswith("✗ softmax  ")
    assert explanation.startswith("  x: ")
    assert " 2 times" in explanation
    assert linear.startswith("✓ linear ")
    assert summary.startswith("correct: 1 of 2 functions, with 3 arguments in total; ")
    assert run("gradcheck", "linear").status == 0
