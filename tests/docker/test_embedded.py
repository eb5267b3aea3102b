"""The engine inside a program: `wherry.Engine` and `wherry.AsyncEngine`, with no daemon, and beside one."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import MARK
from tests.docker import rootfs
from tests.docker.engine import ROOT, Wherry
from tests.docker.registry import Registry, free_port
from wherry import AsyncEngine, Engine
from wherry.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    Unauthorized,
    Unavailable,
    WherryError,
)
from wherry.model.containers import HostConfig, PortBinding
from wherry.model.images import AuthConfig

if os.environ.get("WHERRY_TEST_HOST"):
    pytest.skip("about wherry itself", allow_module_level=True)

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Path of a root filesystem's tar."""
    path = tmp_path_factory.mktemp("embedded") / "busybox.tar"
    path.write_bytes(rootfs.busybox_tar())
    return str(path)


@pytest.fixture(scope="module")
def plain(busybox: str) -> Iterator[Engine]:
    """An engine for the tests that leave nothing in it."""
    with Engine.temporary() as engine:
        engine.import_image(busybox, "busybox", changes=['CMD ["sh"]'])
        yield engine
        assert engine.containers(all=True) == []


@pytest_asyncio.fixture
async def embedded(busybox: str) -> AsyncIterator[AsyncEngine]:
    async with AsyncEngine.temporary() as engine:
        await engine.import_image(busybox, "busybox")
        yield engine


@pytest.fixture
def daemon() -> Iterator[Wherry]:
    """Not started: its roots are there."""
    number = next(_numbers)
    daemon = Wherry(f"{MARK}e{number}", f"198.18.{(os.getpid() + 100 + number) % 250}.1/24")
    yield daemon
    daemon.remove()


def same_root(daemon: Wherry) -> Engine:
    return Engine(root=daemon.data_root, run_root=daemon.exec_root, bridge=daemon.bridge)


# Plain code


def test_run_gives_exit_code_and_both_streams(plain: Engine) -> None:
    result = plain.run("busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


def test_run_feeds_stdin_and_closes_it(plain: Engine) -> None:
    data = os.urandom(3_000_000)
    assert plain.run("busybox", ["cat"], input=data).stdout == data


def test_run_takes_options(plain: Engine) -> None:
    script = 'echo "$A $(id -u) $(pwd) $(hostname)"; ls /sys/class/net; touch /x'
    result = plain.run(
        "busybox", ["sh", "-c", script], env={"A": "b c"}, user="guest", working_dir="/home", network="none",
        read_only=True, labels={"k": "v"}, memory_bytes=32 << 20, host=HostConfig(uts_mode="host"),
    )  # fmt: skip
    assert result.stdout.decode() == f"b c 405 /home {os.uname().nodename}\nlo\n"
    assert b"Read-only file system" in result.stderr


def test_entrypoint_and_binds(plain: Engine, tmp_path: object) -> None:
    result = plain.run("busybox", ["/mnt"], entrypoint=["ls"], binds=[f"{ROOT}:/mnt:ro"])
    assert b"pyproject.toml" in result.stdout


def test_ports(plain: Engine) -> None:
    port = free_port()
    with plain.start(
        "busybox", ["sh", "-c", "echo hello >index.html; httpd -f"], ports={"80/tcp": f"127.0.0.1:{port}"}
    ) as c:
        assert c.ports() == {"80/tcp": [PortBinding(host_ip="127.0.0.1", host_port=str(port))]}
        (given, *_) = c.publish({"81": "[::1]:", "80": "127.0.0.1:"})["81/tcp"] or ()
        assert given.host_ip == "::1" and given.host_port.isdigit()
        deadline = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as answer:
                    assert answer.read() == b"hello\n"
                break
            except OSError:
                assert time.monotonic() < deadline
        c.withdraw("80/tcp", host_port=str(port))
        assert str(port) not in [b.host_port for b in c.ports()["80/tcp"] or ()]
        with pytest.raises(NotFound, match="no public port '82/tcp'"):
            c.withdraw("82")
        with pytest.raises(InvalidParameter, match="x/tcp"):
            c.publish({"x/tcp": ""})


def test_terminal_output_is_not_framed(plain: Engine) -> None:
    with plain.start("busybox", ["sleep", "60"]) as container:
        assert container.exec(["echo", "hi"]).stdout == b"hi\n"


@pytest.mark.parametrize(
    ("command", "error", "text"),
    [
        (["nothing-such"], InvalidParameter, "executable file not found in $PATH"),
        (["/etc/plain-file"], InvalidParameter, "permission denied"),
    ],
)
def test_program_that_cannot_start_is_an_error_and_leaves_nothing(
    plain: Engine, command: list[str], error: type[WherryError], text: str
) -> None:
    with pytest.raises(error, match=text.replace("$", r"\$")):
        plain.run("busybox", command)
    with pytest.raises(error):
        plain.start("busybox", command)
    assert plain.containers(all=True) == []


def test_missing_image_without_pull(plain: Engine) -> None:
    with pytest.raises(NotFound, match="No such image: nothing:such"):
        plain.run("nothing:such", pull=False)


def test_missing_network_is_not_taken_for_a_missing_image(plain: Engine) -> None:
    with pytest.raises(NotFound, match="network elsewhere not found"):
        plain.run("busybox", ["true"], network="elsewhere")
    assert plain.containers(all=True) == []


def test_mistakes_in_python_are_type_errors(plain: Engine) -> None:
    with pytest.raises(TypeError, match="unknown option 'evn'"):
        plain.run("busybox", ["true"], evn={})  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="give a list of its words"):
        plain.run("busybox", "echo hello")
    with pytest.raises(InvalidParameter, match="no_such_setting"):
        Engine(root="/nonexistent", no_such_setting=1)


