"""Answers to the exercises, as data: right ones in another style than the solutions, and wrong ones.

RIGHT has, for each check, answers that must pass. WRONG has pairs: an answer that must be rejected, and words
that the verdict must contain, so that every mistake that a check claims to name is made here once. Only wrong
numbers and choices are elsewhere: they are declared with their exercise, and a test gives each as an answer.
"""

from . import (
    section_4_1,
    section_4_2,
    section_4_2_fold,
    section_4_3,
    section_4_4,
    section_4_4_depth,
    section_4_5,
    section_4_6,
    section_4_7,
    section_beyond_1,
    section_beyond_2,
    section_beyond_3,
    section_beyond_4,
    section_beyond_5,
)

SECTIONS = [
    section_4_1,
    section_4_2,
    section_4_2_fold,
    section_4_3,
    section_4_4,
    section_4_4_depth,
    section_4_5,
    section_4_6,
    section_4_7,
    section_beyond_1,
    section_beyond_2,
    section_beyond_3,
    section_beyond_4,
    section_beyond_5,
]
RIGHT = {name: right for section in SECTIONS for name, right in section.RIGHT.items()}
WRONG = {name: wrong for section in SECTIONS for name, wrong in section.WRONG.items()}
