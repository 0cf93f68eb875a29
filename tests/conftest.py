"""One hypothesis profile for every run: the same examples each time, so that a failure is a change, never
luck.

`pytest --hypothesis-profile=explore` draws new ones, ten times as many where a test does not set their
number.
"""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("explore", max_examples=1000, print_blob=True)
settings.load_profile("fixed")
