// SPDX-License-Identifier: GPL-2.0
/*
 * The tasks that user space cannot make: stacks of an exact depth, sleepers in
 * a module's function, in an ftrace handler and in kernel threads, kernel
 * threads that never ran. A task writes one line to /proc/lab_helper:
 *
 *	sleep		sleep in a function of this module, for good
 *	mutex		sleep (uninterruptibly) on a mutex that nobody releases
 *	deep N		sleep below N calls of a recursive function
 *	depth PID	returns how many return addresses PID's stack has
 *	ftrace		sleep in an ftrace handler, so below an ftrace trampoline
 *	kthreads	start the kernel threads
 *	exec PATH	start PATH as a user mode helper ("PATH w-umh")
 *	ready CPU	prepare to freeze from a real-time kernel thread on CPU
 *	freeze		there: fork a kernel thread that never runs, then freeze
 */
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/kmod.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/umh.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <uapi/linux/sched/types.h>
#include <asm/unwind.h>
#include "lookup.h"

void lab_freeze(void);

static DEFINE_MUTEX(never_released);

/* Something to do after a call, so that the call is not turned into a jump. */
#define not_a_tail_call() asm volatile("")

noinline int lab_sleep(void);
noinline int lab_deep(int calls);
noinline int lab_traced(void);
noinline int lab_mutex(void);

noinline int lab_sleep(void)
{
	while (!fatal_signal_pending(current)) {
		set_current_state(TASK_INTERRUPTIBLE);
		schedule();
		not_a_tail_call();
	}
	return -EINTR;
}

noinline int lab_mutex(void)
{
	mutex_lock(&never_released);
	not_a_tail_call();
	return -EINTR;
}

noinline int lab_deep(int calls)
{
	int ret = calls > 1 ? lab_deep(calls - 1) : lab_sleep();

	not_a_tail_call();
	return ret;
}

/* The answer is as the kernel's plain walk counts, less the user mode frame. */
static int depth_of(pid_t pid)
{
	void (*walk_start)(struct unwind_state *, struct task_struct *, struct pt_regs *,
			   unsigned long *) = lab_lookup("__unwind_start");
	bool (*walk_next)(struct unwind_state *) = lab_lookup("unwind_next_frame");
	unsigned long (*walk_ip)(struct unwind_state *) = lab_lookup("unwind_get_return_address");
	struct unwind_state state;
	struct task_struct *t;
	int depth = 0;

	if (!walk_start || !walk_next || !walk_ip)
		return -ENOENT;
	rcu_read_lock();
	t = pid_task(find_vpid(pid), PIDTYPE_PID);
	if (!t) {
		rcu_read_unlock();
		return -ESRCH;
	}
	for (walk_start(&state, t, NULL, (unsigned long *)t->thread.sp); !unwind_done(&state);
	     walk_next(&state))
		if (walk_ip(&state))
			depth++;
	rcu_read_unlock();
	return depth;
}

/* --- a sleeper below an ftrace trampoline --- */

