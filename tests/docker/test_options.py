"""Each option of `docker run` does what it says: the container itself is asked."""

from __future__ import annotations

import re

import pytest

from tests.docker.engine import Engine

# name of the case: options, command in the container, what it writes (an exact text, or a pattern when it is compiled)
CASES: dict[str, tuple[list[str], str, str | re.Pattern[str]]] = {
    "hostname": (["--hostname", "web"], "hostname; cat /proc/sys/kernel/hostname", "web\nweb"),
    "hostname-in-hosts": (["--hostname", "web"], "tail -n1 /etc/hosts", re.compile(r"[0-9.]+\s+web")),
    "domainname": (["--hostname", "web", "--domainname", "example.org"], "cat /proc/sys/kernel/domainname", "example.org"),
    "env": (["-e", "A=1", "-e", "B=two words"], 'echo "$A $B"', "1 two words"),
    "env-overrides": (["-e", "PATH=/bin:/x"], "echo $PATH", "/bin:/x"),
    "env-default-path": ([], "env | grep ^PATH", re.compile("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin.*")),
    "env-hostname-home": (["--hostname", "h1"], "echo $HOSTNAME $HOME", "h1 /root"),
    "workdir": (["-w", "/tmp"], "pwd", "/tmp"),
    "workdir-made": (["-w", "/a/b/c"], "pwd", "/a/b/c"),
    "user-id": (["-u", "1234:2345"], "id -u; id -g", "1234\n2345"),
    "user-name": (["-u", "guest"], "id -u; id -g; id -G", "405\n100\n100 50"),
    "user-name-group": (["-u", "guest:staff"], "id -u; id -g", "405\n50"),
    "group-add": (["--group-add", "staff", "--group-add", "777"], "id -G", re.compile("0 .*50.* 777|0 .*777.* 50")),
    "read-only": (["--read-only"], "touch /x 2>&1 || true", re.compile("touch: /x: Read-only file system")),
    "read-only-dev-writable": (["--read-only"], "echo x >/dev/null && echo ok", "ok"),
    "tmpfs": (["--tmpfs", "/run:size=1m"], "grep ' /run ' /proc/mounts", re.compile("tmpfs /run tmpfs .*nosuid.*nodev.*noexec.*size=1024k.*")),
    "mount-tmpfs": (["--mount", "type=tmpfs,dst=/t,tmpfs-size=2097152,tmpfs-mode=0700"], "grep ' /t ' /proc/mounts; stat -c %a /t", re.compile("tmpfs /t tmpfs .*size=2048k.*\n700")),
    "shm-size": (["--shm-size", "7m"], "df -k /dev/shm | tail -n1 | awk '{print $2}'", "7168"),
    "shm-default": ([], "df -k /dev/shm | tail -n1 | awk '{print $2}'", "65536"),
    "ulimit": (["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn", "100\n200"),
    "pids-limit": (["--pids-limit", "17"], "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max", "17"),
    "memory": (["--memory", "32m"], "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max", "33554432"),
    "cpus": (["--cpus", "0.5"], "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max", "50000"),
    "cap-default": ([], "grep CapEff /proc/self/status", "CapEff:\t00000000a80425fb"),
    "cap-drop-all": (["--cap-drop", "ALL"], "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000"),
    "cap-drop-one": (["--cap-drop", "CHOWN"], "chown guest /tmp 2>&1 || true", "chown: /tmp: Operation not permitted"),
    "cap-add": (["--cap-add", "NET_ADMIN", "--cap-drop", "ALL"], "grep CapEff /proc/self/status", "CapEff:\t0000000000001000"),
    "cap-user": (["-u", "guest"], "grep CapEff /proc/self/status; grep CapBnd /proc/self/status", "CapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb"),
    "seccomp": ([], "grep Seccomp: /proc/self/status", "Seccomp:\t2"),
    "privileged-seccomp": (["--privileged"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    "privileged-devices": (["--privileged"], "ls /dev | wc -l", re.compile(r"[2-9]\d+|1\d\d+")),
    "privileged-sys-writable": (["--privileged"], "grep ' /sys ' /proc/mounts", re.compile("sysfs /sys sysfs rw.*")),
    "security-unconfined": (["--security-opt", "seccomp=unconfined"], "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
    "no-new-privileges": (["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
    "sys-read-only": ([], "grep ' /sys ' /proc/mounts", re.compile("sysfs /sys sysfs ro,.*")),
    "masked": ([], "cat /proc/keys /proc/timer_list /proc/sched_debug 2>/dev/null | wc -c; ls /sys/firmware | wc -l", "0\n0"),
    "read-only-paths": ([], "(echo x >/proc/sys/kernel/hostname) 2>&1 || true; grep -c ' /proc/sys ' /proc/mounts", re.compile(".*Read-only file system\n1")),
    "device": (["--device", "/dev/full:/dev/mine:rw"], "ls -l /dev/mine | cut -c1-10; echo x 2>&1 >/dev/mine || true", re.compile("crw.*\n.*No space left on device")),
    "device-refused": ([], "mknod /tmp/d b 7 0 && cat /tmp/d 2>&1 || true", re.compile(".*Operation not permitted")),
    "devices-default": ([], "ls /dev | tr '\\n' ' '", re.compile("(console )?(core )?fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero ")),
    "sysctl": (["--sysctl", "net.ipv4.ip_forward=0", "--sysctl", "kernel.msgmax=9000"], "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax", "0\n9000"),
    "init": (["--init"], "cat /proc/1/comm", re.compile("docker-init|wherry-init|tini")),
    "init-child": (["--init"], "echo $$", re.compile("[1-9][0-9]*")),
    "pid-1": ([], "echo $$; ls -d /proc/[0-9]* | wc -l", re.compile("1\n[1-4]")),
    "network-none": (["--network", "none"], "ls /sys/class/net", "lo"),
    "network-bridge": ([], "ls /sys/class/net; ip route | head -n1", re.compile(r"eth0\nlo\ndefault via [0-9.]+ dev eth0 ?")),
    "entrypoint": (["--entrypoint", "/bin/echo"], "", "-c"),
    "label": (["-l", "a=b"], "true", ""),
    "mounts-read-only-root-of-hosts": ([], "awk '$2 ~ \"^/etc/\" {print $2}' /proc/mounts | sort | tr '\\n' ' '", "/etc/hostname /etc/hosts /etc/resolv.conf "),
    "resolv-conf": ([], "test -s /etc/resolv.conf && echo there", "there"),
    "stdin-closed": ([], "cat; echo end", "end"),
    "umask": ([], "umask", "0022"),
    "descriptors": ([], "ls /proc/self/fd | tr '\\n' ' '", re.compile("0 1 2 3 ")),
    "cgroupns-private": (["--cgroupns", "private"], "readlink /proc/self/ns/cgroup", re.compile(r"cgroup:\[\d+\]")),
    "mount-proc": ([], "grep ' /proc ' /proc/mounts", re.compile("proc /proc proc rw,nosuid,nodev,noexec,relatime.*")),
    "mount-devpts": ([], "grep ' /dev/pts ' /proc/mounts", re.compile("devpts /dev/pts devpts rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666.*")),
    "mount-dev": ([], "grep ' /dev ' /proc/mounts", re.compile("tmpfs /dev tmpfs rw,nosuid,.*size=65536k,mode=755.*")),
    "mount-mqueue": ([], "grep ' /dev/mqueue ' /proc/mounts", re.compile("mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec,relatime.*")),
    "mount-shm": ([], "grep ' /dev/shm ' /proc/mounts", re.compile("shm /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=65536k.*")),
    "mount-root": ([], "grep ' / ' /proc/mounts | cut -d' ' -f3", re.compile("overlay|ext4|.+")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_option(engine: Engine, case: str) -> None:
    options, command, wanted = CASES[case]
    line = engine.docker("run", "--rm", *options, "busybox", *(["sh"] if "--entrypoint" not in options else []), "-c", *([command] if command else [])).ok().line  # fmt: skip
    if isinstance(wanted, str):
        assert line == wanted
    else:
        assert wanted.fullmatch(line), line
