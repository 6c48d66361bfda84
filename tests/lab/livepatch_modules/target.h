/* SPDX-License-Identifier: GPL-2.0 */
/* What the patches, and the module that comes late, call of klp_target. */
#ifndef LAB_TARGET_H
#define LAB_TARGET_H

#include <linux/stringify.h>
#include <linux/types.h>

/* How a task sleeps; a task that sleeps LAB_LATE goes on when there is a late function. */
enum { LAB_INTERRUPTIBLE, LAB_UNINTERRUPTIBLE, LAB_IDLE, LAB_LATE };

int lab_wait(int how);
bool lab_may_go(void);
void lab_set_late(int (*function)(int how));
int lab_same1(int how);
int lab_same2(int how);

/*
 * Something to do after a call, so that the call is not turned into a jump. It is another in each
 * line: of functions that are the same, the compiler makes one and jumps to it.
 */
#define not_a_tail_call() asm volatile("# line " __stringify(__LINE__))

#endif