def test_name_is_taken_once(plain: Engine) -> None:
    with plain.start("busybox", ["sleep", "60"], name="one") as one:
        assert plain.container("one").id == one.id
        with pytest.raises(Conflict, match="already in use"):
            plain.start("busybox", ["true"], name="one")
        assert one.inspect().state.running
    with pytest.raises(NotFound, match="No such container: one"):
        plain.container("one")


def test_exec_options_and_codes(plain: Engine) -> None:
    with plain.start("busybox", ["sleep", "60"]) as container:
        result = container.exec(
            ["sh", "-c", 'cat; echo "$A $(id -u) $(pwd)"; echo e >&2; exit 7'],
            input=b"in ", env={"A": "1"}, user="guest", working_dir="/etc",
        )  # fmt: skip
        assert (result.exit_code, result.stdout, result.stderr) == (7, b"in 1 405 /etc\n", b"e\n")
        assert container.exec(["nothing-such"]).exit_code == 127
        with pytest.raises(InvalidParameter, match="No exec command specified"):
            container.exec([])
    with pytest.raises(NotFound):
        container.exec(["true"])


def test_exec_in_a_container_that_has_ended(plain: Engine) -> None:
    with plain.start("busybox", ["true"]) as container:
        assert container.wait() == 0
        with pytest.raises(Conflict, match="is not running"):
            container.exec(["true"])


def test_logs_and_their_tail(plain: Engine) -> None:
    with plain.start("busybox", ["sh", "-c", "seq 5; echo e >&2"]) as container:
        container.wait()
        assert b"".join(container.logs()).split() == [b"1", b"2", b"3", b"4", b"5", b"e"]
        assert b"".join(container.logs(tail=1)) == b"e\n"


def test_logs_follow_until_the_end(plain: Engine) -> None:
    with plain.start("busybox", ["sh", "-c", "echo 1; sleep 0.3; echo 2"]) as container:
        assert b"".join(container.logs(follow=True)) == b"1\n2\n"


