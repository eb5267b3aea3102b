"""What a request and an image become together, and what is refused."""

from __future__ import annotations

import pytest
from msgspec import UNSET, structs

from wherry.engine.creation import HostFacts, ImageDefaults, parse_signal, plan_container, port_specs
from wherry.engine.records import ContainerRecord
from wherry.engine.settings import EngineSettings, RuntimeSetting
from wherry.errors import InvalidParameter
from wherry.linux.capabilities import NAMES
from wherry.model.containers import ContainerCreate
from wherry.model.wire import decode

FACTS = HostFacts(
    cpus=2, cgroup_version=1, hostname="host", bounding=frozenset(NAMES), snapshot_driver="overlay2"
)
IMAGE = ImageDefaults(
    id="sha256:" + "a" * 64,
    chain_ids=("sha256:" + "b" * 64,),
    env=("PATH=/bin", "A=image"),
    entrypoint=("/entry",),
    cmd=("from", "image"),
    labels={"from": "image", "both": "image"},
    working_dir="/image",
    user="guest",
    stop_signal="SIGQUIT",
    exposed_ports={"80/tcp": {}},
)


def plan(
    body: str, image: ImageDefaults | None = IMAGE, settings: EngineSettings | None = None
) -> ContainerRecord:
    return plan_container(
        decode(body.encode(), ContainerCreate),
        image,
        container_id="c" * 64,
        name="web",
        created_ns=1,
        settings=settings or EngineSettings(),
        facts=FACTS,
    )


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("{}", ["/entry", "from", "image"]),
        ('{"Cmd":["x"]}', ["/entry", "x"]),
        ('{"Cmd":"x y"}', ["/entry", "x y"]),
        ('{"Entrypoint":["/e"]}', ["/e"]),  # a new entrypoint takes the image's command away
        ('{"Entrypoint":"/e","Cmd":["z"]}', ["/e", "z"]),
        ('{"Entrypoint":[""],"Cmd":["z"]}', ["z"]),
        ('{"Entrypoint":[],"Cmd":["z"]}', ["z"]),
    ],
)
def test_command(body: str, command: list[str]) -> None:
    record = plan(body)
    assert [record.path, *record.args] == command


def test_image_fills_what_the_request_leaves_open() -> None:
    config = plan('{"Env":["A=mine","B=1"],"Labels":{"both":"mine"}}').config
    assert config.env == ["PATH=/bin", "A=mine", "B=1"]
    assert config.labels == {"from": "image", "both": "mine"}
    assert (config.user, config.working_dir, config.stop_signal) == ("guest", "/image", "SIGQUIT")
    assert config.exposed_ports == {"80/tcp": {}}
    assert plan('{"WorkingDir":"/a/../b"}').config.working_dir == "/b"


def test_host_config_shows_what_docker_shows() -> None:
    host = plan('{"HostConfig":{"Memory":67108864}}').host
    assert (host.network_mode, host.ipc_mode, host.cgroupns_mode) == ("bridge", "private", "host")
    assert (host.shm_size, host.memory_swap, host.runtime) == (64 << 20, 2 * host.memory, "wherry")
    assert (host.log_config.type, host.log_config.config) == ("json-file", {})
    assert host.restart_policy.name == "no" and host.masked_paths and host.readonly_paths
    assert plan('{"HostConfig":{"Privileged":true}}').host.masked_paths == []
    assert plan('{"HostConfig":{"PidsLimit":-1,"MemorySwappiness":-1}}').host.memory_swappiness is None


def test_log_options_are_kept_and_completed() -> None:
    settings = EngineSettings(log_opts={"max-size": "1m", "tag": "x"})
    host = plan('{"HostConfig":{"LogConfig":{"Config":{"tag":"mine"}}}}', settings=settings).host
    assert host.log_config.config == {"max-size": "1m", "tag": "mine"}
    host = plan('{"HostConfig":{"LogConfig":{"Type":"none"}}}', settings=settings).host
    assert (host.log_config.type, host.log_config.config) == ("none", {})


def test_the_default_network_goes_by_its_name() -> None:
    record = plan('{"NetworkingConfig":{"EndpointsConfig":{"default":{"MacAddress":"02:42:00:00:00:09"}}}}')
    assert list(record.endpoints) == ["bridge"]
    assert record.endpoints["bridge"].mac_address == "02:42:00:00:00:09"


def test_hostname() -> None:
    assert plan("{}").config.hostname == "c" * 12
    assert plan('{"HostConfig":{"NetworkMode":"host"}}').config.hostname == "host"
    assert plan('{"Hostname":"web"}').config.hostname == "web"


