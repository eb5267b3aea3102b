"""Every command's name, the module that holds it, and its one line of help.

Nothing is imported from here until a command is chosen: `load` brings in one module. Management commands
(`wherry container ls`) are second names of the same commands.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.cli.flags import Command

LEAVES: dict[str, tuple[str, str]] = {
    "attach": ("attach", "Attach local standard input, output, and error streams to a running container"),
    "commit": ("containers", "Create a new image from a container's changes"),
    "completion": ("completion", "Generate the autocompletion script for the specified shell"),
    "create": ("run", "Create a new container"),
    "diff": ("containers", "Inspect changes to files or directories on a container's filesystem"),
    "events": ("events", "Get real time events from the server"),
    "exec": ("exec", "Execute a command in a running container"),
    "export": ("transfer", "Export a container's filesystem as a tar archive"),
    "history": ("images", "Show the history of an image"),
    "images": ("images", "List images"),
    "import": ("transfer", "Import the contents from a tarball to create a filesystem image"),
    "info": ("system", "Display system-wide information"),
    "inspect": ("inspect", "Return low-level information on wherry objects"),
    "kill": ("containers", "Kill one or more running containers"),
    "load": ("transfer", "Load an image from a tar archive or STDIN"),
    "logs": ("logs", "Fetch the logs of a container"),
    "pause": ("containers", "Pause all processes within one or more containers"),
    "port": ("containers", "List port mappings or a specific mapping for the container"),
    "ps": ("ps", "List containers"),
    "pull": ("transfer", "Download an image from a registry"),
    "rename": ("containers", "Rename a container"),
    "restart": ("containers", "Restart one or more containers"),
    "rm": ("containers", "Remove one or more containers"),
    "rmi": ("images", "Remove one or more images"),
    "run": ("run", "Create and run a new container from an image"),
    "save": ("transfer", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "start": ("attach", "Start one or more stopped containers"),
    "stats": ("stats", "Display a live stream of container(s) resource usage statistics"),
    "stop": ("containers", "Stop one or more running containers"),
    "tag": ("images", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "top": ("containers", "Display the running processes of a container"),
    "unpause": ("containers", "Unpause all processes within one or more containers"),
    "update": ("update", "Update configuration of one or more containers"),
    "version": ("system", "Show the wherry version information"),
    "wait": ("containers", "Block until one or more containers stop, then print their exit codes"),
    "container inspect": ("inspect", "Display detailed information on one or more containers"),
    "container prune": ("prune", "Remove all stopped containers"),
    "image inspect": ("inspect", "Display detailed information on one or more images"),
    "image prune": ("prune", "Remove unused images"),
    "network connect": ("network", "Connect a container to a network"),
    "network create": ("network", "Create a network"),
    "network disconnect": ("network", "Disconnect a container from a network"),
    "network graph": ("network_graph", "Show networks and containers as text or as a picture"),
    "network inspect": ("network", "Display detailed information on one or more networks"),
    "network ls": ("network", "List networks"),
    "network prune": ("network", "Remove all unused networks"),
    "network rm": ("network", "Remove one or more networks"),
    "volume create": ("volumes", "Create a volume"),
    "volume inspect": ("inspect", "Display detailed information on one or more volumes"),
    "volume ls": ("volumes", "List volumes"),
    "volume prune": ("volumes", "Remove unused local volumes"),
    "volume rm": ("volumes", "Remove one or more volumes"),
    "mount add": ("volumes", "Mount a directory or volume in a container that exists, running or not"),
    "mount rm": ("volumes", "Take a directory or volume from a container"),
    "system df": ("diskusage", "Show wherry disk usage"),
    "system dial-stdio": ("system", "Proxy the stdio stream to the daemon connection"),
    "__complete": ("completion", "Answer a shell's question for completions"),
}

SAME_IN_CONTAINER = tuple(
    [
        "attach",
        "commit",
        "create",
        "diff",
        "exec",
        "export",
        "kill",
        "logs",
        "pause",
        "port",
        "rename",
        "restart",
        "rm",
        "run",
        "start",
        "stats",
        "stop",
        "top",
        "unpause",
        "update",
        "wait",
    ]
)

GROUPS: dict[str, tuple[str, dict[str, str]]] = {
    "container": (
        "Manage containers",
        {
            **dict(zip(SAME_IN_CONTAINER, SAME_IN_CONTAINER, strict=True)),
            "inspect": "container inspect",
            "ls": "ps",
            "prune": "container prune",
            "list": "ps",
            "ps": "ps",
            "remove": "rm",
        },
    ),
    "image": (
        "Manage images",
        {
            "history": "history",
            "import": "import",
            "inspect": "image inspect",
            "load": "load",
            "ls": "images",
            "prune": "image prune",
            "pull": "pull",
            "rm": "rmi",
            "save": "save",
            "tag": "tag",
            "list": "images",
            "remove": "rmi",
        },
    ),
    "network": (
        "Manage networks",
        {
            "connect": "network connect",
            "create": "network create",
            "disconnect": "network disconnect",
            "graph": "network graph",
            "inspect": "network inspect",
            "ls": "network ls",
            "prune": "network prune",
            "rm": "network rm",
            "list": "network ls",
            "remove": "network rm",
        },
    ),
    "mount": (
        "Manage the mounts of containers",
        {"add": "mount add", "rm": "mount rm", "remove": "mount rm"},
    ),
    "volume": (
        "Manage volumes",
        {
            "create": "volume create",
            "inspect": "volume inspect",
            "ls": "volume ls",
            "prune": "volume prune",
            "rm": "volume rm",
            "list": "volume ls",
            "remove": "volume rm",
        },
    ),
    "system": (
        "Manage wherry",
        {
            "df": "system df",
            "events": "events",
            "info": "info",
            "dial-stdio": "system dial-stdio",
        },
    ),
}

COMMON = ("run", "exec", "ps", "pull", "images", "version", "info")
HIDDEN = ("__complete", "dial-stdio", "list", "remove")
"""Names that work and are not shown: second spellings, and what only programs call."""


def load(leaf: str) -> Command:
    """Import a command's module and give the command."""
    # not importlib: it would bring in warnings for nothing
    module = __import__(f"wherry.cli.{LEAVES[leaf][0]}", fromlist=("COMMANDS",))
    commands: dict[str, Command] = module.COMMANDS
    return commands[leaf]


def names_of(leaf: str) -> list[str]:
    """Every full name of a command, `container ls` before `ps`, as docker lists aliases."""
    names = [
        f"{group} {name}"
        for group, (_, members) in GROUPS.items()
        for name, target in members.items()
        if target == leaf
    ]
    if " " not in leaf and names:
        names.append(leaf)
    return names
