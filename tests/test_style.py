"""What the code promises about itself, proven on the syntax trees of all its files.

Each promise is a function from a file's source to the list of places that break it. It is run
over the package, where the list must be empty, and over a few lines with the mistake planted.
"""

import ast
import io
import textwrap
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import minivit

ROOT = Path(minivit.__file__).parent
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.py"))
}


def within(*folders: str) -> dict[str, str]:
    return {name: text for name, text in SOURCES.items() if name.startswith(folders)}


WITH_PULLBACKS = within("layers/", "models/", "cuda/")
ON_ANY_DEVICE = within("layers/", "models/", "training/", "analysis/")

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)


def everywhere(check: Callable[[str, str], list[str]], sources: dict[str, str]) -> str:
    """All violations, one a line; empty if there are none."""
    return "\n".join(
        f"{name}: {found}" for name, text in sources.items() for found in check(name, text)
    )


# --- a closure holds names, not values -------------------------------------------------------


def body_of(scope: ast.AST) -> list[ast.AST]:
    """What is evaluated inside a scope: not the defaults, decorators and annotations."""
    if isinstance(scope, COMPREHENSIONS):
        return list(ast.iter_child_nodes(scope))
    return scope.body if isinstance(scope.body, list) else [scope.body]


def outside_of(scope: ast.AST) -> list[ast.AST]:
    """What is evaluated where the scope is made: its defaults and decorators."""
    if isinstance(scope, ast.Lambda):
        return [*scope.args.defaults, *filter(None, scope.args.kw_defaults)]
    if isinstance(scope, FUNCTIONS):
        defaults = [*scope.args.defaults, *filter(None, scope.args.kw_defaults)]
        return [*defaults, *scope.decorator_list]
    return []


