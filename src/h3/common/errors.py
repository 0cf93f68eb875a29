"""The one error that a user's input can cause.

Its message is one line that says where the input is wrong (file, row or field), what was found and what was
expected. Entry points print that line and exit with status 2; anything else that escapes is a bug of h3.
"""


class InputError(ValueError):
    """The input cannot be used; the message is one line for the person who gave it."""
