"""`gradcheck`: every pullback against the complex step."""

import argparse

from ..checking import cases as proofs
from ..checking.gradcheck import TOLERANCE


def gradcheck(args: argparse.Namespace) -> int:
    """Check every gradient, or those whose names have the given words."""
    worst, wrong, line = -1.0, [], "{:34} {:38} {}"
    for proof in proofs.all_cases():
        if not all(word in proof.name for word in args.words):
            continue
        if worst < 0:
            print(line.format("function", "argument", "error"))
        errors = proof.check(args.device)
        for name, error in (errors if args.all else by_part(errors)).items():
            print(line.format(proof.name, name, f"{error:.1e}"), flush=True)
        worst = max(worst, errors.worst)
        wrong += [f"{proof.name}, {text}" for text in errors.explanation.splitlines()]
    if worst < 0:
        args.usage_error(f"no function's name has all of: {' '.join(args.words)}")
    print(f"worst error {worst:.1e}; up to {TOLERANCE:.0e} is rounding")
    for text in wrong:
        print(text)
    return int(not worst <= TOLERANCE)


def by_part(errors: dict[str, float]) -> dict[str, float]:
    """The worst error of each part of a model; all blocks are one part."""
    parts: dict[str, float] = {}
    for name, error in errors.items():
        part = "/".join(name.split("/")[:2]) if name.startswith("params/") else name
        parts[part] = max(parts.get(part, 0.0), error)
    return parts
