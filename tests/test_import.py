"""`import minivit` changes no global state, and neither do its figures."""

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
before = list(warnings.filters)
{code}
print(json.dumps({{
    "backend": matplotlib.get_backend(),
    "pyplot": "matplotlib.pyplot" in sys.modules,
    "figure": "matplotlib.figure" in sys.modules,
    "same filters": warnings.filters == before,
}}))
"""
DRAW = """
from minivit import analysis
log = [{"epoch": 1, "loss": 2.0, "held_out_loss": 1.5, "held_out_accuracy": 0.5}]
analysis.save_figure(analysis.plot_curves(log), sys.argv[1])
"""


def run_python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("code", ["import minivit", DRAW], ids=["import", "draw"])
def test_backend_pyplot_and_warning_filters_are_unchanged(code, tmp_path):
    report = json.loads(run_python(REPORT.format(code=code), tmp_path / "curves.png"))
    drawn = code == DRAW
    assert report == {"backend": "svg", "pyplot": False, "figure": drawn, "same filters": True}
    assert (tmp_path / "curves.png").exists() == drawn


def test_matplotlib_is_imported_for_figures_only():
    code = "import sys, minivit; print('matplotlib' in sys.modules)"
    assert run_python(code).strip() == "False"


def test_no_module_imports_pyplot_or_selects_a_backend():
    for path in Path(minivit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                assert not any("pyplot" in name for name in names), path
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) == "matplotlib.use")


def test_figures_are_names_of_the_analysis_package():
    assert minivit.analysis.plot_attention is minivit.analysis.plots.plot_attention
    with pytest.raises(AttributeError, match="has no attribute 'plot_nothing'"):
        _ = minivit.analysis.plot_nothing
