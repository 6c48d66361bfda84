# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many kernels: audits of a fleet on Dask, one dataset of Parquet files, its report.

Needs the extra ``drgn-tools[fleet]``. In a process that has drgn loaded nothing may read
Parquet with pyarrow's threads: drgn 0.3.0 and pyarrow 26 together abort there. We write
with pyarrow and read with DuckDB.
"""
