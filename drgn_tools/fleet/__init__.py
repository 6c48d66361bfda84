# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many kernels: audits of a fleet on Dask, one dataset of Parquet files, its report.

From a command line to a picture, each part using those below it:

    command, arguments, progress       what was asked for, and what a person sees of it
    report, report_tables, page*       a dataset -> tables, an HTML page; views: its SQL
    engine, cluster, live              jobs through Dask, until each has an outcome
    cell, inmate, scratch              one audit behind the wall of a process of its own
    one, record, fetch, identity       one source -> its record; is its content what it was?
    dataset, schema                    where records are kept, and what they hold
    source, remote, job                what a run was given; what travels to a worker and back

Needs the extra ``drgn-tools[fleet]``. In a process that has drgn loaded nothing may read
Parquet with pyarrow's threads: drgn 0.3.0 and pyarrow 26 together abort there. We write
with pyarrow and read with DuckDB.
"""
