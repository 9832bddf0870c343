"""The wheel and the editable installation work from any folder."""

import os
import re
import runpy
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

import minivit

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


def test_the_description_on_the_package_index_has_absolute_links(monkeypatch):
    interface = types.ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    names = runpy.run_path(str(ROOT / ".ci" / "metadata.py"))
    text = "[![T](../../a/b.svg)](../../a) ![P](figures/p.png) [b](chapters/b.md) "
    text += "[w](https://w) [h](#h)"
    assert names["absolute_links"](text, "https://r") == (
        "[![T](https://r/a/b.svg)](https://r/a) ![P](https://r/raw/main/figures/p.png) "
        "[b](https://r/blob/main/chapters/b.md) [w](https://w) [h](#h)"
    )
    hook = names["ReadmeHook"]()
    hook.root, metadata = ROOT, {"urls": {"Repository": "https://r"}}
    hook.update(metadata)
    links = re.findall(r"\]\(([^)]*)\)", metadata["readme"]["text"])
    assert len(links) > 20
    assert all(link.startswith("https://") or link.startswith("#") for link in links)


def test_the_citation_has_the_version_of_the_package():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", text, re.MULTILINE)[1] == minivit.__version__


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
