"""Names of containers: what is allowed, and one to give when the user gives none."""

from __future__ import annotations

import random
import re

from wherry.errors import InvalidParameter

NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_HOW = (
    "amber brave breezy bright calm clever coastal cosy crisp daring eager early easy fair fleet fresh gallant gentle"
    " glad golden hardy hearty humble jolly keen kind lively lucky mellow merry misty modest nimble noble patient plain"
    " proud quick quiet rapid ready rosy salty sandy sharp shining silver snug spry steady still sturdy sunny swift"
    " tidal trim true warm willing windy wise witty young"
).split()
_WHAT = (
    "albatross anchor barge barnacle beacon boatswain bosun brig buoy capstan clipper compass cormorant coxswain cutter"
    " cygnet dinghy dolphin dory eider estuary ferry fjord frigate galley gannet grebe gull halyard harbour harpoon"
    " heron jetty kayak keel ketch kittiwake lagoon lantern lighthouse lobster lugger mariner mast mooring narwhal oar"
    " osprey otter paddle pelican petrel pier pilot pinnace plover porpoise puffin quay rudder sailor schooner seal"
    " sextant skerry skiff skipper sloop spinnaker starboard swan tern thwart tiller trawler walrus wharf wherry"
).split()


def check_name(name: str) -> str:
    """`name` without a leading slash. Docker's text, which tools show to people."""
    if not NAME.fullmatch(name):
        raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return name.removeprefix("/")


def suggest_name(attempt: int) -> str:
    """A name for a container nobody named; after a few attempts with a digit, which always ends."""
    name = f"{random.choice(_HOW)}_{random.choice(_WHAT)}"
    return name if attempt < 6 else f"{name}{random.randrange(10 * attempt)}"
