# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Python API, and questions that finished records answer.

Audit a kernel, resolve a task, select, sort, group and compare records, and the fields of a record
as data (JSON, CSV, Parquet). A new question (which tasks hold a live patch back?) is a file here.
"""