def test_logs_may_be_left_in_the_middle(plain: Engine) -> None:
    with plain.start("busybox", ["sh", "-c", "while echo x; do sleep 0.05; done"]) as container:
        for piece in container.logs(follow=True):
            assert piece.startswith(b"x")
            break
        container.stop(timeout_s=0)
        assert container.wait() == 137


def test_volumes(plain: Engine) -> None:
    made = plain.create_volume("data", labels={"a": "b"})
    try:
        assert plain.create_volume("data") == made and made.labels == {"a": "b"}
        plain.run("busybox", ["sh", "-c", "echo kept >/d/f"], binds=["data:/d"])
        with open(f"{made.mountpoint}/f") as file:
            assert file.read() == "kept\n"
        with plain.start("busybox", ["sleep", "300"], binds=["data:/d:ro", "/anonymous"]) as container:
            assert container.exec(["cat", "/d/f"]).stdout == b"kept\n"
            with pytest.raises(Conflict, match="volume is in use"):
                plain.remove_volume("data")
            assert len(plain.volumes()) == 2
        assert [volume.name for volume in plain.volumes()] == ["data"]
    finally:
        plain.remove_volume("data")
    with pytest.raises(NotFound, match="get data: no such volume"):
        plain.remove_volume("data")
    with pytest.raises(InvalidParameter, match='missing required option: "device"'):
        plain.create_volume("bad", options={"type": "tmpfs"})


def test_mounts_of_a_running_container(plain: Engine, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("host\n")
    with plain.start("busybox", ["sleep", "300"]) as container:
        container.add_mount(str(tmp_path), "/d", read_only=True)
        result = container.exec(["sh", "-c", "cat /d/f; touch /d/g"])
        assert result.stdout == b"host\n" and b"Read-only" in result.stderr
        container.remove_mount("/d")
        assert container.exec(["ls", "-A", "/d"]).stdout == b""
        with pytest.raises(NotFound):
            container.remove_mount("/d")


def test_images_go_out_and_come_back(plain: Engine, tmp_path: object) -> None:
    archive = f"{tmp_path}/image.tar"
    plain.save(["busybox"], archive)
    with Engine.temporary() as other:
        assert other.load(archive) == ["busybox:latest"]
        assert other.run("busybox", ["echo", "there"]).stdout == b"there\n"
    with pytest.raises(NotFound):
        plain.save(["nothing-such"], f"{tmp_path}/none.tar")
    assert os.listdir(f"{tmp_path}") == ["image.tar"]


def test_broken_archives_and_tars(plain: Engine, tmp_path: object) -> None:
    path = f"{tmp_path}/broken.tar"
    with open(path, "wb") as file:
        file.write(b"no tar at all" * 1000)
    with pytest.raises(WherryError):
        plain.load(path)
    with pytest.raises(WherryError):
        plain.import_image(path, "broken")
    with pytest.raises(FileNotFoundError):
        plain.load(f"{tmp_path}/none.tar")
    assert [image.repo_tags for image in plain.images()] == [["busybox:latest"]]


def test_import_with_a_registry_port_in_the_name(plain: Engine, busybox: str) -> None:
    plain.import_image(busybox, "localhost:5000/team/box:1.0")
    try:
        assert any("localhost:5000/team/box:1.0" in image.repo_tags for image in plain.images())
    finally:
        plain.remove_image("localhost:5000/team/box:1.0")


def test_pull_and_what_registries_answer(
    plain: Engine, registry: Registry, locked_registry: Registry
) -> None:
    layers = [rootfs.tar([("bin", None), ("hello", b"from a registry")])]
    registry.put_image("emb/hello", "1", layers)
    locked_registry.put_image("emb/secret", "1", layers, auth="wherry:s3cret")
    plain.pull(f"{registry.address}/emb/hello:1")
    with pytest.raises(NotFound, match="not found"):
        plain.pull(f"{registry.address}/emb/none:1")
    with pytest.raises(NotFound):
        plain.run(f"{registry.address}/emb/none:1", ["true"])  # it tries to pull
    with pytest.raises(
        (NotFound, Unauthorized, WherryError), match="no basic auth credentials|unauthorized|denied"
    ):
        plain.pull(f"{locked_registry.address}/emb/secret:1")
    plain.pull(
        f"{locked_registry.address}/emb/secret:1", auth=AuthConfig(username="wherry", password="s3cret")
    )
    with pytest.raises(WherryError, match="connection refused|[Cc]onnect"):
        plain.pull(f"127.0.0.1:{free_port()}/x:1")
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        plain.pull("Not A Name")
    for image in ("emb/hello:1", "emb/secret:1"):
        at = registry if "hello" in image else locked_registry
        plain.remove_image(f"{at.address}/{image}")


def test_threads_share_an_engine(plain: Engine) -> None:
    outputs: list[bytes] = []

    def work(number: int) -> None:
        outputs.append(plain.run("busybox", ["echo", str(number)]).stdout)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outputs) == [b"%d\n" % n for n in range(6)]


