"""What is done to an engine, step by step, to compare what it answers with what a live dockerd answered.

A step is one string: docker's arguments as in a shell, or `METHOD /path [JSON body]` for the API. `TEXT | step` gives
it standard input. $REGISTRY is the test registry's address, $NOW the time in seconds, $START that of the act's first step, $LAST the first word that the last
step wrote.

The steps of one act run in order on an engine that has no other containers of these names (all begin with `act`).
record.py writes what came out to recorded/; test_recorded.py does the same acts on wherry and compares.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import Any

from tests.docker.engine import Client

ACTS: dict[str, list[str]] = {
    "run": [
        "run --rm busybox echo hello",
        "run --rm busybox sh -c 'echo out; echo err >&2; exit 3'",
        "hello | run --rm -i busybox cat",
        "hello | run --rm busybox cat",
        "run --rm -a stderr busybox sh -c 'echo out; echo err >&2'",
        "run --rm busybox kill -9 1",
        "run --rm busybox sh -c 'kill -TERM $$; sleep 1'",
        "run --rm --init busybox sh -c 'kill -KILL $$'",
        "run --rm --name act-q -d busybox sleep 300",
        "run --rm --name act-q busybox true",
        "rm -f act-q",
    ],
    "run-that-cannot-start": [
        "run --rm busybox nosuch",
        "run --rm busybox /nosuch/program",
        "run --rm busybox /etc/plain-file",
        "run --rm busybox /etc",
        "run --rm --entrypoint nosuch busybox",
        "run --rm -w /etc/plain-file busybox true",
        "run --rm -u nobody-here busybox true",
        "run --rm -u 1:nogroup-here busybox true",
        "run --rm --group-add nogroup-here busybox true",
        "run --name act-f busybox nosuch",
        "inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}' act-f",
        "logs act-f",
        "start act-f",
        "rm act-f",
        "run --pull never --rm nosuch-image",
        "run --pull never --rm nosuch-image:tag",
        "run --rm --pull never no/such/image@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "run --rm NoCapitals",
        "run --rm --name 'a b' busybox true",
        "run --rm --name x busybox true",
        "run --rm --network nosuchnet busybox true",
        "run --rm --network container:nosuch busybox true",
        "run --rm --volumes-from nosuch busybox true",
        "run --rm -v /nosuch/source/here:relative busybox true",
        "run --rm -v relative/path:/x busybox true",
        "run --rm -v /tmp:/x:what busybox true",
        "run --rm --mount type=bind,src=/nosuch/source,dst=/x busybox true",
        "run --rm --mount type=bind,src=/tmp busybox true",
        "run --rm --mount type=what,dst=/x busybox true",
        "run --rm --tmpfs relative busybox true",
        "run --rm --tmpfs /t:size=what busybox true",
        "run --rm --device /dev/nosuch busybox true",
        "run --rm --memory 1k busybox true",
        "run --rm --memory -5 busybox true",
        "run --rm --memory 64m --memory-swap 32m busybox true",
        "run --rm --cpus 1000 busybox true",
        "run --rm --cpus -1 busybox true",
        "run --rm --cpuset-cpus 900 busybox true",
        "run --rm --cpuset-cpus x busybox true",
        "run --rm --cpu-shares -1 busybox true",
        "run --rm --pids-limit -5 busybox true",
        "run --rm --cap-add NOSUCH busybox true",
        "run --rm --cap-drop NOSUCH busybox true",
        "run --rm --ulimit nofile=5:3 busybox true",
        "run --rm --ulimit what=5 busybox true",
        "run --rm --sysctl kernel.hostname=x busybox true",
        "run --rm --sysctl vm.swappiness=1 busybox true",
        "run --rm --ipc what busybox true",
        "run --rm --pid what busybox true",
        "run --rm --uts what busybox true",
        "run --rm --cgroupns what busybox true",
        "run --rm --userns what busybox true",
        "run --rm --uts host --hostname x busybox true",
        "run --rm --network host --hostname x busybox hostname",
        "run --rm --restart sometimes busybox true",
        "run --rm --restart on-failed busybox true",
        "run --rm --restart always busybox true",
        "run --restart no:3 --name act-r busybox true",
        "run --rm --log-driver what busybox true",
        "run --rm --log-opt what=1 busybox true",
        "run --rm --log-opt max-size=what busybox true",
        "run --rm --runtime nosuch busybox true",
        "run --rm --stop-signal NOSUCH busybox true",
        "run --rm --shm-size 0 busybox true",
        "run --rm --security-opt what=1 busybox true",
        "run --rm --oom-score-adj 2000 busybox true",
        "run --rm --isolation hyperv busybox true",
        "run --rm --expose what busybox true",
        "run --rm --storage-opt size=what busybox true",
        "run --rm --annotation x=1 busybox true",
        "run --rm --health-interval 1ns --health-cmd true busybox true",
        "run --rm --workdir relative busybox true",
        "run --rm -e =x busybox true",
        "run --rm -i --detach-keys what busybox true",
    ],
    "lifecycle": [
        "create --name act1 -l role=web -e A=1 --hostname act1 busybox sh -c 'trap \"exit 7\" TERM; echo up; while :; do sleep 0.05; done'",
        "ps -a --filter name=act",
        "ps --filter name=act",
        "inspect -f '{{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.Pid}} {{.Name}} {{.Config.Image}}' act1",
        "logs act1",
        "top act1",
        "kill act1",
        "stop act1",
        "exec act1 true",
        "pause act1",
        "unpause act1",
        "attach act1",
        "start act1",
        "start act1",
        "ps --filter name=act",
        "ps --filter name=act --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Labels}} {{.Networks}} {{.Mounts}} {{.Ports}}'",
        "inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.OOMKilled}} {{.RestartCount}}' act1",
        "exec act1 sh -c 'echo in; echo bad >&2; exit 5'",
        "from outside | exec -i act1 cat",
        "exec act1 nosuch",
        "exec act1 /etc/plain-file",
        "exec -w /tmp -e B=2 -u guest act1 sh -c 'pwd; echo $A$B; id -u'",
        "exec -w /nosuch/dir act1 true",
        "exec -u nobody-here act1 true",
        "exec -d act1 sleep 200",
        "exec nosuch true",
        "top act1 -o pid,comm",
        "top act1 -o pid,nosuchcolumn",
        "pause act1",
        "pause act1",
        "ps --filter name=act",
        "exec act1 true",
        "stop -t 1 act1",
        "start act1",
        "pause act1",
        "attach act1",
        "unpause act1",
        "unpause act1",
        "rename act1 act2",
        "rename act2 act2",
        "rename nosuch act3",
        "rename act2 'bad name'",
        "rm act2",
        "stop act2",
        "stop act2",
        "wait act2",
        "ps -a --filter name=act",
        "inspect -f '{{.State.Status}} {{.State.ExitCode}}' act2",
        "kill act2",
        "restart act2",
        "kill -s NOSUCH act2",
        "kill -s 0 act2",
        "kill -s 99 act2",
        "kill -s SIGWINCH act2",
        "kill act2",
        "wait act2",
        "logs act2",
        "logs --tail 1 act2",
        "logs --tail what act2",
        "logs --since what act2",
        "logs nosuch",
        "rm act2",
        "rm act2",
        "rm -f act2",
        "wait act2",
        "start act2",
        "stop act2",
        "kill act2",
        "restart act2",
        "inspect act2",
        "top act2",
        "container inspect act2",
        "inspect --type what act2",
        "start act2 act3",
    ],
    "events": [
        "run -d --name act-e -l a=b busybox sh -c 'trap \"exit 4\" TERM; while :; do sleep 0.05; done'",
        "exec act-e true",
        "exec act-e sh -c 'exit 3'",
        "kill -s USR2 act-e",
        "restart act-e",
        "rename act-e act-e2",
        "pause act-e2",
        "unpause act-e2",
        "stop act-e2",
        "rm act-e2",
        "events --since $START --until $NOW --filter container=act-e --filter type=container --format '{{.Action}}'",
        "events --since $START --until $NOW --filter container=act-e2 --filter event=die --format '{{json .Actor.Attributes}}'",
        "events --since $START --until $NOW --filter container=act-e2 --filter event=kill --format '{{.Actor.Attributes.signal}} {{.Actor.Attributes.name}} {{.Actor.Attributes.image}} {{.Actor.Attributes.a}}'",
        "events --since $START --until $NOW --filter container=act-e2 --filter event=destroy",
        "events --since $START --until $NOW --filter container=act-e2 --filter event=rename --format '{{json .Actor.Attributes}}'",
        "tag busybox act/evented",
        "rmi act/evented",
        "events --since $START --until $NOW --filter type=image --filter image=act/evented --format '{{.Action}} {{.Actor.Attributes.name}}'",
        "events --since what --until $NOW",
        "events --filter what=1 --filter container=act-e2 --since $START --until $NOW",
        "GET /events?since=0&until=1",
        "GET /events?since=what",
        "GET /events?filters=what",
    ],
    "inspect": [
        "run -d --name act-i -l role=web --memory 64m --cpus 0.5 --pids-limit 50 --tmpfs /t --ulimit nofile=1000:2000 --cap-add NET_ADMIN --cap-drop CHOWN --device /dev/null:/dev/n --stop-signal INT --stop-timeout 3 --group-add 7 --sysctl net.ipv4.ip_forward=1 -v /tmp:/host:ro --mount type=bind,src=/etc,dst=/hostetc,readonly --shm-size 1m --annotation a=b --expose 80 --log-opt max-size=1m -h web --domainname example.org -w /tmp -e A=1 busybox sleep 300",
        "inspect act-i",
        "inspect -s -f '{{.SizeRw}} {{len .Id}}' act-i",
        "inspect -f '{{json .Mounts}}' act-i",
        "inspect -f '{{json .HostConfig.Binds}} {{json .HostConfig.Mounts}} {{json .HostConfig.Tmpfs}} {{json .HostConfig.Ulimits}} {{json .HostConfig.Devices}}' act-i",
        "inspect -f '{{json .HostConfig.CapAdd}} {{json .HostConfig.CapDrop}} {{json .HostConfig.GroupAdd}} {{json .HostConfig.Sysctls}} {{json .HostConfig.Annotations}} {{json .HostConfig.LogConfig}}' act-i",
        "inspect -f '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.ShmSize}} {{.HostConfig.NetworkMode}} {{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}} {{.HostConfig.Runtime}}' act-i",
        "inspect -f '{{json .HostConfig.RestartPolicy}} {{json .HostConfig.MaskedPaths}} {{json .HostConfig.ReadonlyPaths}}' act-i",
        "inspect -f '{{.Config.Hostname}} {{.Config.Domainname}} {{.Config.User}} {{json .Config.Env}} {{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.ExposedPorts}} {{json .Config.Labels}} {{.Config.StopSignal}} {{.Config.StopTimeout}} {{.Config.WorkingDir}} {{.Config.Tty}}' act-i",
        "inspect -f '{{.Path}} {{json .Args}} {{.Driver}} {{.Platform}} {{.MountLabel}} {{.ProcessLabel}} {{.AppArmorProfile}} {{json .ExecIDs}}' act-i",
        "inspect -f '{{json .NetworkSettings.Ports}} {{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{$v.IPPrefixLen}} {{json $v.Aliases}} {{json $v.DNSNames}}{{end}}' act-i",
        "GET /containers/act-i/json",
        "GET /containers/act-i/json?size=1",
        "GET /containers/json?all=1&filters={\"name\":[\"act-i\"]}",
        "GET /containers/json?all=1&size=1&filters={\"name\":{\"act-i\":true}}",
        "GET /containers/act-i/top",
        "GET /containers/act-i/top?ps_args=-o%20pid",
        "POST /containers/act-i/exec {\"Cmd\":[\"sleep\",\"100\"],\"AttachStdout\":true,\"Env\":[\"X=1\"]}",
        "POST /exec/$LAST/start {\"Detach\":true}",
        "rm -f act-i",
        "run --name act-n --network none busybox true",
        "GET /containers/act-n/json",
        "rm act-n",
        "run --name act-h --network host busybox true",
        "GET /containers/act-h/json",
        "rm act-h",
    ],
    "list": [
        "run -d --name act-l1 -l n=1 -l both=x busybox sleep 300",
        "run --name act-l2 -l n=2 -l both=x busybox sh -c 'exit 3'",
        "create --name act-l3 --network none busybox echo a rather long command line that is cut somewhere",
        "ps -a --filter name=act-l",
        "ps -a --no-trunc --filter name=act-l --format '{{.Command}}'",
        "ps -a --filter name=act-l --format '{{.Names}} {{.Status}}'",
        "ps -aq --filter name=act-l",
        "ps --filter label=both=x --format '{{.Names}}'",
        "ps -a --filter label=both --filter label=n=2 --format '{{.Names}}'",
        "ps -a --filter status=created --filter name=act-l --format '{{.Names}}'",
        "ps --filter status=exited --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter exited=3 --filter name=act-l --format '{{.Names}}'",
        "ps --filter exited=3 --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter before=act-l2 --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter since=act-l1 --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter ancestor=busybox --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter ancestor=nosuch --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter network=none --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter name='^/?act-l[12]$' --format '{{.Names}}'",
        "ps -a --filter name='^/act-l1$' --format '{{.Names}}'",
        "ps -n 2 --filter name=act-l --format '{{.Names}}'",
        "ps -a --filter what=1",
        "ps -a --filter status=what",
        "ps -a --filter exited=what",
        "ps -a --filter since=nosuch",
        "ps -a --filter name=act-l --format json",
        "ps -a -s --filter name=act-l2 --format '{{.Size}}'",
        "rm act-l1 act-l2 act-l3",
        "rm -f act-l1",
    ],
    "images": [
        "tag busybox act/one",
        "tag busybox act/one:2",
        "tag nosuch act/one",
        "tag busybox Bad/Name",
        "tag busybox act/one:bad^tag",
        "images act/one",
        "images act/one --format '{{.Repository}} {{.Tag}} {{.Digest}}'",
        "images --digests act/one",
        "image ls -q act/one",
        "images --filter reference='act/*:2' --format '{{.Repository}}:{{.Tag}}'",
        "images --filter reference='*.latest' --format '{{.Repository}}:{{.Tag}}'",
        "images --filter since=nosuch",
        "images --filter label=nosuch",
        "images --filter dangling=what",
        "images --filter what=1",
        "images nosuch",
        "image inspect act/one",
        "image inspect nosuch",
        "image inspect -f '{{.Os}} {{.Architecture}} {{json .RepoTags}} {{json .RepoDigests}} {{json .Config.Cmd}} {{.RootFS.Type}} {{len .RootFS.Layers}}' act/one:2",
        "history act/one",
        "history --no-trunc --format '{{.CreatedBy}}|{{.Comment}}' act/one",
        "history nosuch",
        "create --name act-img act/one true",
        "rmi act/one",
        "rmi act/one:2",
        "rmi act/one",
        "rmi nosuch",
        "rmi Bad:Ref:x",
        "rm act-img",
        "tag busybox act/three",
        "rmi act/three nosuch",
        "save nosuch",
        "GET /images/busybox/json",
        "GET /images/json",
        "GET /images/busybox/history",
        "GET /images/nosuch/json",
        "POST /images/busybox/tag?repo=act/four&tag=x",
        "DELETE /images/act/four:x",
        "DELETE /images/nosuch",
        "POST /images/busybox/tag?repo=",
        "POST /images/busybox/tag?repo=UPPER",
    ],
    "import-load": [
        "$TAR | import - act/imported",
        "$TAR | import --change 'ENV A=1' --change 'CMD [\"sh\", \"-c\", \"echo $A\"]' --change 'WORKDIR /tmp' --change 'LABEL x=y' --change 'EXPOSE 80' --change 'USER guest' --change 'ENTRYPOINT []' --message note - act/changed:1",
        "image inspect -f '{{json .Config.Env}} {{json .Config.Cmd}} {{.Config.WorkingDir}} {{json .Config.Labels}} {{json .Config.ExposedPorts}} {{.Config.User}} {{.Comment}}' act/changed:1",
        "history --format '{{.CreatedBy}}|{{.Comment}}' act/changed:1",
        "run --rm act/changed:1",
        "$TAR | import --change 'WHAT 1' - act/bad",
        "$TAR | import - Bad",
        "not a tar | import - act/bad",
        "not a tar | load",
        "$EMPTYTAR | load",
        "$ARCHIVE | load",
        "$ARCHIVE | load -q",
        "run --rm act/loaded:1",
        "rmi act/imported act/changed:1 act/loaded:1",
        "load -i /nosuch/file",
        "import /nosuch/file",
    ],
    "pull": [
        "pull $REGISTRY/act/small",
        "pull $REGISTRY/act/small",
        "pull -q $REGISTRY/act/small:latest",
        "images --digests $REGISTRY/act/small",
        "pull $REGISTRY/act/small:nosuch",
        "pull $REGISTRY/act/nosuch",
        "pull $REGISTRY/act/small@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "pull Bad:Name",
        "run --rm $REGISTRY/act/small:latest",
        "rmi $REGISTRY/act/small",
        "run --rm $REGISTRY/act/small",
        "pull --platform linux/s390x $REGISTRY/act/multi",
        "pull --platform linux/arm64 $REGISTRY/act/multi",
        "pull --platform what/x/y/z $REGISTRY/act/multi",
        "rmi $REGISTRY/act/small $REGISTRY/act/multi",
        "pull 127.0.0.1:1/act/unreachable",
    ],
    "api": [
        "GET /_ping",
        "HEAD /_ping",
        "GET /v1.24/_ping",
        "GET /version",
        "GET /v1.40/version",
        "GET /info",
        "GET /v1.99/info",
        "GET /v1.20/info",
        "GET /nosuch",
        "POST /nosuch",
        "PUT /containers/json",
        "GET /plugins",
        "GET /swarm",
        "GET /nodes",
        "GET /services",
        "GET /tasks",
        "GET /secrets",
        "GET /configs",
        "POST /swarm/leave",
        "OPTIONS /version",
        "GET /volumes",
        "GET /networks/none",
        "POST /containers/create",
        "POST /containers/create {",
        "POST /containers/create {}",
        "POST /containers/create []",
        "POST /containers/create {\"Image\":5}",
        "POST /containers/create {\"Image\":\"\"}",
        "POST /containers/create {\"Image\":\"busybox\",\"Cmd\":\"a string\"}",
        "POST /containers/create {\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":\"many\"}}",
        "POST /containers/create {\"Image\":\"busybox\",\"HostConfig\":{\"Memory\":1}}",
        "POST /containers/create {\"Image\":\"nosuch\"}",
        "POST /containers/create {\"Image\":\"nosuch:tag\"}",
        "POST /containers/create?name=a {\"Image\":\"busybox\"}",
        "POST /containers/create?name=act/x {\"Image\":\"busybox\"}",
        "POST /containers/create?name=act-api {\"image\":\"busybox\",\"CMD\":[\"sleep\",\"300\"],\"unknown\":1,\"HostConfig\":null}",
        "POST /containers/create?name=act-api {\"Image\":\"busybox\"}",
        "POST /containers/create?name=/act-api2 {\"Image\":\"busybox\"}",
        "POST /containers/create?platform=linux/s390x {\"Image\":\"busybox\"}",
        "POST /containers/create?name=act-env {\"Image\":\"busybox\",\"Env\":[\"=x\"]}",
        "POST /containers/create?name=act-wd {\"Image\":\"busybox\",\"WorkingDir\":\"relative\"}",
        "POST /containers/create?name=act-hn {\"Image\":\"busybox\",\"Hostname\":\"-bad name\"}",
        "POST /containers/create?name=act-m {\"Image\":\"busybox\",\"HostConfig\":{\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/tmp\",\"Target\":\"\"}]}}",
        "POST /containers/create?name=act-m2 {\"Image\":\"busybox\",\"HostConfig\":{\"Binds\":[\"/tmp:/a\",\"/etc:/a\"]}}",
        "POST /containers/create?name=act-m3 {\"Image\":\"busybox\",\"HostConfig\":{\"Binds\":[\"/tmp:/\"]}}",
        "POST /containers/create?name=act-rm {\"Image\":\"busybox\",\"HostConfig\":{\"AutoRemove\":true,\"RestartPolicy\":{\"Name\":\"always\"}}}",
        "POST /containers/create?name=act-st {\"Image\":\"busybox\",\"StopTimeout\":-1}",
        "POST /containers/act-api/exec {\"Cmd\":[\"true\"]}",
        "GET /containers/act-api/json",
        "POST /containers/act-api/resize?h=10&w=10",
        "POST /containers/act-api/wait?condition=what",
        "GET /containers/act-api/logs",
        "GET /containers/act-api/logs?stdout=1&tail=what",
        "GET /containers/act-api/logs?stdout=1&since=what",
        "POST /containers/act-api/start {\"body\":\"too long\"}",
        "POST /containers/act-api/start",
        "POST /containers/act-api/start",
        "GET /containers/act-api/json",
        "GET /containers/json?limit=what",
        "GET /containers/json?filters=what",
        "GET /containers/json?filters={\"name\":[\"act-api\"]}",
        "POST /containers/act-api/exec {\"Cmd\":[]}",
        "POST /containers/act-api/exec {}",
        "POST /containers/act-api/exec {\"Cmd\":\"true\"}",
        "POST /containers/act-api/exec",
        "POST /containers/act-api/exec {\"Cmd\":[\"sh\",\"-c\",\"exit 4\"]}",
        "GET /exec/$LAST/json",
        "POST /containers/act-api/exec {\"Cmd\":[\"sh\",\"-c\",\"exit 4\"]}",
        "POST /exec/$LAST/start {\"Detach\":true}",
        "POST /exec/nosuch/start {\"Detach\":true}",
        "GET /exec/nosuch/json",
        "POST /exec/nosuch/resize?h=1&w=1",
        "POST /containers/act-api/resize?h=10&w=10",
        "POST /containers/act-api/resize?h=what&w=10",
        "POST /containers/act-api/kill?signal=what",
        "POST /containers/act-api/stop?t=what",
        "POST /containers/act-api/rename",
        "POST /containers/act-api/rename?name=act-api",
        "POST /containers/act-api/rename?name=act-api2",
        "POST /containers/act-api/attach",
        "POST /containers/nosuch/attach?stream=1",
        "GET /containers/nosuch/json",
        "GET /containers/nosuch/logs?stdout=1",
        "GET /containers/nosuch/top",
        "POST /containers/nosuch/start",
        "POST /containers/nosuch/stop",
        "POST /containers/nosuch/kill",
        "POST /containers/nosuch/restart",
        "POST /containers/nosuch/wait",
        "POST /containers/nosuch/pause",
        "POST /containers/nosuch/unpause",
        "POST /containers/nosuch/rename?name=x1",
        "POST /containers/nosuch/exec {\"Cmd\":[\"true\"]}",
        "POST /containers/nosuch/resize?h=1&w=1",
        "DELETE /containers/nosuch",
        "DELETE /containers/act-api",
        "POST /containers/act-api/stop?t=0",
        "POST /containers/act-api/stop?t=0",
        "POST /containers/act-api/kill",
        "POST /containers/act-api/wait",
        "DELETE /containers/act-api?force=1",
        "POST /images/create?fromImage=UPPER",
        "POST /images/create",
        "POST /images/create?fromSrc=-&repo=act/x&changes=WHAT",
        "POST /auth {\"username\":\"x\",\"password\":\"y\",\"serveraddress\":\"127.0.0.1:1\"}",
        "POST /auth {",
    ],
    "cli-without-engine-work": [
        "version --format '{{.Server.Os}} {{.Server.Arch}} {{.Server.APIVersion}} {{.Server.MinAPIVersion}}'",
        "info --format '{{.OSType}} {{.Architecture}} {{.Driver}} {{.LoggingDriver}} {{.CgroupDriver}} {{.DefaultRuntime}} {{.Swarm.LocalNodeState}} {{.LiveRestoreEnabled}}'",
        "info --format '{{json .RegistryConfig}}'",
        "info --format '{{json .SecurityOptions}} {{json .Plugins.Network}} {{json .Plugins.Volume}}'",
        "run",
        "run --nosuchflag busybox",
        "rm",
        "exec act1",
        "stop",
        "logs",
        "what",
        "container what",
        "create",
        "tag busybox",
        "rmi",
        "inspect",
        "pull",
        "run --rm -m what busybox",
        "run --rm -d --attach stdout busybox",
        "run --rm -e busybox",
        "run --rm --env-file /nosuch busybox",
        "run --rm --pull what busybox true",
        "run --rm --cidfile /etc/passwd busybox true",
        "run --rm -it busybox true",
        "exec -it act1 true",
    ],
}  # fmt: skip
"""Name of the act → its steps."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")