def test_a_known_runtime_is_taken() -> None:
    settings = EngineSettings(runtimes={"runc": RuntimeSetting("/usr/sbin/runc")})
    assert plan('{"HostConfig":{"Runtime":"runc"}}', settings=settings).host.runtime == "runc"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"WorkingDir":"x"}', "the working directory 'x' is invalid, it needs to be an absolute path"),
        ('{"Env":["=x"]}', "invalid environment variable: =x"),
        ('{"Cmd":["a\\u0000b"]}', "NUL"),
        ('{"StopSignal":"NOPE"}', "invalid signal: NOPE"),
        ('{"StopTimeout":-2}', "invalid stop timeout -2"),
        ('{"Hostname":"' + "h" * 65 + '"}', "invalid hostname"),
        ('{"ExposedPorts":{"x/tcp":{}}}', "invalid port specification"),
        ('{"Healthcheck":{"Interval":5}}', "Interval in Healthcheck cannot be less than 1ms"),
        ('{"HostConfig":{"Memory":4}}', "Minimum memory limit allowed is 6MB"),
        ('{"HostConfig":{"MemorySwap":9000000}}', "You should always set the Memory limit"),
        ('{"HostConfig":{"Memory":9000000,"MemorySwap":8000000}}', "Minimum memoryswap limit"),
        ('{"HostConfig":{"NanoCpus":9000000000}}', "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs"),
        ('{"HostConfig":{"NanoCpus":1000000000,"CpuQuota":5000}}', "Nano CPUs and CPU Quota cannot both be set"),
        ('{"HostConfig":{"CpusetCpus":"7"}}', "Requested CPUs are not available - requested 7, available: 0-1"),
        ('{"HostConfig":{"CpusetCpus":"x"}}', "Invalid value x for cpuset cpus: invalid format: x"),
        ('{"HostConfig":{"BlkioWeight":5}}', "Range of blkio weight is from 10 to 1000"),
        ('{"HostConfig":{"ShmSize":-1}}', "SHM size can not be less than 0"),
        ('{"HostConfig":{"OomScoreAdj":2000}}', "range for oom score adj is"),
        ('{"HostConfig":{"PidMode":"what"}}', "invalid PID mode: what"),
        ('{"HostConfig":{"IpcMode":"container:"}}', "invalid IPC mode: container:"),
        ('{"HostConfig":{"Runtime":"what"}}', "unknown or invalid runtime name: what"),
        ('{"HostConfig":{"CapAdd":["WHAT"]}}', 'unknown capability: "CAP_WHAT"'),
        ('{"HostConfig":{"RestartPolicy":{"Name":"on-failed"}}}', "invalid restart policy: unknown policy 'on-failed'"),
        ('{"HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}', "can't create 'AutoRemove' container"),
        ('{"HostConfig":{"Ulimits":[{"Name":"what","Soft":1,"Hard":1}]}}', "invalid ulimit type: what"),
        ('{"HostConfig":{"Ulimits":[{"Name":"nofile","Soft":9,"Hard":1}]}}', "soft limit must be less"),
        ('{"HostConfig":{"CgroupParent":"../x"}}', "must not hold '..'"),
        ('{"HostConfig":{"UTSMode":"host"},"Hostname":"x"}', "conflicting options: hostname and the UTS mode"),
        ('{"HostConfig":{"DeviceCgroupRules":["x 1:1 r"]}}', "invalid device cgroup rule format"),
        ('{"HostConfig":{"StorageOpt":{"size":"1g"}}}', "--storage-opt is supported only"),
    ],
)  # fmt: skip
def test_refused(body: str, text: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        plan(body)
    assert text in str(refused.value)


def test_nothing_to_run() -> None:
    with pytest.raises(InvalidParameter, match="no command specified"):
        plan('{"Image":""}', image=None)
    bare = structs.replace(IMAGE, entrypoint=None, cmd=None)
    with pytest.raises(InvalidParameter, match="no command specified"):
        plan("{}", image=bare)


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("sigterm", 15), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63), ("64", 64)],
)
def test_signal(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "NOPE", "RTMIN+99", "_DFL", "SIG_IGN", "9x"])
def test_no_signal(text: str) -> None:
    with pytest.raises(InvalidParameter, match="invalid signal"):
        parse_signal(text)


def test_ports_that_a_container_is_to_have() -> None:
    body = (
        '{"Cmd":["x"],"ExposedPorts":{"53/udp":{}},"HostConfig":{"PublishAllPorts":true,"NetworkMode":"%s",'
    )
    body += '"PortBindings":{"80":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}}}'
    found = port_specs(plan(body % "bridge", image=None))
    assert [(s.container_port, s.protocol, s.host_ip, s.first) for s in found] == [
        (80, "tcp", "127.0.0.1", 8080),
        (53, "udp", "", 0),
    ]
    assert port_specs(plan(body % "host", image=None)) == []
    with pytest.raises(InvalidParameter, match="port publishing and the container type network mode"):
        plan(body % "container:x", image=None)


@pytest.mark.parametrize("port", ["0", "65536", "80/what", "", "a"])
def test_what_is_no_port_is_refused(port: str) -> None:
    for body in (
        '{"Cmd":["x"],"ExposedPorts":{"%s":{}}}',
        '{"Cmd":["x"],"HostConfig":{"PortBindings":{"%s":[]}}}',
    ):
        with pytest.raises(InvalidParameter, match="invalid port specification"):
            plan(body % port, image=None)


def test_unset_stays_unset() -> None:
    config = plan('{"Cmd":["x"]}', image=None).config
    assert config.healthcheck is UNSET and config.stop_signal is UNSET
