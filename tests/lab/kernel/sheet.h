/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The answer sheet, as it lies in the dump. tests/lab/sheet.py reads it: change
 * both together and count RS_VERSION up.
 *
 *	header, then nr_records times: record, entries[], frames[]
 *
 * Little endian, the same on 32 and 64 bits, every part a multiple of 8 bytes.
 * A frame is followed by its two names (no NUL), padded to 8 bytes.
 */
#ifndef LAB_SHEET_H
#define LAB_SHEET_H

#define RS_VERSION 1

/*
 * klp_check_stack() of kernel/livepatch/transition.c asks with this size
 * (MAX_STACK_ENTRIES), so that is the question whose answer is recorded.
 */
#define RS_ENTRIES 100
/* Enough to see past the limit above. */
#define RS_FRAMES 160

struct rs_header {
	u8 magic[16];		/* written last: no magic, no sheet */
	u32 version;
	u32 header_bytes;
	u32 record_bytes;	/* struct rs_record alone */
	u32 frame_bytes;	/* struct rs_frame alone */
	u32 nr_records;
	u32 nr_left_out;	/* tasks there was no room for; 0 or the sheet is void */
	u32 nr_cpus;		/* possible CPUs */
	u32 word_bytes;		/* sizeof(long) */
	u64 self;		/* virtual address of this header */
	u64 bytes;		/* the whole sheet */
	char unwinder[16];	/* "frame_pointer", "orc" or "guess" */
};

struct rs_record {
	u32 bytes;		/* this record with its entries and frames */
	s32 ret;		/* stack_trace_save_tsk_reliable(): entries or -errno */
	u64 task;		/* struct task_struct * */
	s32 pid;
	s32 tgid;
	u32 flags;		/* PF_... */
	u32 state;		/* __state */
	s32 exit_state;
	s32 cpu;
	s32 on_cpu;
	s32 curr;		/* task_curr(), -1 where it cannot be asked */
	s32 idle_of;		/* the CPU whose idle task this is, or -1 */
	s32 stack_refcount;	/* 0: the stack is gone */
	u64 stack;		/* lowest address of the task stack */
	u64 sp;			/* thread.sp */
	u64 entry_regs;		/* task_pt_regs() */
	s32 unwind_error;
	u32 nr_entries;		/* stored by the reliable walk, also when ret < 0 */
	u32 nr_frames;		/* visited by the plain walk */
	u32 more_frames;	/* the plain walk was cut off at RS_FRAMES */
	char comm[16];
	u32 entry_regs_bytes;	/* sizeof(struct pt_regs) */
	u32 reserved;
	u8 entry_regs_copy[168];
};

struct rs_frame {
	u64 ip;			/* unwind_get_return_address() */
	u64 regs;		/* unwind_get_entry_regs() */
	u64 at;			/* unwind_get_return_address_ptr() */
	u8 user_mode;		/* user_mode(regs) */
	u8 reserved;
	u16 call_name_bytes;	/* %pB of ip: named as a return address */
	u16 name_bytes;		/* %pS of ip: named as it stands */
	u16 bytes;		/* this frame with its names and padding */
};

#endif
