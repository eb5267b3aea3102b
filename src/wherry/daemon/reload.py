"""SIGHUP: daemon.json is read again, and the daemon goes on with what of it can be changed while it runs.

All or nothing: a file that a start would refuse changes nothing. What is not in the file has its default again, as
after a start; what was given as a flag stays. Other changes wait for the next start, and a warning names them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import msgspec

from wherry.daemon import config, log
from wherry.daemon.config import DaemonSettings
from wherry.engine.engine import Engine
from wherry.engine.settings import RELOADABLE
from wherry.errors import WherryError
from wherry.model.masking import masked

_log = logging.getLogger(__name__)

KEYS = frozenset((*(name.replace("_", "-") for name in RELOADABLE), "log-level"))
"""The keys of daemon.json that a running daemon takes over."""


class Reloading:
    """One per daemon; `settings` are those in force."""

    def __init__(self, argv: Sequence[str], settings: DaemonSettings, engine: Engine) -> None:
        self._argv = argv
        self._engine = engine
        self.settings = settings

    def reload(self) -> None:
        """Read the file again, and tell the log and the engine what came of it."""
        path = self.settings.config_file
        _log.info("Got signal to reload configuration, reloading from: %s", path)
        try:
            wanted, _ = config.load(list(self._argv))
            self._engine.reload(wanted.engine)
        except WherryError as exc:
            _log.error("%s", exc)
            return
        before, given = self.settings.directives, wanted.directives
        changed = {key for key in {*before, *given} if before.get(key) != given.get(key)}
        for warning in wanted.warnings:
            _log.warning(warning)
        if later := sorted(changed - KEYS):
            _log.warning(
                "changed in %s, in force from the next start of the daemon: %s", path, ", ".join(later)
            )
        in_force = {key: value for key, value in before.items() if key not in KEYS}
        in_force |= {key: value for key, value in given.items() if key in KEYS}
        self.settings = msgspec.structs.replace(
            self.settings, engine=self._engine.settings, log_level=wanted.log_level, directives=in_force
        )
        log.set_level(wanted.log_level)
        _log.info("Reloaded configuration: %s", json.dumps(masked(in_force)))
