"""What every suite shares: the mark of this run, which is in the names of all that the tests make on the machine."""

from __future__ import annotations

import os
import secrets

from hypothesis import settings

MARK = os.environ.setdefault("WHERRY_TEST_MARK", f"wht{secrets.token_hex(2)}")
"""Eight letters or fewer, so that an interface can carry it. `tests/leaks.py` looks for it."""


settings.register_profile("steady", derandomize=True, print_blob=True)
if not os.environ.get("WHERRY_TEST_RANDOM"):  # set it to look for what these examples do not show
    settings.load_profile("steady")
