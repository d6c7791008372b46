"""The exercise of the notebook on fast generation, beyond the chapter."""

from .require import number_exercise

MEGABYTES = 2 * 48 * 1600 * 1024 * 2 * 8 / 2**20

cache_memory = number_exercise(
    "beyond 3.1",
    right=MEGABYTES,
    tolerance=0.01,
    praise="A key and a value for every token, in every block, for every text.",
    mistakes={
        "That is one text, not 8": MEGABYTES / 8,
        "That is one block, not 48": MEGABYTES / 48,
        "That is one of 25 heads": MEGABYTES / 25,
        "That is 25 times too much: the heads share the width of 1,600": MEGABYTES * 25,
        "That is with 4 bytes for each value; a bfloat16 takes 2": MEGABYTES * 2,
        "That is half of it: there are keys and values, and each number takes 2 bytes": MEGABYTES / 2,
        "That is a quarter of it: there are keys and values, and each number takes 2 bytes": MEGABYTES / 4,
        "That counts queries, too, which no later token needs": MEGABYTES * 1.5,
        "That is in millions of bytes; in this course an MB is 2^20 bytes": MEGABYTES * 2**20 / 1e6,
        "Is that in GB, or for one token of the 1,024?": MEGABYTES / 1024,
        "That is in bytes; we want MB": MEGABYTES * 2**20,
    },
)
