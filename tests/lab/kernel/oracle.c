// SPDX-License-Identifier: GPL-2.0
/*
 * Freezes the machine and writes down what the kernel itself says of every
 * task's stack. One source, two builds: in the kernel image (LAB_BUILTIN), or
 * as a module on a kernel that somebody else built.
 *
 * While one CPU writes, all others are held in stop_machine() with interrupts
 * off; none of them ever leaves again. What is in memory then is what the sheet
 * speaks of, and the dump is taken from outside.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/stacktrace.h>
#include <linux/stop_machine.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <asm/ptrace.h>
#include <asm/unwind.h>
#include "lookup.h"
#include "sheet.h"

void lab_freeze(void);

struct rs_header *rs_sheet;	/* found in the dump by this name */
static u8 *next, *end;

/* Let a crash kernel make the dump: oracle.panic=1 on the command line. */
static bool panic_when_frozen;
module_param_named(panic, panic_when_frozen, bool, 0);

static unsigned long scratch[RS_ENTRIES];

static int (*ask_reliable)(struct task_struct *, unsigned long *, unsigned int);
static void (*walk_start)(struct unwind_state *, struct task_struct *, struct pt_regs *,
			  unsigned long *);
static bool (*walk_next)(struct unwind_state *);
static unsigned long (*walk_ip)(struct unwind_state *);
static unsigned long *(*walk_ip_ptr)(struct unwind_state *);
static struct task_struct *(*ask_idle)(int cpu);
static int (*ask_curr)(const struct task_struct *);

static u32 raw_state(struct task_struct *t)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 14, 0)
	return READ_ONCE(t->__state);
#else
	return READ_ONCE(t->state);
#endif
}

/* Appends a frame; false if there is no room. */
static bool write_frame(struct unwind_state *state)
{
	struct rs_frame *f = (void *)next;
	struct pt_regs *regs = unwind_get_entry_regs(state, NULL);
	char *names = (char *)(f + 1);
	size_t room, bytes;

	if (end - next < sizeof(*f) + 2 * KSYM_SYMBOL_LEN + 8)
		return false;
	room = KSYM_SYMBOL_LEN;
	f->ip = walk_ip(state);
	f->regs = (unsigned long)regs;
	f->at = (unsigned long)walk_ip_ptr(state);
	f->user_mode = regs && user_mode(regs);
	if (f->ip) {
		f->call_name_bytes = scnprintf(names, room, "%pB", (void *)(unsigned long)f->ip);
		f->name_bytes = scnprintf(names + f->call_name_bytes, room, "%pS",
					  (void *)(unsigned long)f->ip);
	}
	bytes = sizeof(*f) + f->call_name_bytes + f->name_bytes;
	f->bytes = ALIGN(bytes, 8);
	memset(next + bytes, 0, f->bytes - bytes);
	next += f->bytes;
	return true;
}

/* Appends a task; false if there is no room (then nothing is appended). */
static bool write_task(struct task_struct *t, int idle_of)
{
	struct rs_record *r = (void *)next;
	struct unwind_state state;
	u64 *entries = (u64 *)(r + 1);
	u32 i;

	if (end - next < sizeof(*r) + RS_ENTRIES * sizeof(u64))
		return false;
	r->task = (unsigned long)t;
	r->pid = t->pid;
	r->tgid = t->tgid;
	r->flags = t->flags;
	r->state = raw_state(t);
	r->exit_state = t->exit_state;
	r->cpu = task_cpu(t);
#ifdef CONFIG_SMP
	r->on_cpu = t->on_cpu;
#endif
	r->curr = ask_curr ? ask_curr(t) : -1;
	r->idle_of = idle_of;
	r->stack_refcount = refcount_read(&t->stack_refcount);
	r->sp = t->thread.sp;
	memcpy(r->comm, t->comm, sizeof(r->comm));

	memset(scratch, 0, sizeof(scratch));
	r->ret = ask_reliable ? ask_reliable(t, scratch, RS_ENTRIES) : -ENOSYS;
	for (i = 0; i < RS_ENTRIES && scratch[i]; i++)
		entries[i] = scratch[i];
	r->nr_entries = i;
	next = (u8 *)(entries + i);

	if (r->stack_refcount) {	/* a zombie has no stack */
		struct pt_regs *regs = task_pt_regs(t);

		r->stack = (unsigned long)task_stack_page(t);
		r->entry_regs = (unsigned long)regs;
		r->entry_regs_bytes = sizeof(*regs);
		memcpy(r->entry_regs_copy, regs, sizeof(*regs));
		for (walk_start(&state, t, NULL, (unsigned long *)t->thread.sp);
		     !unwind_done(&state); walk_next(&state)) {
			if (r->nr_frames == RS_FRAMES) {
				r->more_frames = 1;
				break;
			}
			if (!write_frame(&state)) {
				memset(r, 0, next - (u8 *)r);
				next = (u8 *)r;
				return false;
			}
			r->nr_frames++;
		}
		r->unwind_error = unwind_error(&state);
	}
	r->bytes = next - (u8 *)r;
	return true;
}