Outcome = dict[str, Any]


class Player:
    """Does steps on one engine, and writes down what came out with what changes from run to run taken out."""

    def __init__(self, client: Client, *, registry: str = "", inputs: dict[str, bytes] | None = None) -> None:
        self.client = client
        self.registry = registry
        self.inputs = inputs or {}
        self.last = ""
        self.started = time.time()

    def act(self, name: str) -> list[Outcome]:
        self.clear()
        self.started = time.time()
        try:
            return [self.step(step) for step in ACTS[name]]
        finally:
            self.clear()

    def clear(self) -> None:
        api = self.client.api
        for one in api("GET", '/containers/json?all=1&filters={"name":["^/?act"]}').json:
            api("DELETE", f"/containers/{one['Id']}?force=1&v=1")
        for one in api("GET", "/images/json").json:
            for tag in one["RepoTags"] or []:
                if tag.startswith("act/") or (self.registry and tag.startswith(f"{self.registry}/act/")):
                    api("DELETE", f"/images/{tag}?force=1")

    def step(self, step: str) -> Outcome:
        text = step.replace("$REGISTRY", self.registry).replace("$LAST", self.last)
        text = text.replace("$NOW", f"{time.time():.9f}").replace("$START", f"{self.started:.9f}")
        given = b""
        head, bar, rest = text.partition(" | ")
        if bar and not head.startswith(METHODS) and "'" not in head:
            given = self.inputs.get(head, head.encode() + b"\n")
            text = rest
        outcome = self.api(text) if text.split()[0] in METHODS else self.docker(text, given)
        return {"step": step, **outcome}

    def docker(self, text: str, given: bytes) -> Outcome:
        ran = self.client.docker(*shlex.split(text), input=given)
        self.last = ran.out.split()[0] if ran.out.split() else self.last
        return {"code": ran.code, "out": self.plain(ran.out), "err": self.plain(ran.err)}

    def api(self, text: str) -> Outcome:
        method, _, rest = text.partition(" ")
        path, _, body = rest.partition(" ")
        path = path.replace('"', "%22").replace("{", "%7B").replace("}", "%7D")
        headers = {"Content-Type": "application/json"} if body else None
        answer = self.client.api(method, path, body.encode() if body else None, headers=headers)
        kind = answer.headers.get("Content-Type", "")
        outcome: Outcome = {"status": answer.status, "type": kind}
        if kind.startswith("application/json") and answer.body:
            value = answer.json if answer.body.count(b"\n") < 2 else answer.lines
            if isinstance(value, dict) and isinstance(value.get("Id"), str):
                self.last = value["Id"]
            error = isinstance(value, dict) and list(value) == ["message"]
            outcome["body"] = self.plain(value["message"]) if error else shape(value)
        else:
            outcome["body"] = self.plain(answer.body.decode(errors="replace"))
        return outcome

    def plain(self, text: str) -> object:
        """`text` without ids, times, sizes and addresses; JSON becomes its shape."""
        if text.startswith(("[", "{")) and "\n" in text.strip():
            try:
                return shape(json.loads(text))
            except ValueError:
                pass
        if self.registry:
            text = text.replace(self.registry, "$REGISTRY")
        for pattern, replacement in VARYING:
            text = pattern.sub(replacement, text)
        return LAYERS.sub(lambda found: "".join(sorted(found[0].splitlines(keepends=True))), text)


