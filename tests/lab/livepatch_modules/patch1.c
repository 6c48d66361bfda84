// SPDX-License-Identifier: GPL-2.0
/* A live patch of the kernel, of a module, and of one that is not loaded yet. */
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/uio.h>
#include "target.h"

static ssize_t p1_eventfd_read(struct kiocb *iocb, struct iov_iter *to)
{
	int ret = lab_wait(LAB_INTERRUPTIBLE);

	not_a_tail_call();
	return ret == -EINTR ? -ERESTARTSYS : ret;
}

static int p1_sleep(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

static void p1_spin(void)
{
	while (!lab_may_go())
		cpu_relax();
}

static int p1_next(void)
{
	return 8;
}

static int p1_cold(void)
{
	int ret = lab_wait(LAB_UNINTERRUPTIBLE);

	not_a_tail_call();
	return ret;
}

static int p1_same(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

static int p1_absent(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

static struct klp_func vmlinux_funcs[] = {
	{ .old_name = "eventfd_read", .new_func = p1_eventfd_read },
	{ }
};

static struct klp_func target_funcs[] = {
	{ .old_name = "lab_old_sleep", .new_func = p1_sleep },
	{ .old_name = "lab_old_spin", .new_func = p1_spin },
	{ .old_name = "lab_next", .new_func = p1_next },
	{ .old_name = "lab_cold", .new_func = p1_cold },
	{ .old_name = "same_name", .new_func = p1_same, .old_sympos = 2 },
	{ }
};

static struct klp_func absent_funcs[] = {
	{ .old_name = "absent_fn", .new_func = p1_absent },
	{ }
};

static struct klp_object objs[] = {
	{ .funcs = vmlinux_funcs },
	{ .name = "klp_target", .funcs = target_funcs },
	{ .name = "lab_absent", .funcs = absent_funcs },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };

static int __init patch1_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit patch1_exit(void)
{
}

module_init(patch1_init);
module_exit(patch1_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("Lab patch 1");