def own_nodes(scope: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Every node of a scope, inner scopes themselves but not what is in them; and: in a loop?"""
    waiting = [(node, isinstance(scope, COMPREHENSIONS)) for node in body_of(scope)]
    while waiting:
        node, looped = waiting.pop()
        yield node, looped
        looped = looped or isinstance(node, LOOPS)
        inner = outside_of(node) if isinstance(node, SCOPES) else ast.iter_child_nodes(node)
        waiting += [(child, looped) for child in inner]


def inner_scopes(scope: ast.AST) -> list[ast.AST]:
    return [node for node, _ in own_nodes(scope) if isinstance(node, SCOPES)]


def parameters_of(scope: ast.AST) -> list[str]:
    if not isinstance(scope, FUNCTIONS):
        return []
    a = scope.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return [arg.arg for arg in every]


def names_bound_by(node: ast.AST) -> list[str]:
    """The names that this node binds, in whatever way Python knows."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return [node.name] if node.name else []
    if isinstance(node, COMPREHENSIONS):  # a walrus inside binds out here
        return [n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
    return []


def bindings(scope: ast.AST) -> Counter[str]:
    """How often a scope binds each of its names; what a loop binds, it binds more than once."""
    counts = Counter(parameters_of(scope))
    for node, looped in own_nodes(scope):
        for name in names_bound_by(node):
            counts[name] += 2 if looped or isinstance(node, COMPREHENSIONS) else 1
    return counts


def names_read_from_outside(scope: ast.AST) -> set[str]:
    names = {
        node.id
        for node, _ in own_nodes(scope)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for inner in inner_scopes(scope):
        names |= names_read_from_outside(inner)
    return names - set(bindings(scope))


def closures(scope: ast.AST) -> Iterator[ast.AST]:
    """The functions made in a scope, those in its comprehensions too."""
    for inner in inner_scopes(scope):
        if isinstance(inner, FUNCTIONS):
            yield inner
        else:
            yield from closures(inner)


def captured_names_bound_again(name: str, source: str) -> list[str]:
    """Names that an inner function reads and that its enclosing function binds more than once.

    By the time the pullback runs, such a name may stand for another array. Two branches of an
    `if` count as two, and so does a loop: whoever reads the code should not have to know better.
    """
    found = []
    for outer in ast.walk(ast.parse(source)):
        if isinstance(outer, (ast.Nonlocal, ast.Global)):
            found.append(f"line {outer.lineno}: no {type(outer).__name__.lower()} names")
        if not isinstance(outer, (*FUNCTIONS, *COMPREHENSIONS)):
            continue
        counts = bindings(outer)
        for inner in closures(outer):
            where = f"line {inner.lineno}, in {getattr(outer, 'name', type(outer).__name__)}"
            captured = names_read_from_outside(inner)
            again = sorted(n for n in captured if counts[n] > 1)
            found += [f"{where}: '{n}' is bound {counts[n]} times" for n in again]
            if getattr(inner, "name", None) in captured:
                found.append(f"{where}: '{inner.name}' captures itself, a cycle in memory")
    return found


def test_a_name_that_a_pullback_reads_is_bound_once() -> None:
    violations = everywhere(captured_names_bound_again, WITH_PULLBACKS)
    assert not violations, violations


REBOUND = {
    "an assignment": "y = x\ny = y + 1\nreturn lambda dy: dy * y",
    "in place": "y = x + 1\ny *= 2\nreturn lambda dy: dy * y",
    "a parameter": "x = x + 1\nreturn lambda dy: dy * x",
    "a parameter in place": "x += 1\nreturn lambda dy: dy * x",
    "the two branches": "if x:\n  y = 1\nelse:\n  y = 2\nreturn lambda dy: dy * y",
    "after the pullback": "y = x\ndef pullback(dy):\n  return dy * y\ny = x + 1\nreturn pullback",
    "a loop's target": "for y in x:\n  pass\nreturn lambda dy: dy * y",
    "in a loop": "for _ in x:\n  y = x\nreturn lambda dy: dy * y",
    "in a while loop": "while x:\n  y = x\nreturn lambda dy: dy * y",
    "a tuple": "a, y = x\nb, (*y, _) = x\nreturn lambda dy: dy * y",
    "a walrus": "y = x\nif (y := x + 1):\n  pass\nreturn lambda dy: dy * y",
    "a walrus in a comprehension": "z = [y := n for n in x]\nreturn lambda dy: dy * y",
    "with as": "y = x\nwith x as y:\n  pass\nreturn lambda dy: dy * y",
    "except as": "y = x\ntry:\n  pass\nexcept E as y:\n  pass\nreturn lambda dy: dy * y",
    "an import": "y = x\nimport y\nreturn lambda dy: dy * y",
    "deleted": "y = x\ndel y\nreturn lambda dy: dy * y",
    "an annotation": "y: int = x\ny: int = 2\nreturn lambda dy: dy * y",
    "read two functions down": "y = x\ny = 2\nreturn lambda dy: [(lambda: y * n) for n in dy]",
    "read in a comprehension": "y = x\ny = 2\nreturn lambda dy: [y * n for n in dy]",
    "lambdas in a comprehension": "return [lambda dy: dy * n for n in x]",
    "another function of the name": "def g(dy): pass\ndef g(dy): pass\nreturn lambda dy: g(dy)",
    "nonlocal": "y = x\ndef pullback(dy):\n  nonlocal y\n  y = dy\nreturn pullback",
    "a pullback that calls itself": "def pullback(dy):\n  return pullback(dy)\nreturn pullback",
}
BOUND_ONCE = {
    "once": "y = x + 1\nreturn lambda dy: dy * y",
    "a parameter": "return lambda dy: dy * x",
    "written into": "y = x + 1\ny[:] = 2\nreturn lambda dy: dy * y",
    "bound again, but not read": "y = x\ny = y + 1\nreturn lambda dy: dy * x",
    "the pullback's own": "y = x\ny = 2\ndef pullback(y):\n  return y\nreturn pullback",
    "the pullback's own, in place": "def pullback(dy):\n  dy += x\n  return dy\nreturn pullback",
    "a default is a value": "for y in x:\n  f = lambda dy, y=y: dy * y\nreturn f",
    "the comprehension's own": "y = x\ny = 2\nreturn lambda dy: [y for y in dy]",
    "an attribute of the name": "y = x\ny = 2\nreturn lambda dy: dy.y",
}


def function_of(body: str) -> str:
    return "def f(x):\n" + textwrap.indent(body, "    ")


@pytest.mark.parametrize("body", REBOUND.values(), ids=REBOUND)
def test_a_captured_name_bound_again_is_found(body: str) -> None:
    assert captured_names_bound_again("", function_of(body))


@pytest.mark.parametrize("body", BOUND_ONCE.values(), ids=BOUND_ONCE)
def test_names_bound_once_pass(body: str) -> None:
    assert captured_names_bound_again("", function_of(body)) == []


# --- names are plain letters -----------------------------------------------------------------


def odd_names(name: str, source: str) -> list[str]:
    """Names with letters outside of ASCII, some of which look just like others, or combine."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = (t for t in tokens if t.type in (tokenize.NAME, tokenize.ERRORTOKEN))
    return [f"line {t.start[0]}: {t.string!a}" for t in names if not t.string.isascii()]


def test_names_are_plain_letters() -> None:
    violations = everywhere(odd_names, SOURCES)
    assert not violations, violations


@pytest.mark.parametrize("name", ["x\u0302", "\u0430lpha", "\uff58", "\u03c3", "na\u00efve"])
def test_an_odd_name_is_found(name: str) -> None:
    assert odd_names("", f"# \u03c3 may stand in a comment, and in 'a string'\n{name} = '\u03c3'\n")
    assert odd_names("", "# \u03c3\nsigma = '\u03c3'\n") == []


# --- the floors ------------------------------------------------------------------------------

# From the ground up. What is not named here stands on the floor TOP, beside `model`.
FLOORS = (
    {"arrays", "tree", "devices", "shards", "hints", "checker", "keeping", "resampling"},
    {"layers"},
    {"models"},
    {"data", "weights", "exercises"},
    {"analysis", "training"},
    {"model"},
    {"__init__"},
    {"recipes"},
    {"options"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
GROUND, TOP = 0, 5
ROOMS = {path.partition("/")[0].removesuffix(".py") for path in SOURCES}.union(*FLOORS, {"cuda"})


def floor_of(room: str) -> int:
    return next((floor for floor, rooms in enumerate(FLOORS) if room in rooms), TOP)


def room_of(path: str) -> str:
    return path.partition("/")[0].removesuffix(".py")


def imported_rooms(path: str, node: ast.AST) -> set[str]:
    """The rooms of minivit that an import statement in this file reaches."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = ["minivit", *path.split("/")[:-1]]
        base = package[: len(package) - node.level + 1] if node.level else []
        base += node.module.split(".") if node.module else []
        names = [".".join([*base, alias.name]) for alias in node.names]
    else:
        return set()
    parts = [name.split(".") for name in names]
    return {
        # `from minivit import __version__` reaches into no room: that is the package's own file
        part[1] if len(part) > 1 and part[1] in ROOMS else "__init__"
        for part in parts
        if part[0] == "minivit"
    }


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Import statements, and: inside a function? Those for type checkers do not count."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield node, inside
    for child in node.orelse if is_type_checking(node) else ast.iter_child_nodes(node):
        yield from imports(child, inside or isinstance(node, FUNCTIONS))


def may_import(room: str, other: str, inside: bool) -> bool:
    if room == other:
        return True
    if other == "cuda":  # loaded when a model goes to the GPU, and only then
        return inside
    if floor_of(room) == floor_of(other) == GROUND:
        return True
    if floor_of(room) == TOP and other == "model":  # what its neighbours work with
        return True
    return floor_of(other) < floor_of(room)


def stairs_climbed(path: str, source: str) -> list[str]:
    """Imports from the same floor or from one above."""
    room = room_of(path)
    return [
        f"line {node.lineno}: {room} (floor {floor_of(room)}) imports {other}"
        for node, inside in imports(ast.parse(source))
        for other in sorted(imported_rooms(path, node))
        if not may_import(room, other, inside)
    ]


def test_each_floor_imports_only_from_those_below() -> None:
    violations = everywhere(stairs_climbed, SOURCES)
    assert not violations, violations


CLIMBING = [
    ("arrays.py", "from .layers import linear"),
    ("arrays.py", "from . import layers"),
    ("arrays.py", "import minivit"),
    ("layers/linear.py", "from ..models import vit"),
    ("layers/linear.py", "from .. import models"),
    ("layers/linear.py", "import minivit.models.vit"),
    ("layers/linear.py", "from minivit.models import vit"),
    ("layers/linear.py", "def f():\n    from ..models import vit"),
    ("layers/linear.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from ..models import vit"),
    ("models/vit.py", "from ..data import digits"),
    ("data/digits.py", "from ..weights import load"),
    ("weights/checkpoint.py", "from .. import data"),
    ("training/loop.py", "from ..analysis import rollout"),
    ("analysis/plots.py", "from ..training.loop import train"),
    ("training/loop.py", "from ..model import ViT"),
    ("model.py", "from . import proofs"),
    ("model.py", "from .cuda import fused"),
    ("proofs.py", "from . import __version__"),
    ("proofs.py", "from .cli import main"),
]
STAYING_BELOW = [
    ("tree.py", "from .arrays import Array"),
    ("layers/mlp.py", "from .linear import linear"),
    ("layers/mlp.py", "from ..arrays import Array"),
    ("training/loop.py", "from .. import weights\nfrom ..data import Dataset"),
    ("training/step.py", "if TYPE_CHECKING:\n    from ..model import ViT"),
    ("training/step.py", "import numpy as np\nfrom tqdm import tqdm"),
    ("proofs.py", "from .model import ViT"),
    ("model.py", "def to_gpu():\n    from . import cuda"),
    ("cli.py", "from . import __version__, training"),
    ("__main__.py", "from .cli import main"),
]


@pytest.mark.parametrize(("path", "source"), CLIMBING)
def test_a_climbing_import_is_found(path: str, source: str) -> None:
    assert stairs_climbed(path, source)


@pytest.mark.parametrize(("path", "source"), STAYING_BELOW)
def test_an_import_from_below_passes(path: str, source: str) -> None:
    assert stairs_climbed(path, source) == []


# --- nobody calls NumPy on the arrays of a model ----------------------------------------------

# What may be named (in annotations, `isinstance`, and as a dtype), and what may be called: none
# of it touches an array of the model.
NAMED = ("ndarray", "dtype", "random.Generator", "float16", "float32", "float64", "int32", "int64")
CALLED = ("errstate", "random.default_rng", "polynomial.legendre.leggauss")
# Files, and single functions, whose arrays are never those of a device, and why.
ON_THE_HOST = {
    "models/initialise.py": "draws there, so that every backend gets the same numbers",
    "training/baseline.py": "a linear model of the pixels",
    "training/batches.py": "batches are made there, and then sent",
    "training/descent.py": "the small models of the book",
    "training/evaluate.py": "what a model answers is there",
    "training/fewshot.py": "features are there",
    "training/loop.py: resume": "what a file holds is there, until it is sent",
    "training/loop.py: _save": "and so is what a file is given",
    "analysis/boxes.py: shares_inside": "of attention_gradients, which are there",
    "analysis/drawing.py": "pictures are there",
    "analysis/embedding.py: patch_filters": "a small decomposition, and then a picture",
    "analysis/figures.py": "pictures",
    "analysis/gradients.py: attention_gradients": "gathers there what it has asked to be sent",
    "analysis/gradients.py: checked_classes": "the caller's numbers",
    "analysis/overlays.py": "pictures",
    "analysis/plots.py": "pictures",
}


def dotted(node: ast.AST) -> str:
    """ "np.random.Generator" of such an expression, "" of another."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def numpy_uses(path: str, source: str) -> list[str]:
    """Where a file uses more of NumPy than the two lists above."""
    if path in ON_THE_HOST:
        return []
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if f"{path}: {getattr(n, 'name', '')}" not in ON_THE_HOST]
    nodes = list(ast.walk(tree))
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    parts = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            odd = [a for a in node.names if a.name.startswith("numpy") and a.asname != "np"]
            found += [f"line {node.lineno}: numpy is imported as np" for _ in odd]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numpy"):
            found.append(f"line {node.lineno}: a name imported from numpy")
        elif dotted(node).split(".")[0] == "np" and id(node) not in parts:
            allowed = CALLED if id(node) in called else NAMED
            if dotted(node).removeprefix("np.") not in allowed:
                found.append(f"line {node.lineno}: {dotted(node)}")
    return found


def test_nobody_uses_numpy_on_the_arrays_of_a_model() -> None:
    violations = everywhere(numpy_uses, ON_ANY_DEVICE)
    assert not violations, violations


def test_what_is_on_the_host_is_there_and_needs_to_be_named() -> None:
    for place in ON_THE_HOST:
        path, _, function = place.partition(": ")
        tree = ast.parse(SOURCES[path])
        tree.body = [n for n in tree.body if not function or getattr(n, "name", "") == function]
        assert numpy_uses("", ast.unparse(tree)), f"{place} uses no NumPy"


@pytest.mark.parametrize(
    "source",
    [
        "y = np.exp(x)",
        "f = np.tanh",
        "y = x * np.float32(0.5)",
        "y = np.random.default_rng(0).normal(size=np.shape(x))",
        "y = np.linalg.norm(x)",
        "xp = np",
        "y = np.pi * x",
        "from numpy import exp",
        "from numpy.linalg import norm",
        "import numpy",
        "import numpy as onp",
        "import numpy.linalg",
    ],
)
def test_numpy_on_a_model_array_is_found(source: str) -> None:
    for path in ("layers/mlp.py", "models/vit.py", "training/step.py", "analysis/attention.py"):
        assert numpy_uses(path, source)


def test_numpy_beside_a_function_of_the_host_is_found() -> None:
    source = "def _save(x):\n    return np.exp(x)\n\n\ndef step(x):\n    return np.exp(x)"
    assert numpy_uses("training/loop.py", source) == ["line 6: np.exp"]


@pytest.mark.parametrize(
    "source",
    [
        "import numpy as np\nxp.exp(x)",
        "def f(g: np.random.Generator | None = None): pass",
        "isinstance(labels, np.ndarray)",
        "g.random(3, dtype=np.float32)",
        "with np.errstate(over='ignore'): pass",
        "a, b = np.polynomial.legendre.leggauss(24)",
    ],
)
def test_numpy_beside_the_arrays_passes(source: str) -> None:
    assert numpy_uses("layers/mlp.py", source) == []


# --- every public function says what it does and takes ---------------------------------------


def public_definitions(tree: ast.AST) -> Iterator[ast.AST]:
    """Functions, classes and their methods; special methods too, if someone calls them."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        if node.name.startswith("_") and not node.name.endswith("__"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node)


def unannotated(function: ast.FunctionDef) -> list[str]:
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    missing = [f"no annotation of '{arg.arg}'" for arg in every if arg.annotation is None]
    itself = ("no annotation of 'self'", "no annotation of 'cls'")
    missing = [text for text in missing if text not in itself]
    return missing if function.returns else [*missing, "no annotation of what it returns"]


def undocumented(path: str, source: str) -> list[str]:
    """Public functions and classes without a docstring, or with an annotation missing."""
    found = []
    for node in public_definitions(ast.parse(source)):
        special = node.name.endswith("__")  # its meaning is Python's
        missing = [] if special or ast.get_docstring(node) else ["no docstring"]
        missing += [] if isinstance(node, ast.ClassDef) else unannotated(node)
        found += [f"line {node.lineno}, {node.name}: {text}" for text in missing]
    return found


def test_public_functions_are_documented_and_annotated() -> None:
    violations = everywhere(undocumented, SOURCES)
    assert not violations, violations


@pytest.mark.parametrize(
    "source",
    [
        "def f(x: int) -> int:\n    return x",
        "def f(x) -> int:\n    'Text.'",
        "def f(x: int):\n    'Text.'",
        "def f(*x) -> int:\n    'Text.'",
        "def f(**x) -> int:\n    'Text.'",
        "def f(*, x) -> int:\n    'Text.'",
        "class A:\n    x: int",
        "class A:\n    'Text.'\n    def f(self) -> int:\n        return 1",
        "class A:\n    'Text.'\n    def __init__(self, x) -> None:\n        self.x = x",
    ],
)
def test_a_missing_docstring_or_annotation_is_found(source: str) -> None:
    assert undocumented("", source)


@pytest.mark.parametrize(
    "source",
    [
        "def _f(x):\n    return x",
        "def f(x: int) -> int:\n    'Text.'\n    def pullback(dy):\n        pass",
        "class A:\n    'Text.'\n    def __init__(self, x: int) -> None:\n        self.x = x",
    ],
)
def test_what_is_private_or_complete_passes(source: str) -> None:
    assert undocumented("", source) == []
