"""`python -m wherry.files FD`: the helper, spawned by the daemon; FD is its control socket."""

import sys

from wherry.files.helper import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
