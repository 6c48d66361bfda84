// SPDX-License-Identifier: GPL-2.0
/* A live patch that replaces all others, and has one of their functions. */
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include "target.h"

static int p2_sleep(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

static struct klp_func target_funcs[] = {
	{ .old_name = "lab_old_sleep", .new_func = p2_sleep },
	{ }
};

static struct klp_object objs[] = {
	{ .name = "klp_target", .funcs = target_funcs },
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs, .replace = true };

static int __init patch2_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit patch2_exit(void)
{
}

module_init(patch2_init);
module_exit(patch2_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
MODULE_DESCRIPTION("Lab patch 2, replaces all");