def test_closed_engine_says_so(busybox: str) -> None:
    engine = Engine(root=f"/var/tmp/{MARK}-never")
    with pytest.raises(Unavailable, match="not open"):
        engine.images()
    assert not os.path.exists(f"/var/tmp/{MARK}-never")


def test_closing_ends_what_another_thread_waits_for(busybox: str) -> None:
    failures: list[BaseException] = []
    with Engine.temporary() as engine:
        engine.import_image(busybox, "busybox")
        container = engine.start("busybox", ["sleep", "600"])

        def wait() -> None:
            try:
                container.wait()
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    thread.join(10)
    assert not thread.is_alive() and isinstance(failures[0], Unavailable)


def test_temporary_engine_leaves_nothing_when_its_block_fails(busybox: str) -> None:
    before = traces()
    with pytest.raises(ZeroDivisionError), Engine.temporary() as engine:
        engine.import_image(busybox, "busybox")
        engine.start("busybox", ["sleep", "600"])
        raise ZeroDivisionError
    until(lambda: traces() <= before)


def test_ctrl_c_ends_the_run_and_leaves_nothing(busybox: str) -> None:
    before = traces()
    program = f"""
        import signal
        from wherry import Engine
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
        with Engine.temporary() as engine:
            engine.import_image({busybox!r}, "busybox")
            print("ready", flush=True)
            engine.run("busybox", ["sleep", "600"])
        """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().endswith(b"KeyboardInterrupt\n")
        assert process.wait(20) != 0
    until(lambda: traces() <= before)