noinline int lab_traced(void)
{
	not_a_tail_call();
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void notrace traced_handler(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *op, struct ftrace_regs *fregs)
#else
static void notrace traced_handler(unsigned long ip, unsigned long parent_ip,
				   struct ftrace_ops *op, struct pt_regs *regs)
#endif
{
	lab_sleep();
}

static struct ftrace_ops traced_ops = {
	.func = traced_handler,
#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 11, 0)
	/* Or it is called with preemption off; newer kernels do that only on request. */
	.flags = FTRACE_OPS_FL_RECURSION_SAFE,
#endif
};

static int sleep_in_ftrace(void)
{
	int ret = ftrace_set_filter_ip(&traced_ops, (unsigned long)lab_traced, 0, 0);

	if (!ret)
		ret = register_ftrace_function(&traced_ops);
	return ret ? ret : lab_traced();
}

/* --- kernel threads --- */

static int sleeper(void *unused)
{
	lab_sleep();
	return 0;
}

/* Gets preempted in kernel mode, where the kernel preempts there at all. */
static int spinner(void *unused)
{
	u64 i = 0;

	for (;;) {
		cpu_relax();
		if (!(++i & 0xffff))
			cond_resched();
	}
	return 0;
}

static void work_sleeps(struct work_struct *work)
{
	lab_sleep();
}

static DECLARE_WORK(sleeping_work, work_sleeps);

static int start_kthreads(void)
{
	int i;

	if (IS_ERR(kthread_run(sleeper, NULL, "lab-sleeper")))
		return -ENOMEM;
	/* Created, but nobody ever wakes it to begin. */
	if (IS_ERR(kthread_create(sleeper, NULL, "lab-unwoken")))
		return -ENOMEM;
	for (i = 0; i < 3; i++)
		if (IS_ERR(kthread_run(spinner, NULL, "lab-spinner/%d", i)))
			return -ENOMEM;
	queue_work(system_unbound_wq, &sleeping_work);
	return 0;
}

static int exec(char *path)
{
	char *argv[] = { path, "w-umh", NULL };
	char *envp[] = { "HOME=/", NULL };

	return call_usermodehelper(path, argv, envp, UMH_WAIT_EXEC);
}

/* --- the end of the show --- */

static void fork_never_run(void)
{
	void *fork = lab_lookup("kernel_thread");

	if (!fork)
		return;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	((pid_t (*)(int (*)(void *), void *, const char *, unsigned long))fork)(
		sleeper, NULL, "lab-neverran", CLONE_FS | CLONE_FILES);
#else
	((pid_t (*)(int (*)(void *), void *, unsigned long))fork)(
		sleeper, NULL, CLONE_FS | CLONE_FILES);
#endif
}

static struct task_struct *freezer_task;

/*
 * Nothing else runs on this CPU from here to the freeze: its children inherit
 * its CPU and its priority, and so have to wait for a turn that never comes.
 */
static int freezer(void *unused)
{
	fork_never_run();
	lab_freeze();
	return lab_sleep();
}

static int get_ready(int cpu)
{
	struct sched_param param = { .sched_priority = 80 };
	int (*setscheduler)(struct task_struct *, int, const struct sched_param *) =
		lab_lookup("sched_setscheduler");
	struct task_struct *t;
	int ret;

	if (!setscheduler || cpu < 0 || cpu >= nr_cpu_ids)
		return -EINVAL;
	t = kthread_create(freezer, NULL, "lab-freezer");
	if (IS_ERR(t))
		return PTR_ERR(t);
	kthread_bind(t, cpu);
	ret = setscheduler(t, SCHED_FIFO, &param);
	if (!ret)
		freezer_task = t;
	return ret;
}

static int freeze(void)
{
	if (!freezer_task)
		return -EINVAL;
	wake_up_process(freezer_task);
	return lab_sleep();
}

static int obey(char *line)
{
	int n;

	if (!strcmp(line, "sleep"))
		return lab_sleep();
	if (!strcmp(line, "mutex"))
		return lab_mutex();
	if (!strcmp(line, "ftrace"))
		return sleep_in_ftrace();
	if (!strcmp(line, "kthreads"))
		return start_kthreads();
	if (!strcmp(line, "freeze"))
		return freeze();
	if (!strncmp(line, "exec ", 5))
		return exec(line + 5);
	if (sscanf(line, "deep %d", &n) == 1)
		return n > 0 && n <= 200 ? lab_deep(n) : -EINVAL;
	if (sscanf(line, "depth %d", &n) == 1)
		return depth_of(n);
	if (sscanf(line, "ready %d", &n) == 1)
		return get_ready(n);
	return -EINVAL;
}

/* What write() returns is the answer; 0 would make writers try again. */
static ssize_t helper_write(struct file *f, const char __user *buf, size_t count, loff_t *pos)
{
	char line[64] = "";
	int ret;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	ret = obey(line);
	return ret ? ret : count;
}

static const struct proc_ops helper_ops = { .proc_write = helper_write };

static int __init helper_init(void)
{
	int ret = lab_lookup_init();

	if (ret)
		return ret;
	mutex_lock(&never_released);
	return proc_create("lab_helper", 0600, NULL, &helper_ops) ? 0 : -ENOMEM;
}

module_init(helper_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Tasks that user space cannot make");
