"""Shell completion: the scripts for bash, zsh and fish, and the hidden command that answers them.

The scripts know nothing about commands. They run `wherry __complete WORD... CURRENT`, which prints one
candidate a line as `value TAB description`, after a first line that says whether file names are welcome too
(`:files`, `:none`). An engine that does not answer is no error: there are then no names to offer.
"""

from __future__ import annotations

from wherry.cli.commands import GROUPS, HIDDEN, LEAVES, load
from wherry.cli.flags import BOOL, Command, Options, find_long
from wherry.cli.session import PROGRAM, Exit, Session
from wherry.client.answers import items
from wherry.errors import WherryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.cli.flags import Row

    Candidates = list[tuple[str, str]]

SHELLS = ("bash", "fish", "zsh")

POSITIONAL: dict[str, str] = {
    "attach": "running",
    "commit": "containers",
    "container inspect": "containers",
    "create": "images",
    "diff": "containers",
    "exec": "running",
    "export": "containers",
    "history": "images",
    "image inspect": "images",
    "images": "images",
    "import": "files",
    "inspect": "anything",
    "kill": "running",
    "logs": "containers",
    "network connect": "networks",
    "network disconnect": "networks",
    "network graph": "networks",
    "network inspect": "networks",
    "network rm": "networks",
    "pause": "running",
    "port": "running",
    "rename": "containers",
    "restart": "containers",
    "rm": "containers",
    "rmi": "images",
    "run": "images",
    "save": "images",
    "start": "stopped",
    "stats": "running",
    "stop": "running",
    "tag": "images",
    "top": "running",
    "unpause": "paused",
    "update": "containers",
    "volume inspect": "volumes",
    "volume rm": "volumes",
    "mount add": "containers",
    "mount rm": "containers",
    "wait": "containers",
}
ONLY_FIRST = (
    "attach",
    "commit",
    "create",
    "diff",
    "exec",
    "export",
    "history",
    "images",
    "logs",
    "port",
    "rename",
    "run",
    "tag",
    "top",
    "import",
    "mount add",
    "mount rm",
)
VALUES: dict[str, tuple[str, ...]] = {
    "attach": ("stdin", "stdout", "stderr"),
    "cgroupns": ("host", "private"),
    "log-driver": ("json-file", "local", "none"),
    "network": ("bridge", "host", "none"),
    "pid": ("host",),
    "pull": ("always", "missing", "never"),
    "restart": ("no", "always", "on-failure", "unless-stopped"),
    "signal": ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"),
    "stop-signal": ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"),
    "driver": ("local",),
    "type": ("container", "image", "volume"),
    "userns": ("host",),
    "uts": ("host",),
    "format": ("json", "table"),
}
CAPABILITIES = tuple(
    [
        "ALL",
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ]
)
FILE_FLAGS = (
    "cidfile",
    "device",
    "env-file",
    "input",
    "label-file",
    "mount",
    "output",
    "svg",
    "volume",
    "config",
    "tlscacert",
    "tlscert",
    "tlskey",
)


def complete(session: Session, words: Sequence[str]) -> tuple[bool, Candidates]:
    """Whether file names are welcome, and the candidates for the last of the words."""
    from wherry.cli.dispatch import GLOBAL_ROWS

    *before, current = words or ("",)
    at, pending = _skip_flags(GLOBAL_ROWS, before, 0)
    if pending is not None:
        return _flag_value(session, pending, current)
    if at == len(before):
        if current.startswith("-"):
            return False, _flags(GLOBAL_ROWS, current)
        return False, _matching(_top_level(), current)
    name = before[at]
    if name in GROUPS:
        at += 1
        members = GROUPS[name][1]
        if at == len(before):
            shown = [(member, LEAVES[leaf][1]) for member, leaf in members.items() if member not in HIDDEN]
            return False, _matching(shown, current)
        leaf = members.get(before[at], "")
    else:
        leaf = name
    if leaf not in LEAVES:
        return False, []
    return _complete_leaf(session, leaf, load(leaf), before[at + 1 :], current)


def _complete_leaf(
    session: Session, leaf: str, command: Command, before: Sequence[str], current: str
) -> tuple[bool, Candidates]:
    positional = 0
    at = 0
    while True:
        at, pending = _skip_flags(command.rows, before, at)
        if pending is not None:
            return _flag_value(session, pending, current)
        if at >= len(before):
            break
        positional += 1
        at += 1
        if not command.interspersed:
            positional += len(before) - at
            break
    if current.startswith("-") and (command.interspersed or not positional):
        name, equals, value = current[2:].partition("=")
        row = find_long(command.rows, name) if equals else None
        if row is not None:
            files, found = _flag_value(session, row, value)
            return files, [(f"--{name}={text}", about) for text, about in found]
        return False, _flags(command.rows, current)
    if leaf == "completion":
        return False, _matching([(shell, "") for shell in SHELLS], current)
    wanted = POSITIONAL.get(leaf, "")
    if leaf in ("network connect", "network disconnect") and positional:
        wanted = "containers" if positional == 1 else ""
    if positional and leaf in ONLY_FIRST:
        return wanted != "images" or leaf in ("run", "create"), []
    return wanted == "files", _matching(_names(session, wanted), current)


