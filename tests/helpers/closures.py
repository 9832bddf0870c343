"""Find captured variables that are bound more than once, in the bytecode of a source file.

A closure captures variables, not values. If the enclosing function binds a variable again after it
has created the pullback, the pullback reads the new value.
"""

import dis
import inspect
from collections import Counter
from collections.abc import Iterator
from types import CodeType

COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


def rebound_captures(source: str) -> list[str]:
    """List the variables that an inner function reads and that are bound more than once.

    The two branches of an `if` count as two bindings, and a binding in a loop counts as two: the
    reader of the code should not have to reason about the order of execution.
    """
    violations = []
    for code in all_code(compile(source, "source", "exec")):
        where, counts = f"line {code.co_firstlineno}, in {code.co_name}", count_bindings(code)
        for name in sorted(captured_variables(code)):
            if counts[name] > 1:
                violations.append(f"{where}: '{name}' is bound {counts[name]} times")
        for i in dis.get_instructions(code):
            nonlocal_name = i.opname == "STORE_DEREF" and i.argval in code.co_freevars
            if nonlocal_name or i.opname == "STORE_GLOBAL":
                violations.append(f"{where}: '{i.argval}' belongs to another scope")
        if code.co_name in code.co_freevars:
            violations.append(f"{where}: it captures itself, which is a reference cycle")
    return violations


def all_code(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a scope and of all inner scopes."""
    yield code
    for inner in inner_code(code):
        yield from all_code(inner)


def inner_code(code: CodeType) -> list[CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def captured_variables(code: CodeType) -> set[str]:
    """Return the outer variables that the inner functions of a scope read.

    A comprehension ends before the next statement, so its own reads do not count.
    """
    names = set()
    for inner in inner_code(code):
        if inner.co_name in COMPREHENSIONS:
            names |= captured_variables(inner) - set(inner.co_cellvars)
        else:
            names |= set(inner.co_freevars)
    return names


def count_bindings(code: CodeType) -> Counter[str]:
    """Count the bindings of each captured variable of a function, including parameters."""
    names, rest, keywords = inspect.getargs(code)
    counts = Counter([*names, rest, keywords])
    instructions = list(dis.get_instructions(code))
    jumps = [(i.argval, i.offset) for i in instructions if i.opcode in dis.hasjrel + dis.hasjabs]
    bindings = {}
    for i in instructions:
        if i.opname == "STORE_DEREF" and i.argval not in code.co_freevars:
            in_loop = any(first <= i.offset <= last for first, last in jumps)
            place = i.argval, getattr(i, "positions", i.offset)
            # The compiler may copy a statement, such as that of `finally`.
            bindings[place] = max(bindings.get(place, 1), 2 if in_loop else 1)
    for (name, _), count in bindings.items():
        counts[name] += count
    return counts
