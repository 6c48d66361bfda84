# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sleeping task waits for, proven by what the kernel keeps about it.

A task that waits has a small struct on its own stack (``struct mutex_waiter``,
``struct wait_queue_entry`` ...). One of its members points back to the task, another is a node of a
list whose head is in the lock:

    stack of task A                    the lock             stack of task B
    +-----------------+          +------------------+      +-----------------+
    | mutex_waiter    |          | struct mutex     |      | mutex_waiter    |
    |   list  <-------|--------->|   wait_list <----|----->|   list          |
    |   task = A      |          |   owner = C | 1  |      |   task = B      |
    +-----------------+          +------------------+      +-----------------+

So the struct is found by the address of the task, which is on its stack. The lock is found by the list:
it has the only node that is not in a waiter. All nodes have to point back to each other, every waiter has
to be on the stack of the task that it names, and the words of the lock have to say that a task waits. If
any of this does not hold, nothing is claimed.
"""
