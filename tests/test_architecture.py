"""Rules that the package's source must follow, checked on its syntax trees."""

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.closures import rebound_captures

import minivit

ROOT = Path(minivit.__file__).parent
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.py"))
}

# From bottom to top. A module may import from its own layer's package and from lower layers.
LAYERS = (
    {"terminal"},
    {"files"},
    {"arrays"},
    {"tree"},
    {"parallel"},
    {"optim"},
    {"layers"},
    {"models"},
    {"compiled"},
    {"cuda"},
    {"devices"},
    {"data"},
    {"checking"},
    {"weights"},
    {"inference"},
    {"api"},
    {"analysis"},
    {"training"},
    {"cost"},
    {"experiments"},
    {"explorer"},
    {"__init__"},
    {"exercises"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def package_of(path: str) -> str:
    """The layer of a file: layers/linear.py -> layers, api.py -> api."""
    return path.partition("/")[0].removesuffix(".py")


def imported_packages(path: str, node: ast.AST) -> set[str]:
    """The layers of minivit that an import statement refers to."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = ["minivit", *path.split("/")[:-1]]
        base = package[: len(package) - node.level + 1] if node.level else []
        base += node.module.split(".") if node.module else []
        names = [".".join([*base, alias.name]) for alias in node.names]
    else:
        return set()
    parts = [name.split(".") for name in names if name.split(".")[0] == "minivit"]
    # `from minivit import __version__` refers to the package's own __init__.py
    return {p[1] if len(p) > 1 and p[1] in LEVEL else "__init__" for p in parts}


def upward_imports(path: str, source: str) -> list[str]:
    """Imports from the same level or a higher one, anywhere in a file."""
    package = package_of(path)
    return [
        f"{path}, line {node.lineno}: {package} imports {other}"
        for node in ast.walk(ast.parse(source))
        for other in sorted(imported_packages(path, node))
        if other != package and LEVEL[other] >= LEVEL[package]
    ]


def test_every_module_belongs_to_a_layer() -> None:
    assert {package_of(path) for path in SOURCES} <= set(LEVEL)


def test_modules_import_only_from_lower_layers() -> None:
    violations = [v for path, source in SOURCES.items() for v in upward_imports(path, source)]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("arrays.py", "from .layers import linear"),
        ("arrays.py", "import minivit"),
        ("layers/linear.py", "import minivit.models.vit"),
        ("layers/linear.py", "def f():\n    from ..models import vit"),
        ("data/digits.py", "if TYPE_CHECKING:\n    from ..api import ViT"),
        ("weights/own.py", "from .. import api"),
        ("analysis/plots/model.py", "from ...training.loop import train"),
        ("cost/memory.py", "from minivit import __version__"),
    ],
)
def test_an_upward_import_is_found(path: str, source: str) -> None:
    assert upward_imports(path, source)


def module_imports(path: str, source: str) -> set[str]:
    """The modules of minivit that a file imports when it is loaded, as paths."""
    found = set()
    package = path.split("/")[:-1]
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for parts in (base, *([*base, alias.name] for alias in node.names)):
                for name in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
                    found |= {name} & SOURCES.keys()
    return found - {path}


def test_no_two_modules_import_each_other() -> None:
    graph = {path: module_imports(path, source) for path, source in SOURCES.items()}
    for path in [path for path in graph if path.endswith("__init__.py")]:
        del graph[path]  # a package may re-export the modules that import from it
    finished: set[str] = set()

    def visit(path: str, active: tuple[str, ...]) -> None:
        assert path not in active, " -> ".join([*active[active.index(path) :], path])
        if path not in finished:
            for other in graph[path] & graph.keys():
                visit(other, (*active, path))
            finished.add(path)

    for path in graph:
        visit(path, ())


# --- closures capture variables, not values ---------------------------------------------------


def test_a_name_that_a_pullback_reads_is_bound_once() -> None:
    for path, source in SOURCES.items():
        if path.startswith(("layers/", "models/", "cuda/", "compiled/")):
            assert rebound_captures(source) == [], path


# --- device-independent code does not call NumPy ---------------------------------------------

# What may be named (annotations, `isinstance`, dtypes) and called without touching model arrays.
NAMED = ("ndarray", "dtype", "random.Generator", "float16", "float32", "float64", "int32", "int64")
CALLED = ("errstate", "random.default_rng", "polynomial.legendre.leggauss", "dtype")
# Files and functions whose arrays are always on the host, and why.
ON_HOST = {
    "models/initialise.py": "parameters are drawn on the host",
    "training/baseline.py": "logistic regression on the pixels runs on the host",
    "training/batches.py": "batches are prepared on the host and then uploaded",
    "training/descent.py": "the small models of the book run on the host",
    "training/evaluate.py": "a model returns its logits on the host",
    "training/fewshot.py": "features are on the host",
    "training/log.py": "the log is on the host",
    "training/run.py: restore_run": "arrays of a file are on the host until they are uploaded",
    "training/run.py: save_checkpoint": "arrays of a file are on the host",
}


def dotted_name(node: ast.AST) -> str:
    """The text of an expression like np.random.Generator, "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted_name(node.value)):
        return f"{base}.{node.attr}"
    return ""


def numpy_uses(path: str, source: str) -> Iterator[str]:
    """Uses of NumPy in a file beyond the two lists above."""
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if f"{path}: {getattr(n, 'name', '')}" not in ON_HOST]
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
            yield f"{path}, line {node.lineno}: a name imported from numpy"
        if isinstance(node, ast.Import) and any(
            a.name.startswith("numpy") and a.asname != "np" for a in node.names
        ):
            yield f"{path}, line {node.lineno}: numpy must be imported as np"
        name = dotted_name(node)
        allowed = CALLED if id(node) in called else NAMED
        used = name.split(".")[0] == "np" and id(node) not in inner
        if used and name.removeprefix("np.") not in allowed:
            yield f"{path}, line {node.lineno}: {name}"


def test_layers_models_and_training_do_not_call_numpy_on_model_arrays() -> None:
    violations = [
        use
        for path, source in SOURCES.items()
        if path.startswith(("layers/", "models/", "training/")) and path not in ON_HOST
        for use in numpy_uses(path, source)
    ]
    assert not violations, "\n".join(violations)


@pytest.mark.parametrize(
    "source",
    ["y = np.exp(x)", "f = np.tanh", "y = np.pi * x", "from numpy import exp", "import numpy"],
)
def test_numpy_on_a_model_array_is_found(source: str) -> None:
    assert list(numpy_uses("layers/mlp.py", source))


# --- names ------------------------------------------------------------------------------------


def test_identifiers_are_ascii() -> None:
    for path, source in SOURCES.items():
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        odd = [t.string for t in tokens if t.type == tokenize.NAME and not t.string.isascii()]
        assert odd == [], path


# --- size -------------------------------------------------------------------------------------


def line_count(*prefixes: str) -> int:
    return sum(source.count("\n") for path, source in SOURCES.items() if path.startswith(prefixes))


def test_the_package_stays_small() -> None:
    total = line_count("") - line_count("exercises/")
    assert total <= 12_920
    assert total - line_count("cuda/") <= 12_240


def test_the_files_of_a_plain_vit_stay_small() -> None:
    layers = ("attention", "dropout", "embedding", "gelu", "heads", "layer_norm", "linear", "mlp")
    paths = [f"layers/{name}.py" for name in (*layers, "patches", "positions", "softmax")]
    paths += ["models/vit.py", "models/config.py", "models/initialise.py"]
    assert line_count(*paths) < 1_500


def test_files_have_at_most_about_300_lines() -> None:
    for path in SOURCES:
        assert line_count(path) <= 310, path
