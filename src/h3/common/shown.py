"""Other people's values in messages, short whatever they are.

>>> shown([[1, [2, [3]]]] * 9)
'[[1, [...]], [1, [...]], [1, [...]], [1, [...]], ...]'
"""

from __future__ import annotations

import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """A value for a message, short whatever it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of more digits than Python turns into text
        return "a number of more than 4300 digits"
