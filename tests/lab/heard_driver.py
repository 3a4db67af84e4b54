"""`zeqnode` that also writes down which vouchers it heard to be kept, outside of its state:

    python heard_driver.py FILE WORDS…      a line for each: the tunnel's id in hex, the voucher's sequence

What a killed node knew is gone with it; this line was written before the node did anything with it.
"""

from __future__ import annotations

import os
import sys

from node.cli import main
from node.settlement.payer import PayerSide
from node.settlement.wire import Kept


def write_down(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    on_kept = PayerSide.on_kept

    def heard(side: PayerSide, note: Kept, now_us: int) -> None:
        os.write(file, f"{note.tunnel_id.hex()} {note.sequence}\n".encode())
        on_kept(side, note, now_us)

    PayerSide.on_kept = heard  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    write_down(sys.argv.pop(1))
    sys.exit(main())
