// SPDX-License-Identifier: GPL-2.0
/* A static function with the name of another; the second one is patched. */
#include <linux/kernel.h>
#include "target.h"

static noinline int same_name(int how)
{
	int ret = lab_wait(how);

	not_a_tail_call();
	return ret;
}

int lab_same1(int how)
{
	int ret = same_name(how);

	not_a_tail_call();
	return ret;
}
