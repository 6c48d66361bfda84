# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_tools``, and where the command ``drgn-tools`` starts."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ("main",)

_COMMANDS_OF_THE_REPL = ("builtin_commands", "crash_commands", "encoded_stacks")
"""Plugins, drgn's and ours, that do nothing but add % commands."""
_GC_THRESHOLD = 100_000


def main() -> int:
    """Run the command line of the process; its exit code."""
    # Importing takes long enough for a Ctrl-C to hit it.
    try:
        _start_quickly()
        from .commands.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 128 + 2
    finally:
        if "duckdb" not in sys.modules:  # which takes for leaked what is not collected
            gc.freeze()  # all memory goes back at once: nobody needs what is garbage in it


def _start_quickly() -> None:
    # Half of a short run would go into modules of commands that nobody can type
    # here, and into looking for garbage among records, which refer to no cycles.
    gc.set_threshold(_GC_THRESHOLD)
    if "shell" not in sys.argv:
        said = os.environ.get("DRGN_DISABLE_PLUGINS")
        if said != "*":
            names = (*filter(None, [said]), *_COMMANDS_OF_THE_REPL)
            os.environ["DRGN_DISABLE_PLUGINS"] = ",".join(names)


if __name__ == "__main__":
    sys.exit(main())
