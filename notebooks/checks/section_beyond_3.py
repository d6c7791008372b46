"""The exercise of the notebook on fast generation, beyond the chapter."""

from .require import number_exercise

MEGABYTES = 2 * 48 * 1600 * 1024 * 2 * 8 / 2**20

cache_memory = number_exercise(
    "beyond 3.1",
    right=MEGABYTES,
    tolerance=0.01,
    praise="A key and a value for each token, in every block, of every text.",
    mistakes={
        "That is for one text, not for 8": MEGABYTES / 8,
        "That is for one block, not for 48": MEGABYTES / 48,
        "That is for 4 bytes per number; bfloat16 has 2": MEGABYTES * 2,
        "That is half of it: both keys and values count, and a number has 2 bytes": MEGABYTES / 2,
        "That is in millions of bytes; in this course an MB is 2^20 bytes": MEGABYTES * 2**20 / 1e6,
    },
)