def _skip_flags(rows: Sequence[Row], words: Sequence[str], at: int) -> tuple[int, Row | None]:
    """Past the flags at `at`; and the flag whose value is still to come, if any."""
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        at += 1
        if word.startswith("--"):
            row = None if "=" in word else find_long(rows, word[2:])
        else:
            row = next((row for row in rows if row[1] == word[-1]), None) if "=" not in word else None
            first = next((row for row in rows if row[1] == word[1]), None)
            if first is not None and not first[2].is_switch and len(word) > 2:
                row = None  # -eNAME
        if row is not None and not row[2].is_switch:
            if at == len(words):
                return at, row
            at += 1
    return at, None


def _flags(rows: Sequence[Row], current: str) -> Candidates:
    found = [(f"--{row[0]}", row[3].split("\n")[0]) for row in rows if row[3]]
    found.append(("--help", "Print usage"))
    return _matching(sorted(found), current)


def _flag_value(session: Session, row: Row, current: str) -> tuple[bool, Candidates]:
    name = row[0]
    if name == "network":
        return False, _matching(
            _names(session, "networks") or [(value, "") for value in VALUES[name]], current
        )
    if name in ("cap-add", "cap-drop"):
        return False, _matching([(value, "") for value in CAPABILITIES], current)
    if row[2] is BOOL:
        return False, _matching([("true", ""), ("false", "")], current)
    return name in FILE_FLAGS, _matching([(value, "") for value in VALUES.get(name, ())], current)


def _top_level() -> Candidates:
    leaves = [(name, text) for name, (_, text) in LEAVES.items() if " " not in name and name not in HIDDEN]
    return sorted(leaves + [(name, short) for name, (short, _) in GROUPS.items()])


def _matching(candidates: Candidates, current: str) -> Candidates:
    return [candidate for candidate in candidates if candidate[0].startswith(current)]


STATES = {
    "running": ("running", "paused"),
    "paused": ("paused",),
    "stopped": ("created", "exited", "dead"),
}


def _names(session: Session, wanted: str) -> Candidates:
    """Names that the engine knows. The engine is never started for this."""
    found: Candidates = []
    try:
        client = session.another_client()
        if wanted in ("containers", "anything", *STATES):
            for item in client.get("/containers/json", (("all", "1"),)):
                if wanted not in STATES or item.get("State") in STATES[wanted]:
                    about = f"{item.get('Image', '')} {item.get('Status', '')}"
                    found += [(name.removeprefix("/"), about) for name in items(item, "Names")]
        if wanted in ("networks", "anything"):
            for item in client.get("/networks"):
                found.append((item.get("Name", ""), f"{item.get('Driver', '')} network"))
        if wanted in ("volumes", "anything"):
            found += [(volume["Name"], "volume") for volume in items(client.get("/volumes"), "Volumes")]
        if wanted in ("images", "anything"):
            for item in client.get("/images/json"):
                found += [(tag, "image") for tag in items(item, "RepoTags") if tag != "<none>:<none>"]
    except (WherryError, OSError):
        pass
    return sorted(found)


def _answer(session: Session, options: Options, arguments: list[str]) -> int:
    files, found = complete(session, arguments)
    session.out(":files\n" if files else ":none\n")
    session.out("".join(f"{value}\t{about}\n" for value, about in found))
    return 0


def _print_script(session: Session, options: Options, arguments: list[str]) -> int:
    if arguments[0] not in SHELLS:
        raise Exit(1, f"{PROGRAM}: no completion for {arguments[0]!r}: use bash, zsh or fish")
    session.out({"bash": BASH, "fish": FISH, "zsh": ZSH}[arguments[0]])
    return 0


BASH = r"""# bash completion for wherry: source <(wherry completion bash)
_wherry() {
    local cur line kind="" words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    cur="${COMP_WORDS[COMP_CWORD]}"
    if declare -F _get_comp_words_by_ref >/dev/null; then
        local cword
        _get_comp_words_by_ref -n "=:@" -c cur -w words -i cword
        words=("${words[@]:1:cword}")
    fi
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        if [[ -z $kind ]]; then kind=$line; continue; fi
        COMPREPLY+=("$line")
    done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
    if [[ $kind == :files && ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "$cur"
    fi
}
complete -F _wherry wherry
"""

ZSH = r"""#compdef wherry
# zsh completion for wherry: wherry completion zsh > "${fpath[1]}/_wherry"
_wherry() {
    local line kind="" value about
    local -a found
    while IFS= read -r line; do
        if [[ -z $kind ]]; then kind=$line; continue; fi
        value=${line%%$'\t'*}
        about=${line#*$'\t'}
        found+=("${value//:/\\:}:${about}")
    done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( ${#found} )) && _describe 'wherry' found
    [[ $kind == :files ]] && (( ! ${#found} )) && _files
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _wherry "$@"
else
    compdef _wherry wherry
fi
"""

FISH = r"""# fish completion for wherry: wherry completion fish > ~/.config/fish/completions/wherry.fish
function __wherry_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    if test "$found[1]" = :files -a (count $found) -eq 1
        __fish_complete_path "$current"
        return
    end
    printf '%s\n' $found[2..-1]
end
complete -c wherry -f -a '(__wherry_complete)'
"""

COMMANDS = {
    "completion": Command(
        _print_script,
        "bash|zsh|fish",
        (1, 1),
        examples="""
source <(wherry completion bash)                                       this shell
wherry completion bash > /etc/bash_completion.d/wherry                 every shell
wherry completion fish > ~/.config/fish/completions/wherry.fish
""",
    ),
    "__complete": Command(_answer, "", (0, None), interspersed=False),
}
