# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many kernels: audits on Dask, one dataset of Parquet files, a report.

There are three folders. ``run`` and ``report`` use ``dataset`` and are independent of each other;
``dataset`` uses neither. None of them imports ``commands``: the console comes from ``terminal``.

::

    report/  a dataset -> text
        report             the sections in every format
        sections/          a file each: query, and columns of the table
        section            what a section is, and its rows in a dataset
        query              --sql: a query of the user
        tables, cells      tables; measures, days and names in their cells
        values             values of DuckDB as JSON and CSV have them
        page               the HTML page, from the template in page_parts/
        page_data          its data; parts of it: page_sources, page_stacks, time_line

    run/     sources -> records in a dataset, each part using those below it
        plan               which sources to audit, in which order
        recorder           outcomes -> the dataset
        progress           what the user sees of a run
        live               the running kernels of a cluster as sources
        dask_jobs          jobs on a Dask cluster until each has an outcome
        submitted          the jobs that the scheduler has
        on_dask_worker     the code that a Dask worker runs
        dask_workers       the Dask workers, as they come and go
        cluster            a client of an existing or a local Dask cluster
        interrupts         Ctrl-C waits until no commit is under way
        sandboxes          the sandboxes of a Dask worker; an audit, repeated if necessary
        sandbox            one sandbox: start the process, ask it, find out why it died
        sandbox_process    the process in the sandbox
        audit_source       one source -> its record and its tasks
        facts              what a record says of file, machine and audit
        record             the part of a record that does not depend on the audit
        fetch              the core of a source as a local file
        identity           what identifies the content of a source
        scratch            temporary folders for copies of cores
        out_of_memory      whether an error means too little memory
        job                what travels between client, Dask worker and sandbox
        source             the arguments of a run -> a list of sources
        remote             files behind URLs

    dataset/ where records are kept
        known              which sources have a record
        database           a dataset as a DuckDB database
        views              the SQL of its views
        damage             which file is damaged
        files              SQL that reads Parquet files
        parquet            records -> Parquet files
        stack_hash         which stacks are identical
        dataset            the folder: commit, lock, remove
        schema             the columns

This needs the extra ``drgn-tools[fleet]``. A process that has loaded drgn must not read
Parquet with pyarrow's threads: drgn 0.3.0 and pyarrow 26 together abort there. So pyarrow
writes and DuckDB reads.
"""
