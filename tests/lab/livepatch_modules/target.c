// SPDX-License-Identifier: GPL-2.0
/*
 * The module that gets patched, and the tasks that are in it meanwhile. A task writes one
 * line to /proc/klp_lab, where HOW is one of target.h:
 *
 *	old HOW		sleep in lab_old_sleep(), which is patched
 *	plain HOW	sleep in a function that is not
 *	deep N		sleep below N calls of a recursive function that is not patched
 *	same1 HOW	sleep in same_name() of same1.c, which is not patched
 *	same2 HOW	sleep in same_name() of same2.c, which is
 *	off		sleep below lab_falls_off(), which lies before a patched function
 *	cold		sleep in lab_cold.cold, of the patched lab_cold()
 *	late HOW	sleep in the function of the module that comes late
 *	kthreads NAME	start kernel threads NAME-...
 *	go NAME		let the tasks of this name, or "all", leave where they are
 */
#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "target.h"

static char let_go[TASK_COMM_LEN];	/* a name, or "all" */
static atomic_t gone;
static int (*late_function)(int how);
static struct task_struct *late_task;

bool lab_may_go(void)
{
	return !strcmp(let_go, current->comm) || !strcmp(let_go, "all");
}
EXPORT_SYMBOL_GPL(lab_may_go);

noinline int lab_wait(int how)
{
	static const unsigned int states[] = {
		TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, TASK_IDLE, TASK_UNINTERRUPTIBLE,
	};

	for (;;) {
		set_current_state(states[how]);
		if (lab_may_go() || (how == LAB_INTERRUPTIBLE && signal_pending(current)) ||
		    (how == LAB_LATE && READ_ONCE(late_function)))
			break;
		schedule();
		not_a_tail_call();
	}
	__set_current_state(TASK_RUNNING);
	if (lab_may_go())
		atomic_inc(&gone);
	return -EINTR;
}
EXPORT_SYMBOL_GPL(lab_wait);

static bool over;	/* never, but the compiler does not know */

/* Nobody lets these go. A call that is known not to return may be the last of its function. */
static noinline void lab_stay(void)
{
	while (!READ_ONCE(over)) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
		not_a_tail_call();
	}
	__set_current_state(TASK_RUNNING);
}

void lab_set_late(int (*function)(int how))
{
	WRITE_ONCE(late_function, function);
	if (late_task)
		wake_up_process(late_task);
}
EXPORT_SYMBOL_GPL(lab_set_late);

/* --- what lab_patch1 patches (and lab_patch2 the first of it) --- */

noinline int lab_old_sleep(int how);
noinline int lab_old_sleep(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

/* No task in here is ever switched: it runs, or was preempted in here. */
noinline void lab_old_spin(void);
noinline void lab_old_spin(void)
{
	while (!lab_may_go())
		cpu_relax();
	atomic_inc(&gone);
}

/*
 * lab_falls_off() ends in a call that does not return, so its return address is
 * the first byte of lab_next(), which is patched and not on the stack at all.
 */
void lab_sleep_for_good(void);
noinline void lab_sleep_for_good(void)
{
	for (;;) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
		not_a_tail_call();
	}
}

int lab_falls_off(void);
int lab_next(void);
asm(".pushsection .text\n"
    ".globl lab_falls_off\n.type lab_falls_off,@function\nlab_falls_off:\n"
    ASM_ENDBR
    "push %rbp\nmov %rsp,%rbp\ncall lab_sleep_for_good\n"
    ".size lab_falls_off,.-lab_falls_off\n"
    ".globl lab_next\n.type lab_next,@function\nlab_next:\n"
    ASM_ENDBR
    "771: call __fentry__\npush %rbp\nmov %rsp,%rbp\nmov $7,%eax\npop %rbp\n"
    ASM_RET
    ".size lab_next,.-lab_next\n"
    ".popsection\n"
    ".pushsection __mcount_loc,\"a\",@progbits\n.balign 8\n.quad 771b\n.popsection\n");

/*
 * As compilers lay out a function of which a part is unlikely. That part is a symbol of its
 * own, out of the range of the function.
 */
int lab_cold(void);
asm(".pushsection .text\n"
    ".globl lab_cold\n.type lab_cold,@function\nlab_cold:\n"
    ASM_ENDBR
    "772: call __fentry__\npush %rbp\nmov %rsp,%rbp\njmp lab_cold.cold\n"
    ".Llab_cold_back: pop %rbp\n"
    ASM_RET
    ".size lab_cold,.-lab_cold\n"
    ".popsection\n"
    ".pushsection .text.unlikely,\"ax\",@progbits\n"
    ".type lab_cold.cold,@function\nlab_cold.cold:\n"
    "mov $1,%edi\ncall lab_wait\njmp .Llab_cold_back\n"
    ".size lab_cold.cold,.-lab_cold.cold\n"
    ".popsection\n"
    ".pushsection __mcount_loc,\"a\",@progbits\n.balign 8\n.quad 772b\n.popsection\n");

