// SPDX-License-Identifier: GPL-2.0
/*
 * Freezes the machine and writes down what the kernel itself says of every
 * task's stack: tests/lab/kernel/oracle.c for arm64, whose unwinder has no
 * functions that go step by step. A module.
 *
 * While one CPU writes, all others are held in stop_machine() with interrupts
 * off; none of them ever leaves again. What is in memory then is what the sheet
 * speaks of, and the dump is taken from outside.
 *
 * arch_stack_walk() tells return addresses only. What it found in a pt_regs is
 * in the kernel's log: behind LAB-TASK the call trace of that task, in which
 * kernels since v6.14 mark these addresses with (P), and those that a tracer had
 * rewritten with (F) or (K).
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/stacktrace.h>
#include <linux/stop_machine.h>
#include <linux/vmalloc.h>
#include <asm/processor.h>
#include <asm/ptrace.h>
#include "lookup.h"
#include "sheet.h"

void lab_freeze(void);

static struct rs_header *sheet;
static u8 *next, *end;
static unsigned long scratch[RS_ENTRIES];

static int (*ask_reliable)(struct task_struct *, unsigned long *, unsigned int);
static void (*ask_walk)(stack_trace_consume_fn, void *, struct task_struct *, struct pt_regs *);
static void (*ask_trace)(struct pt_regs *, struct task_struct *, const char *);
static struct task_struct *(*ask_idle)(int cpu);
static int (*ask_curr)(const struct task_struct *);

struct walk {
	struct rs_record *record;
	bool full;
};

static bool write_frame(void *cookie, unsigned long pc)
{
	struct walk *walk = cookie;
	struct rs_frame *f = (void *)next;
	char *names = (char *)(f + 1);
	size_t room = KSYM_SYMBOL_LEN, bytes;

	if (walk->record->nr_frames == RS_FRAMES) {
		walk->record->more_frames = 1;
		return false;
	}
	if (end - next < sizeof(*f) + 2 * KSYM_SYMBOL_LEN + 8) {
		walk->full = true;
		return false;
	}
	f->ip = pc;
	f->call_name_bytes = scnprintf(names, room, "%pB", (void *)pc);
	f->name_bytes = scnprintf(names + f->call_name_bytes, room, "%pS", (void *)pc);
	bytes = sizeof(*f) + f->call_name_bytes + f->name_bytes;
	f->bytes = ALIGN(bytes, 8);
	memset(next + bytes, 0, f->bytes - bytes);
	next += f->bytes;
	walk->record->nr_frames++;
	return true;
}

/* Appends a task; false if there is no room (then nothing is appended). */
static bool write_task(struct task_struct *t, int idle_of)
{
	struct rs_record *r = (void *)next;
	u64 *entries = (u64 *)(r + 1);
	struct walk walk = { .record = r };
	u32 i;

	if (end - next < sizeof(*r) + RS_ENTRIES * sizeof(u64))
		return false;
	r->task = (unsigned long)t;
	r->pid = t->pid;
	r->tgid = t->tgid;
	r->flags = t->flags;
	r->state = READ_ONCE(t->__state);
	r->exit_state = t->exit_state;
	r->cpu = task_cpu(t);
	r->on_cpu = t->on_cpu;
	r->curr = ask_curr ? ask_curr(t) : -1;
	r->idle_of = idle_of;
	r->stack_refcount = refcount_read(&t->stack_refcount);
	r->sp = thread_saved_sp(t);
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
		r->entry_regs_bytes = sizeof(r->entry_regs_copy);	/* the first of them */
		memcpy(r->entry_regs_copy, regs, sizeof(r->entry_regs_copy));
		ask_walk(write_frame, &walk, t, NULL);
		if (walk.full) {
			memset(r, 0, next - (u8 *)r);
			next = (u8 *)r;
			return false;
		}
		if (ask_trace) {
			printk(KERN_DEBUG "LAB-TASK %px\n", t);
			ask_trace(NULL, t, KERN_DEBUG);
		}
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
	/* Not a plain constant: the module must not contain the magic. */
	static const u8 hidden_magic[16] = {
		0x3e, 0xbb, 0xea, 0x73, 0xcc, 0xaf, 0x25, 0x87,
		0x41, 0x78, 0xfa, 0x13, 0x54, 0xd0, 0x8c, 0x36,
	};
	struct rs_header *h = sheet;
	struct task_struct *g, *t;
	int cpu, i;

	BUILD_BUG_ON(sizeof(struct rs_header) != 80);
	BUILD_BUG_ON(sizeof(struct rs_record) != 288);
	BUILD_BUG_ON(sizeof(struct rs_frame) != 32);

	h->version = RS_VERSION;
	h->header_bytes = sizeof(*h);
	h->record_bytes = sizeof(struct rs_record);
	h->frame_bytes = sizeof(struct rs_frame);
	h->nr_cpus = num_possible_cpus();
	h->word_bytes = sizeof(long);
	h->self = (unsigned long)h;
	strscpy(h->unwinder, "arm64", sizeof(h->unwinder));

	for_each_process_thread(g, t)
		write_down(h, t, -1);
	for_each_possible_cpu(cpu) {
		t = ask_idle(cpu);
		if (t)
			write_down(h, t, cpu);
	}
	h->bytes = next - (u8 *)h;
	printk(KERN_DEBUG "LAB-TASK end\n");
	for (i = 0; i < sizeof(hidden_magic); i++)
		h->magic[i] = hidden_magic[i] ^ 0xa0;
	pr_emerg("LAB-SHEET %px tasks %u left_out %u bytes %llu\n", h, h->nr_records,
		 h->nr_left_out, h->bytes);
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
	sheet = vzalloc(bytes);
	if (!sheet) {
		pr_emerg("LAB-FAILED no memory for a sheet of %zu bytes\n", bytes);
		return;
	}
	next = (u8 *)(sheet + 1);
	end = (u8 *)sheet + bytes;
	stop_machine(write_sheet, NULL, NULL);
}
EXPORT_SYMBOL_GPL(lab_freeze);

static ssize_t freeze_write(struct file *f, const char __user *b, size_t c, loff_t *p)
{
	lab_freeze();
	return -ENOMEM;
}

static const struct proc_ops freeze_ops = { .proc_write = freeze_write };

static int __init oracle_init(void)
{
	int ret = lab_lookup_init();

	if (ret)
		return ret;
	ask_reliable = lab_lookup("stack_trace_save_tsk_reliable");
	ask_walk = lab_lookup("arch_stack_walk");
	ask_trace = lab_lookup("dump_backtrace");
	ask_idle = lab_lookup("idle_task");
	ask_curr = lab_lookup("task_curr");
	if (!ask_walk || !ask_idle)
		return -ENOENT;
	return proc_create("lab_freeze", 0200, NULL, &freeze_ops) ? 0 : -ENOMEM;
}

module_init(oracle_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The kernel's own answers about every task's stack");
