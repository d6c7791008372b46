"""How hypothesis runs in every test."""

from hypothesis import settings

# hypothesis derives its examples from the text of each test, so every run tries the same ones.
settings.register_profile("course", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("course")
