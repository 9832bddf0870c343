"""Importing minivit and drawing figures change no global state."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import minivit

REPORT = """
import json, sys, warnings
import matplotlib, numpy
matplotlib.use("svg")
filters = list(warnings.filters)
import minivit
if len(sys.argv) > 1:
    names = "epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"
    log = [dict.fromkeys(names, 1)]
    minivit.analysis.save_figure(minivit.analysis.plot_curves(log), sys.argv[1])
modules = [name in sys.modules for name in ("matplotlib.figure", "matplotlib.pyplot")]
print(json.dumps([matplotlib.get_backend(), warnings.filters == filters, *modules]))
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_backend_warning_filters_and_pyplot_are_unchanged(tmp_path):
    assert run_python(REPORT) == ["svg", True, False, False]
    assert run_python(REPORT, tmp_path / "curves.png") == ["svg", True, True, False]
    assert (tmp_path / "curves.png").exists()


def test_matplotlib_is_imported_for_figures_only():
    assert run_python("import sys, minivit; print(int('matplotlib' in sys.modules))") == 0


def test_no_module_imports_pyplot_or_selects_a_backend():
    for path in Path(minivit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                assert "pyplot" not in ast.unparse(node), path
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "matplotlib.use")


def test_plotting_functions_are_names_of_the_analysis_package():
    assert minivit.analysis.plot_attention is minivit.analysis.plots.plot_attention
    with pytest.raises(AttributeError, match="has no attribute 'plot_nothing'"):
        _ = minivit.analysis.plot_nothing