/* --- what is never patched --- */

noinline int lab_deep(int calls);
noinline int lab_deep(int calls)
{
	int ret = calls > 1 ? lab_deep(calls - 1) : lab_wait(LAB_UNINTERRUPTIBLE);

	not_a_tail_call();
	return ret;
}

/* --- kernel threads --- */

static int k_old(void *how)
{
	lab_old_sleep((long)how);
	lab_stay();
	return 0;
}

static int k_plain(void *how)
{
	lab_wait((long)how);
	lab_stay();
	return 0;
}

static int k_spin(void *unused)
{
	lab_old_spin();
	lab_stay();
	return 0;
}

static int k_late(void *unused)
{
	lab_old_sleep(LAB_LATE);
	late_function(LAB_UNINTERRUPTIBLE);
	lab_stay();
	return 0;
}

static struct task_struct *start(int (*fn)(void *), long how, const char *name, const char *what)
{
	struct task_struct *t = kthread_create(fn, (void *)how, "%s-%s", name, what);

	if (IS_ERR(t)) {
		pr_emerg("LAB-FAILED no kernel thread %s-%s\n", name, what);
		return NULL;
	}
	if (fn == k_spin)
		kthread_bind(t, 1);
	wake_up_process(t);
	return t;
}

static void start_kthreads(const char *name)
{
	start(k_old, LAB_INTERRUPTIBLE, name, "old-s");
	start(k_old, LAB_UNINTERRUPTIBLE, name, "old-d");
	start(k_old, LAB_IDLE, name, "old-i");
	start(k_old, LAB_UNINTERRUPTIBLE, name, "free");
	start(k_plain, LAB_INTERRUPTIBLE, name, "plain");
	start(k_spin, 0, name, "spin/1a");
	start(k_spin, 0, name, "spin/1b");
	late_task = start(k_late, 0, name, "late");
}

/* Returns when one of them has left where it was, and has had time to sleep elsewhere. */
static void let_them_go(const char *name)
{
	struct task_struct *g, *t;
	int i, before = atomic_read(&gone);

	strscpy(let_go, name, sizeof(let_go));
	rcu_read_lock();
	for_each_process_thread(g, t)
		if (!strcmp(name, "all") || !strcmp(name, t->comm))
			wake_up_process(t);
	rcu_read_unlock();
	for (i = 0; i < 200 && atomic_read(&gone) == before; i++)
		msleep(10);
	msleep(20);
}

/* By a pointer: objtool knows that this call does not return, but not that the compiler does not. */
static int fall_off(void)
{
	int (*function)(void) = lab_falls_off;

	OPTIMIZER_HIDE_VAR(function);
	return function() + lab_next();
}

static int obey(char *line)
{
	char name[TASK_COMM_LEN];
	int n = 0;

	if (sscanf(line, "deep %d", &n) == 1)
		return n > 0 && n <= 200 ? lab_deep(n) : -EINVAL;
	if (!strcmp(line, "off"))
		return fall_off();
	if (!strcmp(line, "cold"))
		return lab_cold();
	if (sscanf(line, "kthreads %7s", name) == 1) {
		start_kthreads(name);
		return 0;
	}
	if (sscanf(line, "go %15s", name) == 1) {
		let_them_go(name);
		return 0;
	}
	if (sscanf(line, "%7s %d", name, &n) != 2 || n < 0 || n > LAB_LATE)
		return -EINVAL;
	if (!strcmp(name, "old"))
		return lab_old_sleep(n);
	if (!strcmp(name, "plain"))
		return lab_wait(n);
	if (!strcmp(name, "same1"))
		return lab_same1(n);
	if (!strcmp(name, "same2"))
		return lab_same2(n);
	if (!strcmp(name, "late") && late_function)
		return late_function(n);
	return -EINVAL;
}

static ssize_t lab_write(struct file *f, const char __user *buf, size_t count, loff_t *pos)
{
	char line[64] = "";
	int ret;

	if (count >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	ret = obey(line);
	return ret < 0 ? ret : count;
}

static const struct proc_ops ops = { .proc_write = lab_write };

static int __init target_init(void)
{
	return proc_create("klp_lab", 0600, NULL, &ops) ? 0 : -ENOMEM;
}

module_init(target_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("What gets patched");
