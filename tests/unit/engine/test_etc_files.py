from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.engine import etc_files
from wherry.engine.etc_files import HostLine, extra_hosts, hosts_text, own_names, resolv_conf_text
from wherry.network.dns.resolv_conf import parse, servers_for

HOST = parse(
    "# a comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2 # inside\nnameserver fe80::1%eth0\nnameserver ?\n"
    "search lan corp\noptions edns0\nsortlist 10.0.0.0\n"
)
NOTHING = {"servers": (), "search": (), "options": ()}


def body(text: str) -> list[str]:
    """The lines that are no comments."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def comments(text: str) -> str:
    return text.partition("\n# Based on")[2]


def test_hosts() -> None:
    lines = extra_hosts(
        ["db:10.0.0.1", "me:host-gateway", "six=[fd00::1]", "v6:fd00::2"], ["172.17.0.1", "fd00::9"]
    )
    text = hosts_text([*lines, HostLine(address="172.17.0.2", names=own_names("web", "lan"))])
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.endswith(
        "10.0.0.1\tdb\n172.17.0.1\tme\nfd00::9\tme\nfd00::1\tsix\nfd00::2\tv6\n172.17.0.2\tweb.lan web\n"
    )


def test_a_host_name_with_dots_has_a_short_form() -> None:
    assert [own_names("a.b.c", ""), own_names("a", "b.c"), own_names("a", "")] == ["a.b.c a", "a.b.c a", "a"]


def test_on_the_default_network_servers_that_cannot_be_reached_are_left_out() -> None:
    text = resolv_conf_text(HOST, **NOTHING, has_names=False)
    assert body(text) == ["nameserver 10.0.0.2", "search lan corp", "options edns0", "sortlist 10.0.0.0"]
    assert (
        comments(text)
        == " host file: '/etc/resolv.conf' (legacy)\n# Invalid nameservers: [?]\n# Overrides: []\n"
    )


def test_where_none_is_left_dockers_are_used() -> None:
    text = resolv_conf_text(parse("nameserver ::1\n"), **NOTHING, has_names=False)
    assert body(text) == ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]
    assert "# Used default nameservers.\n" in text
    assert "2001:4860:4860::8888" in resolv_conf_text(parse(""), **NOTHING, has_names=False, has_ipv6=True)


def test_on_the_hosts_network_its_own_servers_are_good() -> None:
    text = resolv_conf_text(HOST, **{**NOTHING, "options": ["x"]}, has_names=False, is_on_host=True)
    assert body(text)[0] == "nameserver 127.0.0.53"
    assert "options x" in text
    assert "# Based on host file: '/etc/resolv.conf'\n" in text


def test_with_names_all_is_asked_of_the_name_service() -> None:
    text = resolv_conf_text(HOST, **NOTHING, has_names=True)
    assert body(text) == [
        "nameserver 127.0.0.11",
        "search lan corp",
        "options edns0 ndots:0",
        "sortlist 10.0.0.0",
    ]
    assert comments(text) == (
        " host file: '/etc/resolv.conf' (internal resolver)\n"
        "# ExtServers: [host(127.0.0.53) 10.0.0.2 host(fe80::1%eth0)]\n"
        "# Invalid nameservers: [?]\n# Overrides: []\n# Option ndots from: internal\n"
    )


def test_what_the_user_chose_comes_in_the_hosts_place() -> None:
    chosen = {"servers": ["127.0.0.1", "1.1.1.1"], "search": ["."], "options": ["ndots:3"]}
    text = resolv_conf_text(HOST, **chosen, has_names=True)
    assert body(text) == ["nameserver 127.0.0.11", "options ndots:3", "sortlist 10.0.0.0"]
    assert comments(text) == (
        " host file: '/etc/resolv.conf' (internal resolver)\n"
        "# ExtServers: [127.0.0.1 1.1.1.1]\n# Overrides: [nameservers search options]\n# Option ndots from: override\n"
    )
    legacy = resolv_conf_text(HOST, **chosen, has_names=False)
    assert body(legacy)[:2] == ["nameserver 127.0.0.1", "nameserver 1.1.1.1"]


@pytest.mark.parametrize("bad", ["ndots:x", "ndots:-1", "ndots:", "ndots"])
def test_an_ndots_that_is_no_number_is_replaced(bad: str) -> None:
    text = resolv_conf_text(HOST, **{**NOTHING, "options": [bad]}, has_names=True)
    assert "options ndots:0\n" in text


def test_without_servers_dockers_are_asked() -> None:
    assert [s.address for s in servers_for(parse(""), (), has_ipv6=False)] == ["8.8.8.8", "8.8.4.4"]
    assert len(servers_for(parse(""), (), has_ipv6=True)) == 4


def test_a_v6_server_is_asked_from_where_there_is_ipv6() -> None:
    conf = parse("nameserver fd00::1\n")
    assert [s.on_host for v6 in (False, True) for s in servers_for(conf, (), has_ipv6=v6)] == [True, False]


@given(st.text(max_size=300))
def test_any_host_file_gives_some_file(text: str) -> None:
    for has_names in (False, True):
        assert body(resolv_conf_text(parse(text), **NOTHING, has_names=has_names))[0].startswith(
            "nameserver "
        )


LINE = HostLine(address="10.0.0.2", names="web.lan web")


def test_only_that_line_goes() -> None:
    text = "10.0.0.2\tweb.lan web\n10.0.0.2\tweb.lan web2\n# 10.0.0.2\tweb.lan web\n10.0.0.2\tweb.lan web"
    assert etc_files.without_line(text, LINE) == "10.0.0.2\tweb.lan web2\n# 10.0.0.2\tweb.lan web\n"


def test_lines_by_their_first_name() -> None:
    text = "10.0.0.2\tstore db1 db\n10.0.0.3\tstore2 x\n10.0.0.4\tx store\n"
    assert etc_files.with_address(text, "store", "10.0.0.9") == text.replace("10.0.0.2", "10.0.0.9")
    assert etc_files.without_name(text, "store") == "10.0.0.3\tstore2 x\n10.0.0.4\tx store\n"


def test_files_keep_their_inode_and_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(b"caf\xe9 \xff\n")
    inode = path.stat().st_ino
    text = etc_files.read_file(str(path))
    assert text is not None
    etc_files.write_in_place(str(path), text + str(LINE))
    assert path.read_bytes() == b"caf\xe9 \xff\n10.0.0.2\tweb.lan web\n"
    assert path.stat().st_ino == inode


def test_a_link_is_not_followed_and_a_long_file_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("x" * 11)
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic"):
        etc_files.write_in_place(str(link), "")
    assert etc_files.read_file(str(link)) is None
    monkeypatch.setattr(etc_files, "MAX_BYTES", 10)
    assert etc_files.read_file(str(target)) is None
