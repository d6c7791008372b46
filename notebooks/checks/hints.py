"""Hints for the exercises, by number: two or three each, from a nudge to nearly the solution."""

import collections

HINTS = {
    # ---- 4.1
    # ---- 4.2
    # ---- 4.3
    # ---- 4.4
    # ---- 4.5
    # ---- 4.6
    # ---- 4.7
    # ---- Beyond the chapter
}
given = collections.Counter()  # how many hints this kernel has printed for each exercise


def hint(number):
    """Print the next hint for an exercise: `checks.hint("4.5.3")`. After the last one it is repeated."""
    if number not in HINTS:
        print(f"There is no exercise {number!r}; ask by number, as in checks.hint('4.2.3').")
        return
    hints = HINTS[number]
    given[number] = min(given[number] + 1, len(hints))
    print(f"Exercise {number}, hint {given[number]} of {len(hints)}: {hints[given[number] - 1]}")
    if given[number] == len(hints):
        print("That was the last hint. The solution is folded below the check.")
