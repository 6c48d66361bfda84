# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that ship with the package: the demo vmcore and how it was made."""
