"""Grade your solution to an exercise of the book, or list the exercises.

examples:
  python -m minivit exercise 4 --start
  python -m minivit exercise 4
  python -m minivit exercise 4 --hint 2
"""

import argparse
from functools import partial

from ..exercises import catalog, grader
from .options import UsageError, parse_choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `exercise`."""
    text = "chapter of the exercise, 0 to 18 or A (default: list the exercises)"
    parser.add_argument("chapter", nargs="?", metavar="CHAPTER", help=text)
    add = parser.add_mutually_exclusive_group().add_argument
    text = "create the file to complete, with the task and the signature, in exercises/"
    add("--start", action="store_true", help=text)
    text = "print a hint; hint 3 is the most detailed (default: 1)"
    parse = partial(parse_choice, choices=("1", "2", "3"))
    add("--hint", type=parse, metavar="{1,2,3}", nargs="?", const="1", help=text)
    add("--solution", action="store_true", help="print the book's solution")


def run(args: argparse.Namespace) -> int:
    """List the exercises, start or grade one, or print a hint or the solution."""
    if args.chapter is None:
        if args.start or args.hint or args.solution:
            raise UsageError("--start, --hint and --solution require a chapter")
        print(grader.listing())
        return 0
    try:
        exercise = catalog.find(args.chapter)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.hint:
        print(catalog.hint(exercise, int(args.hint)))
    elif args.solution:
        print(catalog.solution(exercise))
    elif args.start:
        path = grader.start(exercise)
        print(f"created {path}. Complete it, then grade it with `{exercise.command}`")
    else:
        verdict = grader.grade_in_subprocess(exercise)
        grader.record(exercise, verdict)
        print(grader.report(exercise, verdict))
        return int(bool(verdict.failed))
    return 0
