"""`kill -9` of the daemon between every two calls that change something.

The engine marks those places with `killpoint("name")`. One test runs a scenario and sees to it that every mark in the
source is passed; one for each mark kills the daemon there, starts the next one, finishes the scenario, and looks for
whatever was lost or left behind. A container that was running all the while must not have noticed.
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from tests.conftest import MARK
from tests.docker import rootfs
from tests.docker.conftest import make_wherry
from tests.docker.engine import ROOT, Answer
from tests.docker.registry import Registry
from tests.unit.volumes.plugin import Plugin, installed_plugin


def marks() -> list[str]:
    """The names of all kill points in the source."""
    found: set[str] = set()
    for folder, _, files in os.walk(f"{ROOT}/src/wherry"):
        for name in files:
            if name.endswith(".py"):
                with open(os.path.join(folder, name)) as file:
                    found.update(re.findall(r'killpoint\("([^"]+)"\)', file.read()))
    return sorted(found)


class Victim:
    """A daemon that may die at any moment, and the state it has to come back to."""

    def __init__(self, registry: Registry, plugin: Plugin) -> None:
        self.daemon = make_wherry()
        self.plugin = plugin
        self.image = f"{registry.address}/{MARK}/crash"
        layers = [rootfs.busybox_tar(), rootfs.tar([("crash", b"test")])]
        registry.put_image(f"{MARK}/crash", "latest", layers)
        self.daemon.start()
        self.daemon.docker(
            "import", "--change", 'CMD ["sh"]', "-", "busybox", input=rootfs.busybox_tar()
        ).ok()
        self.daemon.docker(
            "run", "-d", "--name", "keeper", "busybox", "sh", "-c", "while :; do date; sleep 1; done"
        ).ok()
        self.keeper = (
            self.daemon.docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "keeper").ok().line
        )
        self.deaths = 0
        self.is_spoilt = False
        self.passed: dict[str, str] = {}
        self.port = 20000 + os.getpid() % 500 * 2
        for part in ("images", "containers", "networks", "volumes", "ports", "restarts"):
            path = f"{self.daemon.data_root}/passed.daemon.log"
            self.restart_with({"WHERRY_KILL_LIST": path})
            getattr(self, part)()
            with open(path) as file:
                for name in file.read().split():
                    # `containers` names what it makes, and so tells a second try from the first: it comes before the rest.
                    if part == "containers" or "ports" in name or name not in self.passed:
                        self.passed[name] = part
            os.unlink(path)
        self.baseline = self.traces()

    def restart_with(self, env: dict[str, str]) -> None:
        self.daemon.kill()
        self.deaths = 0
        self.daemon.start(env=env, wait=False)
        self.revive(starting=True)

    def revive(self, *, starting: bool = False) -> None:
        """See to it that there is a daemon that answers; one that died is followed by one that is not told to die."""
        deadline = time.monotonic() + 30
        while True:
            assert self.daemon.process is not None
            if self.daemon.process.poll() is not None:
                code = self.daemon.process.returncode
                assert code == -9, f"the daemon ended with {code}: {self.daemon.log_tail()}"
                self.deaths += 1
                assert self.deaths < 3, "the daemon died again without being told to"
                self.daemon.start(wait=False)
            elif not starting:
                return
            try:
                self.daemon.api("GET", "/_ping", timeout_s=2).expect(200)
                return
            except (OSError, AssertionError):
                assert time.monotonic() < deadline, self.daemon.log_tail()
                time.sleep(0.02)

    def docker(self, *argv: str) -> tuple[int, str]:
        """One command; while it runs, a dead daemon is followed by the next."""
        client = self.daemon.popen(*argv, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 40
        while True:
            try:
                out, err = client.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                self.revive()
                if time.monotonic() > deadline:
                    client.kill()
                    client.communicate()
                    pytest.fail(f"docker {' '.join(argv)} hangs: {self.daemon.log_tail()}")
        self.revive()
        return client.returncode, (out + err).decode(errors="replace")

    def until(
        self, *argv: str, code: int = 0, done: str = "\0", again: str = "\0", undo: tuple[str, ...] = ()
    ) -> None:
        """Repeat a command whose daemon died under it, until it succeeds or says that it is `done`."""
        seen = []
        for _ in range(4):
            got, text = self.docker(*argv)
            if got == code or done in text:
                return
            seen.append((got, text))
            if undo and (again in text or self.deaths):
                self.docker(*undo)
        pytest.fail(f"docker {' '.join(argv)}: {seen}\n{self.daemon.log_tail()}")

    def images(self) -> None:
        """Pull, and remove. What was answered is looked at before going on."""
        self.until("pull", self.image)
        self.until("run", "--rm", "--network", "none", self.image, "cat", "/crash")
        self.until("rmi", self.image, done="No such image")

    def containers(self) -> None:
        """Create, start, stop, remove, and a whole run."""
        self.until(
            "create", "--name", "one", "busybox", "sleep", "300", done="is already in use by container"
        )
        self.until("inspect", "one")
        self.until("start", "one")
        state = self.docker("inspect", "-f", "{{.State.Status}}", "one")[1].strip()
        assert state == "running", f"start was answered, and the container is {state}"
        self.until("stop", "-t", "0", "one")
        state = self.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one")[1].strip()
        assert state == "exited 137", f"stop was answered, and the container is {state}"
        self.until("rm", "one", done="No such container")
        command = ("run", "--name", "two", "busybox", "sh", "-c", "echo out; exit 3")
        self.until(*command, code=3, again="is already in use", undo=("rm", "-f", "two"))
        assert self.docker("wait", "two")[1].strip() == "3"
        assert self.docker("logs", "two")[1] == "out\n"
        self.until("rm", "-f", "two")

    def networks(self) -> None:
        """Make a network, join and leave it while running, and remove it."""
        self.until("network", "create", "--subnet", "10.211.77.0/24", "net", done="already exists")
        bridge = "br-" + self.docker("network", "inspect", "-f", "{{.ID}}", "net")[1].strip()[:12]
        assert os.path.exists(f"/sys/class/net/{bridge}"), f"{bridge} is missing after create was answered"
        self.until("network", "connect", "--ip", "10.211.77.9", "net", "keeper", done="already exists in")
        shown = self.docker("exec", "keeper", "ip", "-4", "addr")[1]
        assert (
            shown.count("inet 10.211.77.9/24") == 1 and shown.count("eth0") and shown.count(": eth") == 2
        ), shown
        self.until("network", "disconnect", "net", "keeper", done="is not connected to")
        shown = self.docker("exec", "keeper", "sh", "-c", "ip addr; ip route")[1]
        assert "10.211.77" not in shown and "default via" in shown, shown
        self.until("network", "rm", "net", done="not found")
        assert not os.path.exists(f"/sys/class/net/{bridge}"), f"{bridge} is left after rm was answered"

    def volumes(self) -> None:
        """Make, fill, use, share out to a running container, remove. An anonymous volume comes and goes beside."""
        self.until("volume", "create", "--label", "a=b", "kept")
        assert self.docker("volume", "inspect", "-f", "{{.Labels}}", "kept")[1].strip() == "map[a:b]"
        # First use fills it with what the image has: all of it, or (until it is begun anew) nothing that shows.
        create = (
            "create",
            "--name",
            "three",
            "-v",
            "kept:/etc",
            "-v",
            "/anonymous",
            "busybox",
            "sleep",
            "300",
        )
        self.until(*create, done="is already in use by container")
        self.until("start", "three")
        files = self.docker("exec", "three", "ls", "-A", "/etc")[1].split()
        assert files == ["group", "hostname", "hosts", "passwd", "plain-file", "resolv.conf"], files
        self.mount(
            "POST",
            "/containers/three/mounts",
            {"Type": "volume", "Source": "kept", "Target": "/more"},
            done=409,
        )
        assert "passwd" in self.docker("exec", "three", "ls", "-A", "/more")[1]
        self.mount("DELETE", "/containers/three/mounts?target=/more", None, done=404)
        assert self.docker("exec", "three", "ls", "-A", "/more")[1] == ""
        self.until("rm", "-f", "-v", "three", done="No such container")
        assert self.docker("volume", "ls", "-q", "-f", "driver=local")[1] == "kept\n", (
            "the anonymous volume is still there"
        )
        run = ("run", "--rm", "-v", f"{MARK}-far:/far", "--volume-driver", MARK, "busybox", "touch", "/far/f")
        self.until(*run)
        assert os.listdir(f"{self.plugin.directory}/{MARK}-far") == ["f"]
        self.until("volume", "rm", f"{MARK}-far", done="no such volume")
        assert not any(self.plugin.mounted.values()), "the plugin still has it mounted"
        self.until("volume", "rm", "kept", done="no such volume")
        assert self.docker("volume", "ls", "-q", "-f", "driver=local")[1] == ""

    def restarts(self) -> None:
        """A policy starts a container again so often and no more; others are stopped, waiting for that or running."""
        run = ("run", "-d", "--name")
        in_use = "is already in use by"
        fails = (*run, "four", "--restart", "on-failure:2", "busybox", "false")
        self.until(*fails, again=in_use, undo=("rm", "-f", "four"))
        assert self.state("four", "exited").split() == ["exited", "1", "2"]
        self.until("rm", "four", done="No such container")
        waits = (*run, "five", "--restart", "unless-stopped", "busybox", "false")
        self.until(*waits, again=in_use, undo=("rm", "-f", "five"))
        self.state("five", "restarting")
        runs = (*run, "six", "--restart", "unless-stopped", "--stop-timeout", "0", "busybox", "sleep", "300")
        self.until(*runs, again=in_use, undo=("rm", "-f", "six"))
        self.until("stop", "five", "six")
        self.daemon.kill()
        self.daemon.start()
        for name in ("five", "six"):
            assert self.state(name).startswith("exited"), f"{name} was stopped, and runs again"
            self.until("rm", name, done="No such container")

    def state(self, name: str, wanted: str = "") -> str:
        """Status, exit code and number of restarts, once the status is the one that is `wanted`."""
        deadline = time.monotonic() + 30
        form = "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"
        while not (found := self.docker("inspect", "-f", form, name)[1]).startswith(wanted):
            assert time.monotonic() < deadline, f"{name} is {found}, not {wanted}"
            time.sleep(0.02)
        return found

    def request(self, method: str, path: str, body: object) -> Answer:
        """One request; while it waits, a dead daemon is followed by the next, which may be the one that answers."""
        with ThreadPoolExecutor(1) as apart:
            answer = apart.submit(self.daemon.api, method, path, body)
            while not wait([answer], timeout=0.05).done:
                self.revive()
        self.revive()
        return answer.result()

    def mount(self, method: str, path: str, body: object, *, done: int) -> None:
        """One request of our own API, repeated while the daemon dies under it."""
        for _ in range(4):
            try:
                status = self.request(method, path, body).status
            except (OSError, http.client.HTTPException):
                status = 0
            if status in (201, 204, done):
                return
        pytest.fail(f"{method} {path}: {status}\n{self.daemon.log_tail()}")

    def ports(self) -> None:
        """Publish with a start, then on the running container, and withdraw. The port is there whenever that was said."""
        run = ("run", "-d", "--name", "open", "-p", f"{self.port}:80", "busybox", "sh", "-c")
        self.until(
            *run, "echo hello >index.html; httpd -f", again="is already in use by", undo=("rm", "-f", "open")
        )
        self.answers(self.port, True)
        bindings = {"PortBindings": {"80/tcp": [{"HostPort": str(self.port + 1)}]}}
        self.until_api("POST", "/containers/open/ports", bindings, done="already allocated")
        self.answers(self.port + 1, True)
        self.until_api(
            "DELETE", f"/containers/open/ports?port=80&hostport={self.port + 1}", None, done="no public port"
        )
        self.answers(self.port + 1, False)
        self.answers(self.port, True)
        self.until("rm", "-f", "open")
        self.answers(self.port, False)

    def until_api(self, method: str, path: str, body: object, *, done: str) -> None:
        """As `until`, for one request."""
        seen = []
        for _ in range(4):
            try:
                answer = self.request(method, path, body)
                if answer.status < 300 or done in answer.message:
                    return
                seen.append(answer.message)
            except (OSError, http.client.HTTPException) as exc:
                seen.append(repr(exc))
        pytest.fail(f"{method} {path}: {seen}\n{self.daemon.log_tail()}")

    def answers(self, port: int, expected: bool) -> None:
        for address in ("127.0.0.1", "::1"):
            deadline = time.monotonic() + 10
            while (found := _answers(address, port)) != expected:  # a server takes its time to start
                assert time.monotonic() < deadline, (
                    f"[{address}]:{port} answers: {found}\n{self.daemon.log_tail()}"
                )
                time.sleep(0.02)

    def traces(self) -> dict[str, set[str]]:
        """Whatever could be left behind: files, processes, interfaces, cgroups."""
        daemon = self.daemon
        files: set[str] = set()
        for root in (daemon.data_root, daemon.exec_root):
            for folder, folders, names in os.walk(root):
                if (
                    "/overlay2/layers/" in folder
                    or "/containers/" in folder[len(root) :]
                    and "/upper" in folder
                ):
                    folders.clear()
                    continue
                files.update(
                    os.path.join(folder, n)
                    for n in names + folders
                    if not re.search(r"wherry\.db|daemon\.log", n)
                )
        bridge = f"/sys/class/net/{daemon.bridge}/brif"
        pids = daemon.processes()
        cgroups = {path for path, _, _ in os.walk("/sys/fs/cgroup") if daemon.name in path or self.owns(path)}
        return {
            "files": files,
            "ports of the bridge": {str(len(os.listdir(bridge)))} if os.path.isdir(bridge) else set(),
            "bridges": set(daemon.bridges()),
            "cgroups": cgroups,
            "published": _elements(f"wherry-{daemon.bridge}"),
            "processes": {str(pid) for pid in pids if not self.is_another_each_time(pid)},
            "processes of ours": {str(sum(map(self.is_ours, pids)))},
        }

    def owns(self, path: str) -> bool:
        found = re.search(r"[0-9a-f]{64}", path)
        return found is not None and os.path.isdir(f"{self.daemon.data_root}/containers/{found[0]}")

    def is_another_each_time(self, pid: int) -> bool:
        """Daemon, launcher and what it keeps ready are others after each death, and the keeper's `sleep` each second."""
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except FileNotFoundError:
            return True
        return b"wherry" in line or line.startswith(b"sleep")

    def is_ours(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                return b"wherry" in file.read()
        except FileNotFoundError:
            return False

    def is_clean(self) -> None:
        deadline = time.monotonic() + 5
        while True:
            now = self.traces()
            left = {k: sorted(now[k] - self.baseline[k])[:8] for k in now if now[k] - self.baseline[k]}
            lost = {k: sorted(self.baseline[k] - now[k])[:8] for k in now if self.baseline[k] - now[k]}
            if not left and not lost:
                break
            assert time.monotonic() < deadline, f"left behind: {left}; lost: {lost}\n{self.daemon.log_tail()}"
            time.sleep(0.05)
        assert self.docker("ps", "-a", "--format", "{{.Names}}")[1] == "keeper\n"
        assert self.docker("images", "--format", "{{.Repository}}")[1] == "busybox\n"
        found = self.docker("inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "keeper")[1].strip()
        assert found == self.keeper, "the container that ran all the while is another one now"
        assert self.docker("exec", "keeper", "echo", "ok")[1] == "ok\n"
        self.is_spoilt = False


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"hello" in client.makefile("rb").read()
    except OSError:
        return False


def _elements(table: str) -> set[str]:
    """Everything in our maps of published ports."""
    listing = subprocess.run(
        ["nft", "list", "table", "inet", table], capture_output=True, text=True, check=False
    )
    return set(re.findall(r"[0-9a-f.:]* ?\.? ?(?:tcp|udp) \. \d+[^,}]*", listing.stdout))


@pytest.fixture(scope="module")
def victims() -> Iterator[list[Victim]]:
    made: list[Victim] = []
    yield made
    for victim in made:
        victim.daemon.remove()


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    with installed_plugin(MARK, str(tmp_path_factory.mktemp("plugin"))) as plugin:
        yield plugin


@pytest.fixture
def victim(victims: list[Victim], registry: Registry, plugin: Plugin) -> Victim:
    """The same one for every test, until one fails."""
    if os.environ.get("WHERRY_TEST_HOST"):
        pytest.skip("about wherry itself")
    if victims and victims[-1].is_spoilt:
        victims.pop().daemon.remove()
    if not victims:
        victims.append(Victim(registry, plugin))
    victims[-1].is_spoilt = True
    return victims[-1]


def test_every_kill_point_is_passed(victim: Victim) -> None:
    assert victim.passed and not set(marks()) - set(victim.passed), (
        f"never passed: {set(marks()) - set(victim.passed)}"
    )
    victim.is_clean()


@pytest.mark.parametrize("point", marks())
def test_kill_at(victim: Victim, point: str) -> None:
    victim.restart_with({"WHERRY_KILL_AT": f"{point}:1"})
    getattr(victim, victim.passed[point])()
    assert victim.deaths, f"{point} was not passed"
    victim.is_clean()


@pytest.mark.parametrize("point", ["start:started", "exit:network-released", "exit:state-written"])
def test_kill_at_a_restart_by_policy(victim: Victim, point: str) -> None:
    """The second time is in the first restart: it neither counts twice nor is forgotten."""
    victim.restart_with({"WHERRY_KILL_AT": f"{point}:2"})
    victim.restarts()
    assert victim.deaths, f"{point} was not passed"
    victim.is_clean()


def test_logs_of_the_container_that_ran_on_have_no_gap(victim: Victim) -> None:
    """One line a second, through all those deaths."""
    lines = victim.docker("logs", "-t", "keeper")[1].splitlines()
    seconds = [_seconds(line.split(" ")[0]) for line in lines]
    assert seconds
    assert not seconds[1:] or max(b - a for a, b in zip(seconds, seconds[1:], strict=False)) < 4


def _seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.split("T")[1].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
