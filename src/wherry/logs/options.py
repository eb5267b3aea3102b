"""Log options: their values read as Docker reads them, and the ones that every driver has. Texts are Docker's.

`mode` (blocking, non-blocking) and `max-buffer-size` say how a driver is fed, `cache-disabled`, `cache-max-size`,
`cache-max-file` and `cache-compress` what is kept for `docker logs` of a driver that gives nothing back; `labels`,
`labels-regex`, `env`, `env-regex` and `tag` are turned into details by the daemon.
"""

from __future__ import annotations

from wherry.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DETAILS = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})

_CACHE = "cache-"
_CACHE_OPTIONS = frozenset({"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})
_COMMON = frozenset({"mode", "max-buffer-size"}) | _CACHE_OPTIONS
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def own(options: Mapping[str, str]) -> dict[str, str]:
    """The options that are the driver's alone."""
    return {name: value for name, value in options.items() if name not in _COMMON}


def check_common(options: Mapping[str, str]) -> None:
    """Raise InvalidParameter for what no driver takes."""
    mode = options.get("mode", "")
    if mode not in ("blocking", "non-blocking", ""):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidParameter(
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'"
            )
        try:
            parse_memory(options["max-buffer-size"])
        except InvalidParameter as exc:
            raise InvalidParameter(f"error parsing option max-buffer-size: {exc}") from exc
    disabled = options.get("cache-disabled", "")
    if disabled and disabled not in _TRUE + _FALSE:
        raise InvalidParameter(f"invalid value for option cache-disabled: {disabled}")


def check_known(options: Mapping[str, str], known: frozenset[str], driver: str) -> None:
    for name in options:
        if name not in known:
            raise InvalidParameter(f"unknown log opt '{name}' for {driver} log driver")


def cache_options(options: Mapping[str, str]) -> dict[str, str]:
    """Those of the cache, as the driver `local` knows them."""
    return {
        name.removeprefix(_CACHE): value
        for name, value in options.items()
        if name in _CACHE_OPTIONS and name != "cache-disabled"
    }


def parse_size(text: str) -> int:
    """Bytes for `10k`, `10m`, `1.5g`, `10mb`: powers of 1000, as Docker reads max-size."""
    return _size(text, 1000)


def parse_memory(text: str) -> int:
    """The same in powers of 1024, as Docker reads max-buffer-size."""
    return _size(text, 1024)


def _size(text: str, base: int) -> int:
    number = text.strip().lower()
    for suffix in ("b", "i"):
        number = number.removesuffix(suffix)
    power = "kmgtp".find(number[-1:]) + 1 if number else 0
    if power:
        number = number[:-1].rstrip()
    digits = number.replace(".", "", 1)
    if not digits or not digits.isascii() or not digits.isdigit():
        raise InvalidParameter(f"invalid size: '{text}'")  # Docker's text
    return int(float(number) * base**power)


def parse_bool(text: str) -> bool:
    if text not in _TRUE + _FALSE:
        raise InvalidParameter(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return text in _TRUE


def parse_int(text: str) -> int:
    if not text.isascii() or not text.lstrip("+-").isdigit() or len(text) - len(text.lstrip("+-")) > 1:
        raise InvalidParameter(f'strconv.Atoi: parsing "{text}": invalid syntax')
    return int(text)
