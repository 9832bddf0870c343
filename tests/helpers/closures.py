"""Find captured names that are bound more than once, in the syntax tree of a source file.

A closure captures names, not values. If the enclosing function binds a name again after it has
created the pullback, the pullback reads the new value.
"""

import ast
from collections import Counter
from collections.abc import Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)


def captured_names_bound_again(name: str, source: str) -> list[str]:
    """List the names that an inner function reads and its enclosing function binds twice.

    The two branches of an `if` count as two bindings, and a loop counts as two: the reader of the
    code should not have to reason about the order of execution. `name` is the path of the file.
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
                found.append(f"{where}: '{inner.name}' captures itself, a reference cycle")
    return found


def bindings(scope: ast.AST) -> Counter[str]:
    """Count the bindings of each name in a scope. A binding in a loop counts twice."""
    counts = Counter(parameters_of(scope))
    for node, looped in own_nodes(scope):
        for name in names_bound_by(node):
            counts[name] += 2 if looped or isinstance(node, COMPREHENSIONS) else 1
    return counts


def closures(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the functions created in a scope, including those in its comprehensions."""
    for inner in inner_scopes(scope):
        if isinstance(inner, FUNCTIONS):
            yield inner
        else:
            yield from closures(inner)


def names_read_from_outside(scope: ast.AST) -> set[str]:
    """Return the names that a scope or a scope inside it reads and that it does not bind."""
    names = {
        node.id
        for node, _ in own_nodes(scope)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    for inner in inner_scopes(scope):
        names |= names_read_from_outside(inner)
    return names - set(bindings(scope))


def inner_scopes(scope: ast.AST) -> list[ast.AST]:
    """Return the scopes directly inside a scope."""
    return [node for node, _ in own_nodes(scope) if isinstance(node, SCOPES)]


def own_nodes(scope: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Yield (node, whether it is in a loop) for a scope. Inner scopes are not entered."""
    waiting = [(node, isinstance(scope, COMPREHENSIONS)) for node in body_of(scope)]
    while waiting:
        node, looped = waiting.pop()
        yield node, looped
        looped = looped or isinstance(node, LOOPS)
        inner = outside_of(node) if isinstance(node, SCOPES) else ast.iter_child_nodes(node)
        waiting += [(child, looped) for child in inner]


def body_of(scope: ast.AST) -> list[ast.AST]:
    """Return the nodes evaluated inside a scope, without defaults, decorators, annotations."""
    if isinstance(scope, COMPREHENSIONS):
        return list(ast.iter_child_nodes(scope))
    return scope.body if isinstance(scope.body, list) else [scope.body]


def outside_of(scope: ast.AST) -> list[ast.AST]:
    """Return the nodes evaluated where a function is created: its defaults and decorators."""
    if not isinstance(scope, FUNCTIONS):
        return []
    defaults = [*scope.args.defaults, *filter(None, scope.args.kw_defaults)]
    return [*defaults, *getattr(scope, "decorator_list", [])]


def parameters_of(scope: ast.AST) -> list[str]:
    """Return the names of a function's parameters."""
    if not isinstance(scope, FUNCTIONS):
        return []
    a = scope.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, [a.vararg, a.kwarg])]
    return [arg.arg for arg in every]


def names_bound_by(node: ast.AST) -> list[str]:
    """Return the names that a node binds, by any statement or expression of the language."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return [node.id]
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return [node.name] if node.name else []
    if isinstance(node, COMPREHENSIONS):  # a walrus operator inside binds in the outer scope
        return [n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)]
    return []
