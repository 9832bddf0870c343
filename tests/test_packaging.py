"""The wheel and the editable installation work from any folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command, folder, **variables):
    """Run a command in a folder without the variables that would change the import path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"MPLBACKEND": "Agg", **variables}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_works_from_the_folder_above_a_clone(tmp_path):
    """Python finds the folder `minivit` there, which is the clone and not the package."""
    (tmp_path / "minivit").symlink_to(ROOT, target_is_directory=True)
    code = "import minivit; print(minivit.__version__)"
    assert run(sys.executable, "-c", code, folder=tmp_path).strip()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(tmp_path):
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"minivit/py.typed", "minivit/data/digits.npz", "minivit/data/scattered.npz"} <= names
    assert "minivit/exercises/solutions/04_rms_norm.py" in names
    assert not [name for name in names if name.startswith(("tests/", "chapters/"))]

    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    programs = tmp_path / "venv" / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", wheel, folder=tmp_path)
    other = tmp_path / "elsewhere"
    other.mkdir()
    out = run(programs / "minivit", "train", "--epochs", 1, folder=other)
    assert "accuracy" in out
    assert (other / "runs" / "digits" / "model.npz").is_file()
    run(programs / "minivit", "attention", folder=other)
    assert (other / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "4 " in run(programs / "minivit", "exercise", folder=other)
    run(programs / "minivit", "exercise", 4, "--start", folder=other)
    assert (other / "exercises" / "04_rms_norm.py").is_file()
