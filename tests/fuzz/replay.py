"""Runs a program from standard input, a line a statement, on both sides: ``python -m fuzz.replay`` in tests/."""

from __future__ import annotations

import sys

from .sides import Side, difference


def main() -> int:
    """Print what each side says, and where they differ.

    Returns:
        1 if they differ.
    """
    program = [line for line in sys.stdin.read().splitlines() if line.strip()]
    theirs, ours = Side("torch"), Side("fastfake")
    try:
        answers = theirs.run(program), ours.run(program)
    finally:
        theirs.close()
        ours.close()
    for name, answer in zip(("torch", "ours"), answers, strict=True):
        print(f"{name}: {answer.get('ended', 'ran to its end')}")
        for statement, outcome in zip(program, answer.get("outcomes", []), strict=False):
            print(f"  {statement}\n    {outcome}")
    different = difference(program, *answers)
    print(different or "no difference")
    return different is not None


if __name__ == "__main__":
    sys.exit(main())
