"""Answers to the exercise of the notebook on fast generation, beyond the chapter."""

RIGHT, WRONG = {}, {}

RIGHT["cache_memory"] = [2400, 2400.0]
WRONG["cache_memory"] = [(2000, "2,000 is too small")]
