# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a machine is: registers, entry code, stacks of a CPU, machine code, and tables for unwinding.

A folder for each family of machines, an Arch (base.py) for each word size, a line in registry.py and
machines.py. Formats that only one machine has (ORC tables, page tables) belong here, too.
"""
