# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m drgn_tools``, and where the command ``drgn-tools`` starts."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ("main",)

_PLUGINS_OF_REPL_COMMANDS = ("builtin_commands", "crash_commands", "encoded_stacks")
"""Plugins of drgn and ours that only add % commands."""
_GC_THRESHOLD = 100_000


def main() -> int:
    """Run the command line of the process.

    :return: The exit code.
    """
    # The imports take long enough for a Ctrl-C to come meanwhile.
    try:
        _start_quickly()
        from .commands.main import main as run

        return run()
    except KeyboardInterrupt:
        return 128 + 2
    finally:
        # The process ends, so collecting garbage is a waste of time. duckdb takes objects that
        # were not collected for leaked ones.
        if "duckdb" not in sys.modules:
            gc.freeze()


def _start_quickly() -> None:
    # Half the time of a short run would go into importing % commands, which nobody can type here,
    # and into looking for garbage among records, which are in no reference cycles.
    gc.set_threshold(_GC_THRESHOLD)
    if "shell" not in sys.argv:
        disabled = os.environ.get("DRGN_DISABLE_PLUGINS")
        if disabled != "*":
            names = (*filter(None, [disabled]), *_PLUGINS_OF_REPL_COMMANDS)
            os.environ["DRGN_DISABLE_PLUGINS"] = ",".join(names)


if __name__ == "__main__":
    sys.exit(main())
