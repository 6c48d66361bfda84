// SPDX-License-Identifier: GPL-2.0
/*
 * Asks the kernel about each task what it asks itself in a transition, and keeps the answers for the
 * dump. A task writes the name of the moment to /proc/klp_oracle.
 *
 * All other CPUs are held in an IPI, so that what ran is still the current task of its CPU. Then
 * klp_check_and_switch_task() is called for each task, and what it did is undone. The machine is held
 * until the host has made its dump and sends an NMI.
 */
#include <linux/console.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/nmi.h>
#include "answers.h"
#include "lookup.h"

#define ROOM 64		/* for tasks that come while the sheet is allocated */

static int (*check_and_switch)(struct task_struct *task, void *old_name);
static int (*ask_reliable)(struct task_struct *task, unsigned long *entries, unsigned int size);
static struct task_struct *(*ask_idle)(int cpu);
static int (*ask_curr)(const struct task_struct *task);
static struct klp_patch **transition_patch;
static int *target_state;

static unsigned long scratch[LA_ENTRIES];
static atomic_t held;
static bool released;

static int on_nmi(unsigned int type, struct pt_regs *regs)
{
	WRITE_ONCE(released, true);
	return NMI_HANDLED;
}

static void hold(void *unused)
{
	atomic_inc(&held);
	while (!READ_ONCE(released))
		cpu_relax();
	atomic_dec(&held);
}

static void ask(struct la_record *r, struct task_struct *t)
{
	const char *name = NULL;

	if (!*transition_patch) {
		r->ret = -ENODATA;
		return;
	}
	r->ret = check_and_switch(t, &name);
	if (r->ret == -EADDRINUSE && name)
		strscpy(r->func, name, sizeof(r->func));
	t->patch_state = r->patch_state;
	if (r->pending)
		set_tsk_thread_flag(t, TIF_PATCH_PENDING);
	else
		clear_tsk_thread_flag(t, TIF_PATCH_PENDING);
}

static void write_task(struct la_record *r, struct task_struct *t, int idle_of)
{
	int i;

	r->task = (unsigned long)t;
	r->pid = t->pid;
	r->tgid = t->tgid;
	r->patch_state = t->patch_state;
	r->pending = test_tsk_thread_flag(t, TIF_PATCH_PENDING);
	r->curr = ask_curr(t);
	r->on_cpu = t->on_cpu;
	r->cpu = task_cpu(t);
	r->idle_of = idle_of;
	r->state = READ_ONCE(t->__state);
	r->flags = t->flags;
	memcpy(r->comm, t->comm, sizeof(r->comm));
	memset(scratch, 0, sizeof(scratch));
	r->reliable = ask_reliable(t, scratch, LA_ENTRIES);
	for (i = 0; i < LA_ENTRIES; i++)
		r->entries[i] = scratch[i];
	ask(r, t);
}

static void write_sheet(struct la_header *h, u32 room)
{
	struct la_record *records = (struct la_record *)(h + 1);
	struct task_struct *g, *t;
	int cpu;

	BUILD_BUG_ON(sizeof(struct la_header) != 72);
	BUILD_BUG_ON(sizeof(struct la_record) != 920);
	for_each_process_thread(g, t) {
		if (h->nr_records < room)
			write_task(&records[h->nr_records++], t, -1);
		else
			h->nr_left_out++;
	}
	for_each_possible_cpu(cpu) {
		if (h->nr_records < room)
			write_task(&records[h->nr_records++], ask_idle(cpu), cpu);
		else
			h->nr_left_out++;
	}
	h->version = LA_VERSION;
	h->header_bytes = sizeof(*h);
	h->record_bytes = sizeof(*records);
	h->target = *target_state;
	h->writer = current->pid;
	h->patch = (unsigned long)*transition_patch;
	strscpy(h->magic, "LAB-LIVEPATCH", sizeof(h->magic));
}

/* Returns when the host has sent an NMI. */
static void hold_and_answer(struct la_header *h, u32 room)
{
	/* Or a CPU is held that was going to write to the console what we have to say. */
	console_lock();
	preempt_disable();
	WRITE_ONCE(released, false);
	smp_call_function(hold, NULL, 0);
	while (atomic_read(&held) < num_online_cpus() - 1)
		cpu_relax();
	local_irq_disable();
	write_sheet(h, room);
	pr_emerg("LAB-ANSWERS %s %px tasks %u left_out %u\n", h->moment, h, h->nr_records,
		 h->nr_left_out);
	console_unlock();
	while (!READ_ONCE(released))
		cpu_relax();
	local_irq_enable();
	while (atomic_read(&held))
		cpu_relax();
	preempt_enable();
}

static ssize_t oracle_write(struct file *f, const char __user *buf, size_t count, loff_t *pos)
{
	u32 room = num_possible_cpus() + ROOM;
	struct task_struct *g, *t;
	struct la_header *h;

	rcu_read_lock();
	for_each_process_thread(g, t)
		room++;
	rcu_read_unlock();
	h = vzalloc(sizeof(*h) + room * sizeof(struct la_record));
	if (!h)
		return -ENOMEM;
	if (count >= sizeof(h->moment) || copy_from_user(h->moment, buf, count)) {
		vfree(h);
		return -EINVAL;
	}
	hold_and_answer(h, room);
	return count;
}

static const struct proc_ops ops = { .proc_write = oracle_write };

static int __init oracle_init(void)
{
	int ret = lab_lookup_init();

	if (ret)
		return ret;
	check_and_switch = lab_lookup("klp_check_and_switch_task");
	ask_reliable = lab_lookup("stack_trace_save_tsk_reliable");
	ask_idle = lab_lookup("idle_task");
	ask_curr = lab_lookup("task_curr");
	transition_patch = lab_lookup("klp_transition_patch");
	target_state = lab_lookup("klp_target_state");
	if (!check_and_switch || !ask_reliable || !ask_idle || !ask_curr || !transition_patch ||
	    !target_state)
		return -ENOENT;
	ret = register_nmi_handler(NMI_LOCAL, on_nmi, 0, "lab");
	if (ret)
		return ret;
	return proc_create("klp_oracle", 0200, NULL, &ops) ? 0 : -ENOMEM;
}

module_init(oracle_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("The kernel's own answers about a transition");
