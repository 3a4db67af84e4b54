"""`python -m simulations.lab MODULE …`: a Python module, with the rights that the laboratory needs.

As root it is the module and nothing else; for others it runs inside a user namespace. Where that is refused
it says so and runs as it stands: `make test` goes on, and the tests that need more are skipped with a reason.
"""

from __future__ import annotations

import runpy
import sys

from simulations.lab import userns
from simulations.lab.errors import UnavailableError


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m simulations.lab MODULE [ARGUMENT …]")
    try:
        userns.reexec_in_user_namespace()
    except UnavailableError as reason:
        print(f"Without network namespaces: {reason}", file=sys.stderr)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
