# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unwinders, each a Walker (base.py), and the recovery of rewritten return addresses.

A walker takes the bytes of a stack and returns steps; it never raises for bad data. The tables that a
walker reads are with the machine, in arch/.
"""
