from __future__ import annotations

import itertools

import msgspec
import pytest

from wherry.engine.creation import check_restart_policy
from wherry.engine.records import ContainerRecord, ContainerState
from wherry.engine.restarts import dependencies, in_order, next_delay, revives, wants_restart
from wherry.errors import InvalidParameter
from wherry.model.containers import ContainerConfig, HostConfig, RestartPolicy


def test_delays_double_up_to_a_minute() -> None:
    delays = [0.0]
    for _ in range(12):
        delays.append(next_delay(delays[-1], 1))
    assert delays[1:11] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2])
    assert delays[11:] == [60, 60]


def test_ten_seconds_up_begin_the_series_anew() -> None:
    assert next_delay(51.2, 9.9) == 60
    assert next_delay(51.2, 10) == 0.1


@pytest.mark.parametrize(
    ("policy", "code", "count", "is_stopped", "expected"),
    [
        ("no", 1, 0, False, False),
        ("", 1, 0, False, False),
        ("always", 0, 99, False, True),
        ("always", 1, 0, True, True),
        ("unless-stopped", 0, 99, False, True),
        ("unless-stopped", 1, 0, True, False),
        ("on-failure", 0, 0, False, False),
        ("on-failure", 1, 99, False, True),
        ("on-failure", 137, 0, True, True),
    ],
)
def test_policies(policy: str, code: int, count: int, is_stopped: bool, expected: bool) -> None:
    found = wants_restart(RestartPolicy(name=policy), exit_code=code, count=count, is_stopped=is_stopped)
    assert found is expected


def test_a_maximum_is_of_restarts() -> None:
    policy = RestartPolicy(name="on-failure", maximum_retry_count=2)
    counts = [wants_restart(policy, exit_code=1, count=count, is_stopped=False) for count in range(4)]
    assert counts == [True, True, False, False]


def test_what_never_ran_is_not_revived() -> None:
    always = RestartPolicy(name="always")
    assert revives(always, ContainerState(status="exited", is_manually_stopped=True))
    assert not revives(always, ContainerState(status="created"))
    assert not revives(always, ContainerState(status="dead"))
    assert not revives(
        RestartPolicy(name="unless-stopped"), ContainerState(status="exited", is_manually_stopped=True)
    )


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (RestartPolicy("nope"), "unknown policy 'nope'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
        (RestartPolicy("always", 1), "maximum retry count can only be used with 'on-failure'"),
        (RestartPolicy("no", -1), "maximum retry count can only be used with 'on-failure' and cannot be negative"),
        (RestartPolicy("on-failure", -1), "maximum retry count cannot be negative"),
    ],
)  # fmt: skip
def test_what_is_no_policy(policy: RestartPolicy, text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_restart_policy(policy)
    assert str(caught.value) == f"invalid restart policy: {text}"


def test_what_is_one() -> None:
    for policy in (RestartPolicy("", 7), RestartPolicy("on-failure", 7), RestartPolicy("always")):
        check_restart_policy(policy)


def record(
    name: str, links: dict[str, str] | None = None, labels: dict[str, str] | None = None, **host: object
) -> ContainerRecord:
    return ContainerRecord(
        id=name * 64,
        name=f"name-{name}",
        created_ns=0,
        image_id="",
        image_reference="",
        chain_ids=(),
        config=ContainerConfig(labels=labels),
        host=msgspec.structs.replace(HostConfig(), **host),
        endpoints={},
        links=links or {},
        snapshot_driver="vfs",
        path="",
        args=(),
    )


def test_dependencies() -> None:
    compose = "com.docker.compose."
    others = [
        record("a"),
        record("b"),
        record("c", labels={f"{compose}project": "p", f"{compose}service": "db"}),
        record("d", labels={f"{compose}project": "q", f"{compose}service": "db"}),
        record("e"),
        record("f"),
    ]
    this = record(
        "1",
        links={"store": "e" * 64},
        labels={
            f"{compose}project": "p",
            f"{compose}depends_on": "db:service_healthy:false,no:service_started:true",
        },
        network_mode="container:" + "a" * 64,
        ipc_mode="container:name-b",
        pid_mode="host",
        volumes_from=["f" * 12 + ":ro", "gone"],
    )
    assert dependencies(this, [*others, this]) == {each * 64 for each in "abcef"}


def test_those_needed_come_first_and_circles_are_broken() -> None:
    chain = [record("a", links={"x": "b" * 64}), record("b", links={"x": "c" * 64}), record("c")]
    for chosen in itertools.permutations(chain):
        order = in_order(chosen, chain)
        assert [each[0] for each in order] == ["c", "b", "a"]
        assert order["a" * 64] == ["b" * 64]
    assert list(in_order(chain[:1], chain)) == ["a" * 64]  # the others run, or are not to
    circle = [record("a", links={"x": "b" * 64}), record("b", links={"x": "a" * 64})]
    order = in_order(circle, circle)
    assert dict(order) == {"b" * 64: [], "a" * 64: ["b" * 64]}
