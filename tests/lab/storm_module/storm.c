// SPDX-License-Identifier: GPL-2.0
/*
 * A module that comes and goes, with a thread that sleeps in it meanwhile. With nokcore=1
 * /proc/kcore is gone from then on, as on a kernel that was built without it.
 */
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>

static bool nokcore;
module_param(nokcore, bool, 0);

static struct task_struct *sleeper;

static int lab_storm_sleep(void *unused)
{
	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (kthread_should_stop())
			break;
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static int __init storm_init(void)
{
	if (nokcore)
		remove_proc_entry("kcore", NULL);
	sleeper = kthread_run(lab_storm_sleep, NULL, "lab-storm");
	return PTR_ERR_OR_ZERO(sleeper);
}

static void __exit storm_exit(void)
{
	kthread_stop(sleeper);
}

module_init(storm_init);
module_exit(storm_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Comes and goes");
