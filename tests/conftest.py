"""What every suite shares: the mark of this run, which is in the names of all that the tests make on the machine."""

from __future__ import annotations

import os
import secrets

MARK = os.environ.setdefault("WHERRY_TEST_MARK", f"wht{secrets.token_hex(2)}")
"""Eight letters or fewer, so that an interface can carry it. `tests/leaks.py` looks for it."""
