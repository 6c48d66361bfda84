// SPDX-License-Identifier: GPL-2.0
/* A module that lab_patch1 patches, and that is loaded after it. */
#include <linux/kernel.h>
#include <linux/module.h>
#include "target.h"

noinline int absent_fn(int how);
noinline int absent_fn(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

static int __init absent_init(void)
{
	lab_set_late(absent_fn);
	return 0;
}

module_init(absent_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("What gets patched when it comes");
