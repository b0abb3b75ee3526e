"""Entry of the package and, copied beside it by `bundle`, of the directory that sandboxes are started from."""

import sys

from agent_runtime.entry import main

sys.exit(main(sys.argv[1:]))