LAYERS = re.compile(r"(<id12>: .*\n)+")
"""Progress of layers, which are pulled side by side."""


VARYING = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"\b[0-9a-f]{64}\b", "<id64>"),
        (r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{12}\b", "<id12>"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?( ?(Z|[+-]\d\d:?\d\d))?( UTC)?", "<time>"),
        (
            r"(Less than a second|About an? \w+|\d+ (second|minute|hour|day|week|month|year)s?)( ago)?\b",
            "<age>",
        ),
        (r"\b\d+(\.\d+)?[kMG]?B\b", "<size>"),
        (r"\b(172|198|10)\.\d+\.\d+\.\d+\b", "<ip>"),
        (r'"execDuration":"\d+"', '"execDuration":"<n>"'),
        (r"execDuration=\d+", "execDuration=<n>"),
        (r"^stop\ndie$", "die\nstop"),  # dockerd logs them in either order
        (r"^(<time> container stop .*\n)(<time> container die .*\n)", r"\2\1"),
        (r"(OCI runtime create failed: )(\S+ create failed: )?", r"\1"),  # the runtime's own name, or not
        (r"(OCI runtime .*): unknown$", r"\1"),  # containerd's class of error, which newer ones leave out
        (r"invalid JSON: .*", "invalid JSON: <why>"),  # Docker's tell of Go's types
        (
            r"<id12>: (Verifying Checksum|Download complete|Waiting|Downloading|Extracting)\n",
            "",
        ),  # seen or not, as time allows
        (r"(?m)^(PID .*\n)(\s*\d+ .*\n)+", r"\1<processes>\n"),
        (r"/var/tmp/[^ :\"']*|/run/wht[^ :\"']*", "<path>"),
        (r" {2,}", "  "),
        (r" +$", ""),
    )
]


def shape(value: object) -> object:
    """What kinds of values stand where, and not which."""
    if isinstance(value, dict):
        return {re.sub("[0-9a-f]{64}", "<id64>", str(k)): shape(v) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "null" if value is None else type(value).__name__