static void write_down(struct rs_header *h, struct task_struct *t, int idle_of)
{
	if (write_task(t, idle_of))
		h->nr_records++;
	else
		h->nr_left_out++;
}

static int write_sheet(void *unused)
{
	/* Not a plain constant: the kernel image must not contain the magic. */
	static const u8 hidden_magic[16] = {
		0x3e, 0xbb, 0xea, 0x73, 0xcc, 0xaf, 0x25, 0x87,
		0x41, 0x78, 0xfa, 0x13, 0x54, 0xd0, 0x8c, 0x36,
	};
	struct rs_header *h = rs_sheet;
	struct task_struct *g, *t;
	int cpu, i;

	BUILD_BUG_ON(sizeof(struct rs_header) != 80);
	BUILD_BUG_ON(sizeof(struct rs_record) != 288);
	BUILD_BUG_ON(sizeof(struct rs_frame) != 32);
	BUILD_BUG_ON(sizeof(struct pt_regs) > sizeof_field(struct rs_record, entry_regs_copy));

	h->version = RS_VERSION;
	h->header_bytes = sizeof(*h);
	h->record_bytes = sizeof(struct rs_record);
	h->frame_bytes = sizeof(struct rs_frame);
	h->nr_cpus = num_possible_cpus();
	h->word_bytes = sizeof(long);
	h->self = (unsigned long)h;
	strscpy(h->unwinder,
		IS_ENABLED(CONFIG_UNWINDER_ORC) ? "orc" :
		IS_ENABLED(CONFIG_UNWINDER_FRAME_POINTER) ? "frame_pointer" : "guess",
		sizeof(h->unwinder));

	for_each_process_thread(g, t)
		write_down(h, t, -1);
	for_each_possible_cpu(cpu) {
		t = ask_idle(cpu);
		if (t)
			write_down(h, t, cpu);
	}
	h->bytes = next - (u8 *)h;
	for (i = 0; i < sizeof(hidden_magic); i++)
		h->magic[i] = hidden_magic[i] ^ 0xa0;
	pr_emerg("LAB-SHEET %px tasks %u left_out %u bytes %llu\n", h, h->nr_records,
		 h->nr_left_out, h->bytes);
	if (panic_when_frozen)
		panic("lab: frozen");
	for (;;)
		cpu_relax();
	return 0;
}

/* Writes the sheet and never returns, except without memory for the sheet. */
void lab_freeze(void)
{
	struct task_struct *g, *t;
	size_t bytes = 256 << 10;

	rcu_read_lock();
	for_each_process_thread(g, t)
		bytes += 4096;
	rcu_read_unlock();
	rs_sheet = vzalloc(bytes);
	if (!rs_sheet) {
		pr_emerg("LAB-FAILED no memory for a sheet of %zu bytes\n", bytes);
		return;
	}
	next = (u8 *)(rs_sheet + 1);
	end = (u8 *)rs_sheet + bytes;
	stop_machine(write_sheet, NULL, NULL);
}
EXPORT_SYMBOL_GPL(lab_freeze);

static ssize_t freeze_write(struct file *f, const char __user *b, size_t c, loff_t *p)
{
	lab_freeze();
	return -ENOMEM;
}

static const struct proc_ops freeze_ops = { .proc_write = freeze_write };

#ifdef LAB_BUILTIN
static int find_functions(void)
{
#ifdef CONFIG_HAVE_RELIABLE_STACKTRACE
	ask_reliable = stack_trace_save_tsk_reliable;
#endif
	walk_start = __unwind_start;
	walk_next = unwind_next_frame;
	walk_ip = unwind_get_return_address;
	walk_ip_ptr = unwind_get_return_address_ptr;
	ask_idle = idle_task;
	ask_curr = task_curr;
	return 0;
}
#else
static int find_functions(void)
{
	int ret = lab_lookup_init();

	if (ret)
		return ret;
	ask_reliable = lab_lookup("stack_trace_save_tsk_reliable");
	walk_start = lab_lookup("__unwind_start");
	walk_next = lab_lookup("unwind_next_frame");
	walk_ip = lab_lookup("unwind_get_return_address");
	walk_ip_ptr = lab_lookup("unwind_get_return_address_ptr");
	ask_idle = lab_lookup("idle_task");
	ask_curr = lab_lookup("task_curr");
	return walk_start && walk_next && walk_ip && walk_ip_ptr && ask_idle ? 0 : -ENOENT;
}
#endif

static int __init oracle_init(void)
{
	int ret = find_functions();

	if (ret)
		return ret;
	return proc_create("lab_freeze", 0200, NULL, &freeze_ops) ? 0 : -ENOMEM;
}

#ifdef LAB_BUILTIN
late_initcall(oracle_init);
#else
module_init(oracle_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The kernel's own answers about every task's stack");
#endif
