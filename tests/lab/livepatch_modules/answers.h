/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel said about each task, as it lies in the dump. tests/lab/livepatch_sheet.py
 * reads it: change both together and count LA_VERSION up.
 *
 *	header, then nr_records times a record
 */
#ifndef LAB_ANSWERS_H
#define LAB_ANSWERS_H

#define LA_VERSION 1
/* As klp_check_stack() asks with: MAX_STACK_ENTRIES of kernel/livepatch/transition.c. */
#define LA_ENTRIES 100

struct la_header {
	char magic[16];		/* "LAB-LIVEPATCH" */
	u32 version;
	u32 header_bytes;
	u32 record_bytes;
	u32 nr_records;
	u32 nr_left_out;	/* tasks there was no room for; 0 or the sheet is void */
	s32 target;		/* klp_target_state */
	s32 writer;		/* pid of the task that asked: it was asked as current */
	u32 reserved;
	u64 patch;		/* klp_transition_patch */
	char moment[16];
};

struct la_record {
	u64 task;		/* struct task_struct * */
	s32 pid;
	s32 tgid;
	s32 ret;		/* klp_check_and_switch_task(), -ENODATA without a transition */
	s32 reliable;		/* stack_trace_save_tsk_reliable(): entries or -errno */
	s32 patch_state;
	s32 pending;		/* TIF_PATCH_PENDING */
	s32 curr;		/* task_curr() */
	s32 on_cpu;
	s32 cpu;
	s32 idle_of;		/* the CPU whose idle task this is, or -1 */
	u32 state;		/* __state */
	u32 flags;		/* PF_... */
	char comm[16];
	char func[48];		/* klp_func::old_name that it said; "" without one */
	u64 entries[LA_ENTRIES];	/* of the reliable walk, also if it failed; 0 ends them */
};

#endif
