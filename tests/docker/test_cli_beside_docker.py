"""`wherry` does what the real docker CLI does: the same lines, on the same engine, with the same outcome.

Exit code, standard output and standard error are compared, with docker's name replaced by ours and what changes from
run to run taken out. The engine is the suite's: a wherry of its own, or WHERRY_TEST_HOST.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping

import pytest

import wherry
from tests.docker import acts, record
from tests.docker.engine import Client, Engine, Ran, Terminal
from tests.docker.registry import Registry

SOURCE = os.path.dirname(os.path.dirname(wherry.__file__))


class WherryClient(Client):
    """The same client, with our command in the place of docker's."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(socket_path, (sys.executable, "-m", "wherry.cli"))

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**super().environment(extra), "PYTHONPATH": SOURCE}


def renamed(value: object) -> object:
    """Docker's name replaced by ours, in any text."""
    if isinstance(value, str):
        return (
            value.replace("docker:", "wherry:")
            .replace("'docker ", "'wherry ")
            .replace("  docker ", "  wherry ")
            .replace(" docker ", " wherry ")
            .replace("Docker daemon", "wherry daemon")
        )
    if isinstance(value, dict):
        return {key: renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    return value


@pytest.fixture(scope="module")
def players(engine: Engine, registry: Registry) -> Iterator[tuple[acts.Player, acts.Player]]:
    record.fill(registry)
    clients = Client(engine.socket_path), WherryClient(engine.socket_path)
    theirs, ours = (
        acts.Player(client, registry=registry.address, inputs=record.inputs()) for client in clients
    )
    yield theirs, ours


# Not "api", which is no command line; not "events", whose second play would tell of the first.
@pytest.mark.parametrize("act", [name for name in acts.ACTS if name not in ("api", "events")])
def test_outcomes_are_dockers(players: tuple[acts.Player, acts.Player], act: str) -> None:
    theirs, ours = (player.act(act) for player in players)
    different = [
        f"{mine['step']}\n  docker: {renamed(docker)}\n  wherry: {renamed(mine)}"
        for docker, mine in zip(theirs, ours, strict=True)
        if "status" not in mine and renamed(docker) != renamed(mine) and not excused(mine["step"])
    ]
    assert not different, "\n".join(different)


EXCUSED = (
    r"^version",  # each tells its own version
    r"^info --format '\{\{json \.RegistryConfig",  # docker's own order of fields, ours is the engine's
    r"^inspect .*json \.HostConfig\.",  # the same: Hard before Soft
    r"--detach-keys what",  # docker hides the engine's reason
)


def excused(step: str) -> bool:
    return any(re.search(pattern, step) for pattern in EXCUSED)


TEMPLATES = [
    "{{.Name}}",
    "{{.Id}}",
    "{{.State.Status}} {{.State.Pid}}",
    "{{.State}}",
    "{{.Config.Env}}",
    "{{.Config.Cmd}}",
    "{{len .Name}} {{len .Config.Env}}",
    "{{range .Config.Env}}{{println .}}{{end}}",
    "{{range $i, $e := .Config.Env}}{{$i}}:{{$e}} {{end}}",
    "{{if .State.Running}}up{{else}}down{{end}}",
    "{{with .NetworkSettings.Networks.bridge}}{{.IPPrefixLen}}{{end}}",
    "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPPrefixLen}}{{end}}",
    "{{json .Config.Labels}} {{json .Mounts}} {{json .State.Running}}",
    '{{.Config.Labels}} {{.Config.Labels.a}} {{.Config.Labels.nope}} {{index .Config.Labels "nope"}}|',
    '{{join .Config.Cmd ","}} {{split .Name "-"}} {{title "abc def"}} {{upper .Name}} {{lower "ABC"}}',
    "{{.HostConfig.Binds}} {{.HostConfig.CapAdd}} {{.HostConfig.Memory}} {{.HostConfig.RestartPolicy}}",
    "{{.HostConfig.LogConfig}} {{.Config.ExposedPorts}} {{.HostConfig.PortBindings}} {{.Config.Entrypoint}}",
    '{{printf "%v %d %s %q %t %x %05d %-5d| %5.2f %c %U" .Config.Labels 5 "a" "b" true 255 3 4 1.5 65 66}}',
    '{{.Name | printf "%-40s|"}} {{printf "%s"}} {{printf "x" 1}} {{printf "%z" 1}} {{printf "%*d" 5 1}}',
    '{{eq .State.Status "running"}} {{ne 1 2}} {{and true .Name}} {{or "" "x"}} {{not ""}} {{gt 3 2}} {{le "a" "b"}}',
    '{{$x := .Name}}{{$x}} {{$x = "b"}}{{$x}}',
    '{{define "a"}}[{{.}}]{{end}}{{template "a" .Name}}',
    '{{slice "abcdef" 1 3}} {{slice .Config.Cmd 0 1}} {{index .Config.Cmd 0}}',
    '{{print 1 2 "a" 3 4}} {{println "x"}}',
    '{{html "<a href=\'x\'>"}} {{urlquery "a b&c=d/é"}} {{js "it\'s <b>"}}',
    '{{/* c */}}x {{- " y" -}} z',
    '{{truncate "abcdef" 3}} {{pad "x" 2 1}}|',
    "{{1e3}} {{0x1F}} {{'a'}} {{1.0}} {{1.25}} {{-5}} {{true}}",
    '{{`raw`}} {{"q\\n\\x41\\u00e9"}}',
    "{{range 3}}{{.}}{{end}}",
    "{{.SizeRw}}",
    "{{.Foo}}",
    "{{.Name}} {{.State.Foo}}",
    "{{.Foo.Bar}}",
    "{{.State.Pid.Foo}}",
    "{{index .Name 99}}",
    '{{lt 1 "a"}}',
    '{{eq 1 "a"}}',
    "{{eq .State 1}}",
    '{{template "zz"}}',
    "{{break}}",
    "{{.Name",
    "{{if}}",
    "{{if .Name}}",
    "{{end}}",
    "{{foo}}",
    "{{$zz}}",
    "{{.Name.}}",
    '{{"abc}}',
    "{{1 | 2}}",
    '{{.Name "x"}}',
    "{{nil}}",
    "{{printf 5}}",
    "{{index}}",
    "{{upper 5}}",
    '{{join "x" ","}}',
    "{{len 5}}",
    "{{range 5.5}}{{end}}",
    "{{else}}",
    "{{(.Name}}",
    "{{.Name)}}",
    "{{ /* bad */ }}",
    "{{not}}",
    "{{eq 1}}",
    "{{.Name}}{{",
]
PS_FORMATS = [
    "",
    "json",
    "table",
    "raw",
    "pretty",
    "{{.ID}} {{.Names}} {{.Image}} {{.Command}} {{.State}}",
    "table {{.ID}}\\t{{.Names}}",
    'table {{.Names}}\\t{{.Label "a"}}\\t{{.Labels}}\\t{{.Mounts}}',
    "{{json .}}",
    "{{json .Names}}",
    "{{.Foo}}",
    "{{.Foo",
    "{{.ID | foo}}",
    "{{.Networks}} {{.LocalVolumes}} {{.Size}}",
    "table {{upper .Names}}\\n",
    "{{.Label}}",
    "plain",
]


@pytest.fixture(scope="module")
def subject(engine: Engine) -> Iterator[str]:
    """A container to look at, that none of the looks changes."""
    name = f"act-cli-{os.getpid()}"
    engine.docker(
        "run", "-d", "--name", name, "-l", "a=b", "-l", "c.d=e", "-v", "/tmp:/x", "--expose", "80", "busybox",
        "sh", "-c", "echo out; echo err >&2; exec sleep 300",
    ).ok()  # fmt: skip
    yield name
    engine.docker("rm", "-f", name)


def same(engine: Engine, *arguments: str) -> None:
    """Run with both; compare everything but the ages of things."""
    theirs = Client(engine.socket_path).docker(*arguments)
    ours = WherryClient(engine.socket_path).docker(*arguments)
    plain = acts.Player(Client(engine.socket_path)).plain

    def outcome(ran: Ran) -> object:
        return ran.code, renamed(plain(ran.out)), renamed(plain(ran.err))

    assert outcome(ours) == outcome(theirs)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_of_inspect(engine: Engine, subject: str, template: str) -> None:
    same(engine, "inspect", "-f", template, subject)


@pytest.mark.parametrize("text", PS_FORMATS)
def test_formats_of_ps(engine: Engine, subject: str, text: str) -> None:
    same(engine, "ps", "-a", "--filter", f"name={subject}", "--format", text)


@pytest.mark.parametrize(
    "line",
    [
        "ps --filter name={}", "ps -q --filter name={}", "ps -s --no-trunc --filter name={}", "images busybox",
        "images --digests --no-trunc busybox", "images -q busybox",
        "images --format '{{{{.Repository}}}}:{{{{.Tag}}}} {{{{.Size}}}} {{{{.ID}}}}' busybox", "history busybox",
        "history --no-trunc -H=false busybox", "history --format json busybox", "history -q busybox", "inspect {}",
        "image inspect busybox", "inspect --type image busybox", "logs {}", "logs -t {}", "logs --tail 1 {}", "top {}",
        "top {} -o pid,comm", "port {}", "diff {}", "exec {} sh -c 'echo a; echo b >&2; exit 7'", "exec {} nosuch",
        "exec -w /tmp -e A=b {} sh -c 'pwd; echo $A'", "version -f '{{{{.Server.Version}}}}'", "info -f '{{{{.Driver}}}}'",
        "info -f '{{{{.Foo}}}}'", "version -f '{{{{.Server.Os}}}} {{{{.Foo}}}}'", "container ls --foo", "stop nope", "rm nope nope2",
        "rm -f nope", "inspect nope", "image inspect nope", "container inspect nope", "start nope", "start -a nope", "logs nope",
        "attach nope", "exec nope ls", "wait nope", "kill nope", "rename nope b", "top nope", "history nope", "rmi nope",
        "save nope", "load -i /nope", "import /nope", "pull Foo", "run -it busybox true", "exec -it {} true", "rm {}",
        "tag busybox Bad", "tag nope act/x", "run --name {} busybox true", "run --restart foo busybox", "create -v a:b:c:d busybox",
        "system df --format json", "ps --filter foo=bar", "ps --filter status=nope", "kill -s NOPE {}", "run --cidfile / busybox",
        "run busybox nosuch", "run --rm busybox /etc", "run --rm -i busybox cat", "run --rm -w relative busybox true",
        "image prune", "container prune", "inspect -s {}", "events --since 1 --until 2", "start {}", "unpause {}",
    ],
)  # fmt: skip
def test_lines(engine: Engine, subject: str, line: str) -> None:
    same(engine, *shlex.split(line.format(subject)))


@pytest.fixture(scope="module")
def crowd(engine: Engine, subject: str) -> Iterator[str]:
    """A network with the container on it, that none of the looks changes."""
    name = f"act-net-{os.getpid()}"
    flags = ("--subnet", "10.213.0.0/24", "--label", "x=y", "--label", "a.b=c", "-o", "k=v")
    engine.docker("network", "create", *flags, name).ok()
    engine.docker("network", "connect", "--alias", "al", name, subject).ok()
    yield name
    engine.docker("network", "disconnect", name, subject)
    engine.docker("network", "rm", name)


@pytest.mark.parametrize(
    "line",
    [
        "network ls --filter name={1}", "network ls -q --filter name={1}", "network ls --no-trunc --filter name={1}",
        "network ls --format json --filter type=builtin", "network ls --filter foo=bar", "network ls --filter dangling=x",
        "network ls --format '{{{{.Name}}}} {{{{.Label \"a.b\"}}}} {{{{.IPv4}}}} {{{{.IPv6}}}} {{{{.Internal}}}}' --filter name={1}",
        "network ls --format 'table {{{{.ID}}}}\t{{{{.Scope}}}}\t{{{{.Label \"x\"}}}}' --filter name={1}", "network ls x",
        "network ls --format '{{{{.Foo}}}}' --filter name={1}", "network inspect {1}", "network inspect {1} nope bridge",
        "network inspect -f '{{{{.Name}}}} {{{{.IPAM.Config}}}} {{{{.Labels}}}}' {1}", "network inspect",
        "network inspect -f '{{{{range .Containers}}}}{{{{.Name}}}} {{{{.IPv4Address}}}}{{{{end}}}}' {1}",
        "network create {1}", "network create", "network create a b", "network create bridge",
        "network create --subnet x n9", "network create --subnet 10.1.0.0/24 --gateway 10.2.0.1 n9",
        "network create --gateway 10.2.0.1 n9", "network create --subnet 10.1.0.0/16 --subnet 10.1.2.0/24 n9",
        "network create --subnet 10.1.0.0/24 --aux-address a=10.2.0.1 n9", "network create -d nope n9",
        "network create --subnet 10.213.0.0/25 n9", "network create --nope n9", "network create -o n9",
        "network rm nope {1}", "network rm -f nope", "network rm", "network rm bridge", "network connect {1} {0}",
        "network connect --ip x {1} {0}", "network connect --ip 10.9.9.9 {1} {0}", "network connect nope {0}",
        "network connect {1} nope", "network connect {1}", "network disconnect bridge nope", "network disconnect nope {0}",
        "network disconnect -f nope {0}", "network disconnect host {0}", "network prune", "network prune -f --filter x=y",
        "network prune -f --filter label=nope", "network nope", "run --rm --network nope busybox true",
        "run --rm --network host --network {1} busybox true", "run --rm --network {1} --ip 10.213.0.1 busybox true",
        "run --rm --network name={1},ip=10.213.0.77 busybox ip -o -4 addr show eth0", "run --rm --network name= busybox true",
        "run --rm --network {1} --network {1} busybox true", "run --rm --network {1},foo=bar busybox true",
        "run --rm --network container: busybox true", "run --rm --network bridge --network-alias x busybox true",
    ],
)  # fmt: skip
def test_lines_about_networks(engine: Engine, subject: str, crowd: str, line: str) -> None:
    same(engine, *shlex.split(line.format(subject, crowd)))


def typed(client: Client, arguments: list[str], script: list[tuple[bytes, bytes]]) -> int:
    """Run on a terminal; wait for each text, then type what goes with it."""
    screen: Terminal = client.terminal(*arguments, rows=30, cols=100)
    if script and b"hello" in script[0][0]:
        time.sleep(0.5)  # cat says nothing when it is ready
        screen.send(b"hello\n")
    for awaited, keys in script:
        screen.until(awaited)
        time.sleep(0.05)
        screen.send(keys)
    return screen.wait()


@pytest.mark.parametrize(
    ("arguments", "script"),
    [
        (["run", "--rm", "-it", "busybox", "sh"], [(b"# ", b"stty size; tty; exit 9\n")]),
        (["run", "--rm", "-it", "busybox", "cat"], [(b"hello\r\nhello\r\n", b"\x04")]),
        (["run", "--rm", "-t", "busybox", "sh", "-c", "stty size"], []),
    ],
)
def test_on_a_terminal(engine: Engine, arguments: list[str], script: list[tuple[bytes, bytes]]) -> None:
    codes: list[int] = []
    for client in (Client(engine.socket_path), WherryClient(engine.socket_path)):
        codes.append(typed(client, arguments, script))
    assert codes[0] == codes[1]


def test_detaching_leaves_the_container_running(engine: Engine, name: str) -> None:
    client = WherryClient(engine.socket_path)
    screen = client.terminal("run", "-it", "--name", name, "busybox", "sh")
    screen.until(b"# ")
    screen.send(b"\x10\x11")
    screen.wait()
    assert client.docker("inspect", "-f", "{{.State.Running}}", name).ok().line == "true"


def test_megabytes_both_ways(engine: Engine) -> None:
    data = os.urandom(1 << 20) * 20
    ran = WherryClient(engine.socket_path).docker("run", "--rm", "-i", "busybox", "cat", input=data)
    assert ran.code == 0
    assert ran.raw == data


def test_trace_of_a_start(wherry: Engine) -> None:
    ran = WherryClient(wherry.socket_path).docker("run", "--rm", "--trace", "busybox", "echo", "hello").ok()
    assert ran.out == "hello\n"
    assert re.search(r"^STEP +AT +TOOK$", ran.err, re.MULTILINE)
    assert re.search(r"^process started +[\d.]+ ms +[\d.]+ ms +█+$", ran.err, re.MULTILINE)
