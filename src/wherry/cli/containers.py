"""Commands that ask one thing of each container named: stop, kill, rm, rename, wait, top and their like."""

from __future__ import annotations

from wherry.cli.flags import BOOL, INT, LIST, STRING, Command, Options
from wherry.cli.session import Exit, Session
from wherry.client.answers import items, mapping
from wherry.client.api import ApiError, decode, segment
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wherry.client.http import Response


def _each(
    session: Session,
    names: list[str],
    method: str,
    suffix: str,
    query: Sequence[tuple[str, str]],
    *,
    spare_missing: bool = False,
) -> int:
    """Ask the same of every one, all at once, naming those that worked; a failure spoils only the exit code.

    With `spare_missing`, one that does not exist is mentioned and is no failure.
    """
    code = 0
    paths = [f"/containers/{segment(name)}{suffix}" for name in names]
    if len(paths) == 1:
        answers = iter([_call_one(session, method, paths[0], query)])
    else:
        answers = session.client.call_each(method, paths, query)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, WherryError):
            session.fail(answer)
            if not (spare_missing and isinstance(answer, ApiError) and answer.status == 404):
                code = 1
        else:
            session.out(f"{name}\n")
    return code


def _call_one(
    session: Session, method: str, path: str, query: Sequence[tuple[str, str]]
) -> Response | WherryError:
    try:
        return session.client.call(method, path, query)
    except WherryError as exc:
        return exc


def _act(verb: str) -> Callable[[Session, Options, list[str]], int]:
    def run(session: Session, options: Options, arguments: list[str]) -> int:
        query: list[tuple[str, str]] = []
        if options.has("signal") and options.text("signal"):
            query.append(("signal", options.text("signal")))
        if options.has("timeout") and options.changed("timeout"):
            query.append(("t", options.text("timeout")))
        return _each(session, arguments, "POST", f"/{verb}", query)

    return run


def _rm(session: Session, options: Options, arguments: list[str]) -> int:
    query = [
        (key, "1")
        for flag, key in (("force", "force"), ("link", "link"), ("volumes", "v"))
        if options.on(flag)
    ]
    names = [name.strip("/") for name in arguments]
    if not all(names):
        raise Exit(1, "container name cannot be empty")
    return _each(session, names, "DELETE", "", query, spare_missing=options.on("force"))


def _rename(session: Session, options: Options, arguments: list[str]) -> int:
    old, new = (argument.strip() for argument in arguments)
    if not old or not new:
        raise Exit(1, "Error: Neither old nor new names may be empty")
    try:
        session.client.post(f"/containers/{segment(old)}/rename", (("name", new),))
    except WherryError as exc:
        session.fail(exc)
        raise Exit(1, f"Error: failed to rename container named {old}") from None
    return 0


def _wait(session: Session, options: Options, arguments: list[str]) -> int:
    code = 0
    paths = [f"/containers/{segment(name)}/wait" for name in arguments]
    for answer in session.client.call_each("POST", paths):
        if isinstance(answer, WherryError):
            code = session.fail(answer)
        else:
            session.out(f"{decode(answer.read())['StatusCode']}\n")
    return code


def _top(session: Session, options: Options, arguments: list[str]) -> int:
    from wherry.cli.table import tabulate

    query = (("ps_args", " ".join(arguments[1:])),) if len(arguments) > 1 else ()
    answer = session.client.get(f"/containers/{segment(arguments[0])}/top", query)
    rows = [answer["Titles"], *(items(answer, "Processes"))]
    session.out(tabulate(rows, minimum=20))
    return 0


def _port(session: Session, options: Options, arguments: list[str]) -> int:
    # A container may be called "add": docker's form has two words at most.
    if arguments[0] in ("add", "rm") and len(arguments) > 2:
        return _change_ports(session, arguments[0], arguments[1], arguments[2:])
    if len(arguments) > 2:
        raise Exit(1, '"wherry port" takes a container and one port at most, or "add" or "rm" before them')
    answer = session.client.get(f"/containers/{segment(arguments[0])}/json")
    ports = mapping(mapping(answer, "NetworkSettings"), "Ports")
    if len(arguments) == 2:
        port, slash, proto = arguments[1].partition("/")
        wanted = f"{port}/{proto if slash else 'tcp'}"
        bindings = items(ports, wanted)
        if not bindings:
            raise Exit(1, f"Error: No public port '{arguments[1]}' published for {arguments[0]}")
        lines = [_host_port(binding) for binding in bindings]
    else:
        lines: list[str] = []
        for port in sorted(ports, key=lambda port: (int(port.partition("/")[0]), port)):
            lines += [f"{port} -> {_host_port(binding)}" for binding in items(ports, port)]
    session.out("".join(f"{line}\n" for line in lines))
    return 0


