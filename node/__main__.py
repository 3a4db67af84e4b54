"""`python -m node` is `zeqnode`."""

import sys

from node.cli import main

sys.exit(main())
