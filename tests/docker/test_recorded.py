"""wherry answers what a live dockerd answered (recorded/, made by record.py), but for the differences listed here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import pytest

from tests.docker import acts, record
from tests.docker.engine import Engine
from tests.docker.registry import Registry

DIFFERENCES: list[tuple[str, str]] = [
    # Patterns of "ACT: STEP: WHERE", and why we differ there on purpose.
    (r"api: PUT |api: \w+ /nosuch", "any 404 or 405 with a JSON message will do"),
    (
        r"=what(&w=10)?: (status|body)$",
        "a number that is none is the client's mistake: 400, not 500, and said in our words",
    ),
    (
        r"POST /auth \{: |POST /images/create: |/tag\?repo=: ",
        "400 for what is malformed, where dockerd says 500 or nothing",
    ),
    (r"Binds\":\[\"/tmp:/\"\]", "400, where dockerd says 500"),
    (r"POST /auth .*127.0.0.1:1", "503: the registry does not answer, which is not our own failure"),
    (
        r"GET /info: body.(Containerd|KernelMemoryTCP|OpenPorts|Runtimes|Warnings)",
        "no containerd here, other runtimes, other machine; OpenPorts is our own",
    ),
    (
        r"inspect: .*HostConfig.Runtime|info --format .*DefaultRuntime",
        "the runtime is ours; containers survive their daemon",
    ),
    (r"HostConfig.MaskedPaths", "the same paths and the newest of moby's list, in another order"),
    (
        r"GraphDriver.Data",
        "nothing is mounted on the host: no directories to show (docs: what differs from Docker)",
    ),
    (r"size=1.*SizeRw", "0 is shown, too"),
    (
        r"info --format '\{\{json .RegistryConfig|info --format '\{\{json .SecurityOptions",
        "our own drivers and registries",
    ),
    (r"run --rm -w /etc/plain-file|--tmpfs /t:size=what", "the runtime's own words"),
    (r"--log-opt max-size=what", "refused by create, not by start"),
    (r"\$EMPTYTAR|not a tar", "the reason in our words"),
    (r"--detach-keys what", "the reason, where docker's CLI loses it"),
    (r"unreachable", "we ask for what we want at once, and not for /v2/ first"),
]
"""Known differences. An entry that no longer matches anything is to be deleted."""


@pytest.fixture(scope="session")
def player(engine: Engine, registry: Registry) -> Iterator[acts.Player]:
    record.fill(registry)
    yield acts.Player(engine, registry=registry.address, inputs=record.inputs())


@pytest.mark.parametrize("act", acts.ACTS)
def test_answers_as_recorded(player: acts.Player, act: str) -> None:
    with open(os.path.join(record.FOLDER, f"{act}.json")) as file:
        recorded = json.load(file)["steps"]
    assert [step["step"] for step in recorded] == acts.ACTS[act], "acts.py has changed: run record.py again"
    found: list[str] = []
    for wanted, got in zip(recorded, player.act(act), strict=True):
        for where, text in differences(wanted, got):
            label = f"{act}: {wanted['step']}: {where}"
            if not any(re.search(pattern, label) for pattern, _ in DIFFERENCES):
                found.append(f"{label}\n    docker: {text[0]}\n    ours:   {text[1]}")
    if found:
        pytest.fail(f"{len(found)} differences\n" + "\n".join(found), pytrace=False)


def differences(wanted: object, got: object, where: str = "") -> Iterator[tuple[str, tuple[str, str]]]:
    """Where two outcomes differ. Docker's null may be an empty list or map of ours: clients read both alike."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key in sorted(wanted.keys() | got.keys()):
            at = f"{where}.{key}" if where else key
            if key not in got:
                yield at, (short(wanted[key]), "(missing)")
            elif key not in wanted:
                yield at, ("(missing)", short(got[key]))
            else:
                yield from differences(wanted[key], got[key], at)
    elif isinstance(wanted, list) and isinstance(got, list):
        if wanted and got:
            yield from differences(wanted[0], got[0], f"{where}[]")
    elif wanted != got and not (wanted == "null" and got in ([], {})):
        yield where, (short(wanted), short(got))


def short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"\n\n(Run|See) '.* --help' for more information\n$", "", text).strip().replace("\n", "⏎")
    return text if len(text) < 600 else f"{text[:600]}…"