def test_without_root_it_says_what_it_needs() -> None:
    program = "from wherry import Engine; Engine(root='/var/tmp/none').__enter__()"
    done = subprocess.run(
        [*"setpriv --reuid 65534 --regid 65534 --clear-groups".split(), sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    if "No module named" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip("nobody cannot read this working copy")
    assert done.stderr.splitlines()[-1].startswith(
        "wherry.errors.Forbidden: the engine needs root privileges"
    )


# One engine per root


def test_second_engine_of_a_root_is_refused(daemon: Wherry) -> None:
    with (
        same_root(daemon),
        pytest.raises(Conflict, match=f"in use by another engine .process {os.getpid()}."),
    ):
        same_root(daemon).__enter__()
    with same_root(daemon):  # free again
        pass


def test_library_is_refused_where_a_daemon_is(daemon: Wherry) -> None:
    daemon.start()
    assert daemon.process is not None
    with pytest.raises(Conflict, match=f"in use by another engine .process {daemon.process.pid}."):
        same_root(daemon).__enter__()
    daemon.api("GET", "/_ping").expect(200)


def test_daemon_is_refused_where_a_library_is(daemon: Wherry) -> None:
    with same_root(daemon):
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
    assert f"in use by another engine (process {os.getpid()})" in daemon.log_tail()
    assert "Traceback" not in daemon.log_tail()
    daemon.start()  # free again


def test_other_data_root_with_the_same_exec_root_is_refused(daemon: Wherry) -> None:
    with same_root(daemon), pytest.raises(Conflict, match="exec root"):
        Engine(root=f"{daemon.data_root}/other", run_root=daemon.exec_root, bridge="none").__enter__()


def test_containers_outlive_the_program_and_a_daemon_finds_them(daemon: Wherry, busybox: str) -> None:
    with same_root(daemon) as engine:
        engine.import_image(busybox, "busybox")
        script = "echo first; trap 'echo last; exit 5' TERM; while :; do sleep 0.1; done"
        engine.start("busybox", ["sh", "-c", script], name="survivor")
    daemon.start()
    assert daemon.docker("ps", "--format", "{{.Names}}").ok().line == "survivor"
    assert daemon.docker("exec", "survivor", "echo", "here").ok().line == "here"
    daemon.docker("stop", "survivor").ok()
    assert daemon.docker("logs", "survivor").ok().out == "first\nlast\n"
    daemon.stop_process()
    with same_root(daemon) as engine:
        assert engine.container("survivor").inspect().state.exit_code == 5
        engine.container("survivor").remove()


# asyncio


async def test_many_at_once(embedded: AsyncEngine) -> None:
    results = await asyncio.gather(*(embedded.run("busybox", ["echo", str(n)]) for n in range(12)))
    assert [result.stdout for result in results] == [b"%d\n" % n for n in range(12)]
    assert await embedded.containers(all=True) == []


async def test_container_block_removes_it_when_it_fails(embedded: AsyncEngine) -> None:
    with pytest.raises(ZeroDivisionError):
        async with await embedded.start("busybox", ["sleep", "600"]):
            raise ZeroDivisionError
    assert await embedded.containers(all=True) == []


async def test_networks_join_containers(embedded: AsyncEngine) -> None:
    async with await embedded.create_network("back", subnets=["10.211.78.0/24"], labels={"a": "b"}) as back:
        with pytest.raises(Conflict):
            await embedded.create_network("back")
        async with (
            await embedded.start("busybox", ["sleep", "300"], network="back") as first,
            await embedded.start("busybox", ["sleep", "300"]) as second,
        ):
            await back.connect(second, ip="10.211.78.9", aliases=["two"])
            assert (await first.exec(["ping", "-c1", "-W1", "10.211.78.9"])).exit_code == 0
            assert set((await back.inspect()).containers) == {first.id, second.id}
            with pytest.raises(Forbidden, match="has active endpoints"):
                await back.remove()
            await back.disconnect(second)
            assert (await first.exec(["ping", "-c1", "-W1", "10.211.78.9"])).exit_code == 1
        assert "back" in [network.name for network in await embedded.networks()]
    with pytest.raises(NotFound):
        await embedded.network("back")


def test_networks_from_plain_code(plain: Engine) -> None:
    with plain.create_network("back", internal=True) as back, plain.start("busybox", ["sleep", "300"]) as one:
        back.connect(one)
        assert list(plain.network("back").inspect().containers) == [one.id]
        back.disconnect(one)
    assert "back" not in [network.name for network in plain.networks()]


async def test_container_is_reached_by_its_address(embedded: AsyncEngine) -> None:
    """From the host: between containers a firewall of somebody else may drop (`info` warns of it)."""
    serve = ["sh", "-c", "echo served > /tmp/page; exec httpd -f -p 80 -h /tmp"]

    def fetch(url: str) -> bytes:
        while True:
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    return answer.read()
            except OSError:
                time.sleep(0.05)  # it does not listen yet

    async with await embedded.start("busybox", serve) as server, asyncio.timeout(20):
        address = (await server.inspect()).network_settings.ip_address
        assert await asyncio.to_thread(fetch, f"http://{address}/page") == b"served\n"


async def test_follow_in_a_task_ends_with_the_container(embedded: AsyncEngine) -> None:
    async with await embedded.start(
        "busybox", ["sh", "-c", "while :; do echo x; sleep 0.05; done"]
    ) as container:
        async with asyncio.TaskGroup() as group:

            async def follow() -> int:
                return sum([len(piece) async for piece in container.logs(follow=True)])

            following = group.create_task(follow())
            await asyncio.sleep(0.3)
            await container.stop(timeout_s=0)
        assert following.result() >= 4


async def test_output_without_end_is_refused(embedded: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry.engine.output.MAX_OUTPUT", 1 << 20)
    with pytest.raises(WherryError, match="wrote more than 1048576 bytes"):
        await embedded.run("busybox", ["cat", "/dev/zero"])
    assert await embedded.containers(all=True) == []


async def test_cancelled_run_leaves_nothing_whenever_it_is(embedded: AsyncEngine) -> None:
    started = time.monotonic()
    await embedded.run("busybox", ["true"])
    whole = time.monotonic() - started
    for step in range(40):
        task = asyncio.ensure_future(embedded.run("busybox", ["sleep", "600"]))
        await asyncio.sleep(whole * 1.5 * step / 40)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await embedded.containers(all=True) == [], f"step {step}"
    assert embedded.services.networks is not None
    assert (await embedded.run("busybox", ["echo", "fine"])).stdout == b"fine\n"


async def test_cancelled_start_leaves_nothing_whenever_it_is(embedded: AsyncEngine) -> None:
    for step in range(30):
        task = asyncio.ensure_future(embedded.start("busybox", ["sleep", "600"]))
        await asyncio.sleep(0.003 * step)
        task.cancel()
        try:
            container = await task
        except asyncio.CancelledError:
            pass
        else:
            await container.remove(force=True)  # it was done before
        assert await embedded.containers(all=True) == [], f"step {step}"


async def test_cancelled_twice_is_undone_before_the_engine_closes(busybox: str) -> None:
    before = traces()
    async with AsyncEngine.temporary() as engine:
        await engine.import_image(busybox, "busybox")
        task = asyncio.ensure_future(engine.run("busybox", ["sleep", "600"]))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    await asyncio.to_thread(until, lambda: traces() <= before)


async def test_timeout_of_the_callers(embedded: AsyncEngine) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await embedded.run("busybox", ["sleep", "600"])
    assert await embedded.containers(all=True) == []


async def test_default_bridges_differ_by_root() -> None:
    async with AsyncEngine.temporary() as one, AsyncEngine.temporary() as two:
        assert one.services.settings.bridge != two.services.settings.bridge
        assert len(one.services.settings.bridge) <= 15


@pytest.mark.parametrize(("example", "last"), [("plain", "left: []"), ("in_asyncio", "exit code 137")])
def test_examples_run(example: str, last: str) -> None:
    """In namespaces of their own, with which everything ends: the first keeps its engine's root, as it says."""
    script = f"""
        set -e
        mount -t tmpfs none /run; mount -t tmpfs none /var/tmp; ip link set lo up
        exec {sys.executable} {ROOT}/examples/{example}.py
        """
    done = subprocess.run(
        [*"unshare --mount --net --pid --fork --kill-child --mount-proc sh -c".split(), script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/src"},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == last


def traces() -> set[str]:
    """What an embedded engine could leave behind, by name."""
    return {
        *(f"interface {name}" for name in os.listdir("/sys/class/net") if name.startswith("wh-")),
        *(f"run {name}" for name in os.listdir("/run") if name.startswith("wherry-")),
        *(f"root {name}" for name in os.listdir("/var/tmp") if name.startswith("wherry-")),
    }


def until(is_so: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, sorted(traces())
        time.sleep(0.02)