def _change_ports(session: Session, verb: str, container: str, texts: list[str]) -> int:
    """Publish or withdraw ports of a container that is there already; `texts` as for `-p`."""
    from wherry.cli.networks import read_publish

    wanted = [found for text in texts for found in read_publish(text)]
    path = f"/containers/{segment(container)}/ports"
    if verb == "add":
        bindings: dict[str, list[dict[str, str]]] = {}
        for port, address, host in wanted:
            bindings.setdefault(port, []).append({"HostIp": address, "HostPort": host})
        session.client.post(path, value={"PortBindings": bindings})
    for port, address, host in wanted if verb == "rm" else ():
        query = [("port", port), ("hostip", address), ("hostport", host)]
        session.client.delete(path, [(name, value) for name, value in query if value])
    return 0


def _host_port(binding: dict[str, str]) -> str:
    address = binding.get("HostIp", "")
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def _diff(session: Session, options: Options, arguments: list[str]) -> int:
    changes = session.client.get(f"/containers/{segment(arguments[0])}/changes") or ()
    session.out("".join(f"{'CAD'[change['Kind']]} {change['Path']}\n" for change in changes))
    return 0


def _commit(session: Session, options: Options, arguments: list[str]) -> int:
    from wherry.cli.reference import parse_reference

    query = [("container", arguments[0])]
    if len(arguments) == 2:
        try:
            reference = parse_reference(arguments[1])
        except ValueError as exc:
            raise Exit(1, str(exc)) from None
        query += [("repo", reference.name), ("tag", reference.tag or "latest")]
    query += [("changes", change) for change in options.many("change")]
    query += [("author", options.text("author")), ("comment", options.text("message"))]
    if not options.on("pause"):
        query.append(("pause", "0"))
    session.out(session.client.post("/commit", query)["Id"] + "\n")
    return 0


_SIGNAL_ROW = ("signal", "s", STRING, "Signal to send to the container")
_TIMEOUT_ROW = ("timeout", "t", INT, "Seconds to wait before killing the container")
_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"
_PLAIN = "CONTAINER [CONTAINER...]"

COMMANDS = {
    "stop": Command(
        _act("stop"),
        _MANY,
        (1, None),
        (_SIGNAL_ROW, _TIMEOUT_ROW),
        examples="""
wherry stop web                ask it to end (SIGTERM), kill it after 10 seconds
wherry stop -t 60 db           give it a minute
wherry stop $(wherry ps -q)    everything
""",
    ),
    "kill": Command(
        _act("kill"),
        _MANY,
        (1, None),
        (_SIGNAL_ROW,),
        examples="""
wherry kill web            end it at once
wherry kill -s HUP web     any signal: this one often means "read your configuration again"
""",
    ),
    "restart": Command(
        _act("restart"), _MANY, (1, None), (_SIGNAL_ROW, _TIMEOUT_ROW), examples="wherry restart -t 3 web"
    ),
    "pause": Command(_act("pause"), _PLAIN, (1, None), examples="wherry pause web"),
    "unpause": Command(_act("unpause"), _PLAIN, (1, None), examples="wherry unpause web"),
    "rm": Command(
        _rm,
        _MANY,
        (1, None),
        (
            ("force", "f", BOOL, "Force the removal of a running container (uses SIGKILL)"),
            ("link", "l", BOOL, "Remove the specified link"),
            ("volumes", "v", BOOL, "Remove anonymous volumes associated with the container"),
        ),
        examples="""
wherry rm job                    a stopped container
wherry rm -f web                 a running one
wherry rm -f $(wherry ps -aq)    all of them
""",
    ),
    "rename": Command(_rename, "CONTAINER NEW_NAME", (2, 2), examples="wherry rename web web-old"),
    "wait": Command(
        _wait, _PLAIN, (1, None), examples="wherry wait job    prints its exit code when it ends"
    ),
    "top": Command(
        _top,
        "CONTAINER [ps OPTIONS]",
        (1, None),
        interspersed=False,
        examples="""
wherry top web
wherry top web -o pid,rss,args    with any options of ps
""",
    ),
    "port": Command(
        _port,
        "[add|rm] CONTAINER [[IP:][HOST:]PORT[/PROTO]...]",
        (1, None),
        examples="""
wherry port web                   where its ports are
wherry port web 80/tcp            where one of them is
wherry port add web 8080:80       publish another one, while it runs
wherry port rm web 8080:80        and withdraw it
""",
    ),
    "diff": Command(_diff, "CONTAINER", (1, 1), examples="wherry diff web    A added, C changed, D deleted"),
    "commit": Command(
        _commit,
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        (1, 2),
        (
            ("author", "a", STRING, 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
            ("change", "c", LIST, "Apply Dockerfile instruction to the created image"),
            ("message", "m", STRING, "Commit message"),
            ("pause", "p", BOOL, "Pause container during commit", True),
        ),
        interspersed=False,
        examples='wherry commit -c \'CMD ["httpd", "-f"]\' web web:configured',
    ),
}
