# SPDX-License-Identifier: LGPL-2.1-or-later
"""The entry point of ``python -m drgn_tools`` and of the command ``drgn-tools``."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ("main",)

_PLUGINS_OF_REPL_COMMANDS = ("builtin_commands", "crash_commands", "encoded_stacks")
"""Plugins, drgn's and ours, that only add % commands."""
_GC_THRESHOLD = 100_000
"""Number of new objects after which Python looks for garbage; its default is far lower."""


def main() -> int:
    """Run the command line of this process.

    :return: The exit code
    """
    # A Ctrl-C may come during the imports, which take a while.
    try:
        _start_quickly()
        from .commands.main import main as run

        return run()
    except KeyboardInterrupt:
        return 128 + 2
    finally:
        # The process ends, so there is no need to collect garbage. But duckdb reports objects
        # that were not collected as leaks.
        if "duckdb" not in sys.modules:
            gc.freeze()


def _start_quickly() -> None:
    # A short run would spend half of its time on two things that it does not need: importing the
    # % commands, which only a shell has, and looking for garbage among records, which are not in
    # reference cycles.
    gc.set_threshold(_GC_THRESHOLD)
    if "shell" not in sys.argv:
        disabled = os.environ.get("DRGN_DISABLE_PLUGINS")
        if disabled != "*":
            names = (*filter(None, [disabled]), *_PLUGINS_OF_REPL_COMMANDS)
            os.environ["DRGN_DISABLE_PLUGINS"] = ",".join(names)


if __name__ == "__main__":
    sys.exit(main())
