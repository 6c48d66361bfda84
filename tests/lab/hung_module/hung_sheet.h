/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who waits for what and who holds it, as it lies in the dump. tests/lab/hung_sheet.py reads it: change
 * both together and count LH_VERSION up.
 *
 *	header, then nr_records times a record
 */
#ifndef LAB_HUNG_SHEET_H
#define LAB_HUNG_SHEET_H

#define LH_VERSION 1
#define LH_RECORDS 128

struct lh_header {
	char magic[16];		/* "LAB-HUNG" */
	u32 version;
	u32 header_bytes;
	u32 record_bytes;
	u32 nr_records;
	u64 sealed_ns;		/* local_clock() when the last task slept */
};

/* Written by the task itself, before it waits. */
struct lh_record {
	u64 task;		/* struct task_struct * */
	u64 lock;		/* address of the lock, of the folio, of the word with the bit ... */
	u64 owner;		/* struct task_struct * that holds it (mmap-...: to read); 0: nobody knows */
	u64 since_ns;		/* local_clock() */
	s32 pid;
	s32 owner_pid;		/* 0 without one */
	s32 owner_exited;	/* when the sheet was sealed, its pid was another's or free */
	s32 readers;		/* that hold an rwsem */
	char kind[16];		/* "mutex", "rwsem-r" (wants to read), "rwsem-w" ... */
	char comm[16];
};

struct lh_record *lh_note(const char *kind, const void *lock, struct task_struct *owner);

/* disk.c: a disk that never answers */
int lh_disk_init(void);
long lh_disk_wait(void);

#endif
