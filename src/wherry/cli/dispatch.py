"""From a command line to an exit code: global flags, the command's name, its flags, its errors."""

from __future__ import annotations

import sys

from wherry.cli.commands import GROUPS, LEAVES, load
from wherry.cli.flags import BOOL, LIST, STRING, FlagError, Options, parse
from wherry.cli.session import PROGRAM, Exit, Session, default_tls, describe
from wherry.client.api import Tls
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wherry.cli.flags import Command, Row

GLOBAL_ROWS: tuple[Row, ...] = (
    ("config", "", STRING, "Location of client config files", ""),
    ("debug", "D", BOOL, "Enable debug mode"),
    ("host", "H", LIST, "Daemon socket to connect to"),
    ("log-level", "l", STRING, 'Set the logging level ("debug", "info", "warn", "error", "fatal")', "info"),
    ("tls", "", BOOL, "Use TLS; implied by --tlsverify"),
    ("tlscacert", "", STRING, "Trust certs signed only by this CA", ""),
    ("tlscert", "", STRING, "Path to TLS certificate file", ""),
    ("tlskey", "", STRING, "Path to TLS key file", ""),
    ("tlsverify", "", BOOL, "Use TLS and verify the remote"),
    ("version", "v", BOOL, "Print version information and quit"),
)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Carry out one command line. Everything that may be foreseen ends in a message and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        return _run(arguments, environ)
    except Exit as exc:
        if exc.message:
            _complain(exc.message)
        return exc.code
    except BrokenPipeError:
        return _leave_broken_pipe()
    except KeyboardInterrupt:
        return 130
    except (WherryError, OSError) as exc:
        _complain(describe(exc))
        return 1
    except Exception as exc:
        # An answer in a shape nobody expected, or a bug of ours: one line, unless the whole story is wanted.
        if arguments[:1] in (["-D"], ["--debug"]):
            raise
        _complain(f"{PROGRAM}: unexpected {type(exc).__name__}: {exc} ({PROGRAM} -D shows where)")
        return 1


def _complain(message: str) -> None:
    try:
        sys.stdout.flush()
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()
    except OSError:
        pass


def _leave_broken_pipe() -> int:
    """Whoever read our output is gone: end as a program killed by SIGPIPE would, without a word."""
    import os

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.close(quiet)
    return 141


def _run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    try:
        options, rest = parse(GLOBAL_ROWS, arguments, interspersed=False)
    except FlagError as exc:
        usage = f"Usage:  {PROGRAM} [OPTIONS] COMMAND [ARG...]"
        raise Exit(125, f"{exc}\n\n{usage}\n\nRun '{PROGRAM} --help' for more information") from None
    if options.on("version"):
        from wherry import __version__

        sys.stdout.write(f"Wherry version {__version__}\n")
        return 0
    asked_help = options.on("help")
    if rest and rest[0] == "help":
        asked_help = True
        rest = rest[1:]
    if not rest:
        from wherry.cli.help import program_help

        sys.stdout.write(program_help())
        return 0
    path, leaf, rest = _resolve(rest)
    if leaf is None:
        from wherry.cli.help import group_help

        sys.stdout.write(group_help(path))
        return 0
    if options.text("config"):
        environ = {**environ, "DOCKER_CONFIG": options.text("config")}
    session = Session(environ, host=_host(options), tls=_tls(options, environ))
    return run_command(session, path, leaf, load(leaf), rest, asked_help=asked_help)


def _resolve(words: list[str]) -> tuple[str, str | None, list[str]]:
    """The command's full name, the command (None: a group alone), and what follows it."""
    name = words[0]
    if name in GROUPS:
        members = GROUPS[name][1]
        if len(words) == 1 or words[1] in ("-h", "--help"):
            return name, None, []
        if words[1].startswith("-"):
            try:
                parse((), words[1:])
            except FlagError as exc:
                usage = f"Usage:  {PROGRAM} {name} COMMAND"
                hint = f"Run '{PROGRAM} {name} --help' for more information"
                raise Exit(125, f"{exc}\n\n{usage}\n\n{hint}") from None
        if words[1] not in members:
            raise Exit(
                1,
                f"{PROGRAM}: unknown command: {PROGRAM} {name} {words[1]}\n\nUsage:  {PROGRAM} {name}\n\n"
                f"Run '{PROGRAM} {name} --help' for more information",
            )
        return f"{name} {words[1]}", members[words[1]], words[2:]
    if name not in LEAVES or " " in name:
        raise Exit(
            1,
            f"{PROGRAM}: unknown command: {PROGRAM} {name}\n\nRun '{PROGRAM} --help' for more information",
        )
    return name, name, words[1:]


def run_command(
    session: Session,
    path: str,
    leaf: str,
    command: Command,
    arguments: list[str],
    *,
    asked_help: bool = False,
) -> int:
    """Read a command's own line, check it, and carry it out."""
    session.command = path
    if leaf == "__complete":
        return command.run(session, Options(()), arguments)
    full = f"{PROGRAM} {path}"
    usage = f"Usage:  {full} {command.arguments}\n\n"
    try:
        options, positional = parse(command.rows, arguments, interspersed=command.interspersed)
    except FlagError as exc:
        if asked_help:
            options, positional = Options(command.rows), []
        else:
            raise Exit(125, f"{exc}\n\n{usage}Run '{full} --help' for more information") from None
    if asked_help or (options.changed("help") and options.on("help")):
        from wherry.cli.help import command_help

        sys.stdout.write(command_help(path, leaf, command))
        return 0
    least, most = command.count
    if len(positional) < least or (most is not None and len(positional) > most):
        raise Exit(1, f"{PROGRAM}: '{full}' {_needs(least, most)}\n\n{usage}{_see(full, least, most)}")
    return command.run(session, options, positional)


def _needs(least: int, most: int | None) -> str:
    def arguments(number: int) -> str:
        return f"{number} argument" if number == 1 else f"{number} arguments"

    if most == 0:
        return "accepts no arguments"
    if most is None:
        return f"requires at least {arguments(least)}"
    if most == least:
        return f"requires {arguments(least)}"
    return (
        f"requires at most {arguments(most)}"
        if least == 0
        else f"requires at least {least} and at most {arguments(most)}"
    )


def _see(full: str, least: int, most: int | None) -> str:
    verb = "See" if most is None and least else "Run"
    return f"{verb} '{full} --help' for more information"


def _host(options: Options) -> str:
    hosts = options.many("host")
    if len(hosts) > 1:
        raise Exit(1, "Failed to initialize: unable to resolve docker endpoint: specify only one -H")
    return hosts[0] if hosts else ""


def _tls(options: Options, environ: Mapping[str, str]) -> Tls | None:
    names = ("tlscacert", "tlscert", "tlskey")
    if not (options.on("tls") or options.on("tlsverify") or any(options.changed(name) for name in names)):
        return None
    tls = default_tls(environ, verify=options.on("tlsverify"))
    tls.ca = options.text("tlscacert") or tls.ca
    tls.cert = options.text("tlscert") or tls.cert
    tls.key = options.text("tlskey") or tls.key
    return tls
