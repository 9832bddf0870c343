"""`exercise`: begin one of the book's exercises, grade what was written, or look it up."""

import argparse

from ..exercises import catalog as exercises
from ..exercises import grader


def exercise(args: argparse.Namespace) -> int:
    """Begin an exercise of the book, grade what was written, or look it up."""
    if args.chapter is None:
        if args.start or args.hint or args.solution:
            args.usage_error("of which exercise? Name its chapter")
        print(exercises.listing())
        return 0
    try:
        chosen = exercises.find(args.chapter)
    except ValueError as error:
        args.usage_error(str(error))
    if args.hint or args.solution:
        text = exercises.hint(chosen, args.hint) if args.hint else exercises.solution(chosen)
        print(text)
        return 0
    if args.start:
        print(f"{grader.start(chosen)}: write there, then `{chosen.command}`")
        return 0
    verdict = grader.grade_apart(chosen)
    print(grader.report(chosen, verdict))
    return int(bool(verdict.failed))
