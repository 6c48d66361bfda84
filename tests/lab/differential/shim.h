/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What arch/x86/kernel/unwind_orc.c and stacktrace.c need of a kernel (v5.10 to v7.2), so that
 * they compile and run in user space, unchanged. It is included in front of each of them; their
 * own #includes find the few headers of the kernel that describe the unwinder, and empty files
 * in place of all others.
 *
 * Code never runs here, so its addresses may be any. The tables are relative to their own place,
 * so they are right wherever they lie: the whole kernel is shifted by one distance.
 */
#ifndef SHIM_H
#define SHIM_H

#include <errno.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef signed short s16;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;

#define CONFIG_X86_64 1
#define CONFIG_SMP 1
#define CONFIG_MODULES 1
#define CONFIG_DYNAMIC_FTRACE 1
#define CONFIG_BPF_JIT 1
#define CONFIG_UNWINDER_ORC 1
/* CONFIG_RETHOOK comes from the command line. */
#define IS_ENABLED(option) 0 /* CONFIG_X86_32, CONFIG_FRAME_POINTER */
#define BITS_PER_LONG 64
#define PAGE_SIZE 4096UL
#define PAGE_ALIGN(addr) (((addr) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1))
#define PTR_ALIGN(p, a) ((unsigned long *)(((unsigned long)(p) + (a) - 1) & ~((a) - 1)))
#define N_EXCEPTION_STACKS 6
#define __LITTLE_ENDIAN_BITFIELD 1

#define __init
#define __ro_after_init
#define __user
#define __packed __attribute__((packed))
#define __always_inline inline __attribute__((always_inline))
#define unlikely(x) (x)
#define BUILD_BUG_ON(x)
#define WARN_ON_ONCE(x) (void)(x)
#define EXPORT_SYMBOL_GPL(name) struct shim_nothing
#define early_param(name, function) struct shim_nothing
#define ORC_HEADER struct shim_nothing
#define DEFINE_MUTEX(name) int name
#define mutex_lock(lock) (void)(lock)
#define mutex_unlock(lock) (void)(lock)
#define sort(base, num, size, cmp, swap) (void)(cmp), (void)(swap)
#define swap(a, b) do { typeof(a) t_ = (a); (a) = (b); (b) = t_; } while (0)
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define READ_ONCE_NOCHECK(x) READ_ONCE(x)
#define KERN_WARNING ""
#define printk_deferred(...) do { } while (0)
#define printk_deferred_once(...) do { } while (0)

/* Of stacktrace.c: walks of user stacks, which nobody calls. */
#define __access_ok(addr, size) 0
#define __range_not_ok(addr, size, limit) 1
#define __get_user(x, ptr) 1
#define pagefault_disable()
#define pagefault_enable()

typedef bool (*stack_trace_consume_fn)(void *cookie, unsigned long addr);

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax;
	unsigned long ip, cs, flags, sp, ss;
};
#define user_mode(regs) (((regs)->cs & 3) != 0)

struct inactive_task_frame {
	unsigned long r15, r14, r13, r12, bx, bp, ret_addr;
};

struct task_struct {
	struct { unsigned long sp; } thread;
	int on_cpu;
};

struct orc_entry;
struct module {
	struct {
		unsigned int num_orcs;
		int *orc_unwind_ip;
		struct orc_entry *orc_unwind;
	} arch;
};

#define FTRACE_OPS_FL_SAVE_REGS 4
struct ftrace_ops {
	unsigned long flags, trampoline;
};

struct llist_node;
struct stack_info;

/* The kernel and the stacks. Python fills it in; all addresses are shifted. */
struct shim {
	unsigned long stext, etext, sinittext, einittext, fork_return;
	unsigned long ftrace_caller, ftrace_regs_caller;
	unsigned long return_to_handler, rethook_trampoline;
	bool (*is_text)(unsigned long addr);
	struct module *(*module_of)(unsigned long addr);
	struct ftrace_ops *(*ftrace_ops_of)(unsigned long addr);
	bool (*has_frame_pointer)(unsigned long addr);
	/* Original return addresses; which one depends on where it was rewritten. */
	unsigned long originals[64];
	/* The first is that of the task; a task that is not current has no other. */
	struct { unsigned long begin, end; int type; } stacks[4];
	unsigned int stack_count;
};
extern struct shim shim;
extern struct task_struct *shim_current;

#define current shim_current
#define _stext shim.stext
#define _etext shim.etext
#define ftrace_caller shim.ftrace_caller
#define ftrace_regs_caller shim.ftrace_regs_caller
#define ret_from_fork ((void *)shim.fork_return)
#define ret_from_fork_asm ((void *)shim.fork_return)
#define __kernel_text_address(addr) shim.is_text(addr)
#define __module_address(addr) shim.module_of(addr)
#define ftrace_ops_trampoline(addr) shim.ftrace_ops_of(addr)
#define bpf_has_frame_pointer(addr) shim.has_frame_pointer(addr)
#define is_rethook_trampoline(addr) ((addr) == shim.rethook_trampoline)

static inline bool is_kernel_inittext(unsigned long addr)
{
	return addr >= shim.sinittext && addr < shim.einittext;
}
#define init_kernel_text(addr) is_kernel_inittext(addr)

static inline unsigned long shim_original(unsigned long at)
{
	return shim.originals[at / 8 % 64];
}

static inline unsigned long ftrace_graph_ret_addr(struct task_struct *task, int *idx,
						  unsigned long ret, unsigned long *retp)
{
	return ret == shim.return_to_handler ? shim_original((unsigned long)retp) : ret;
}

static inline unsigned long rethook_find_ret_addr(struct task_struct *task, unsigned long frame,
						  struct llist_node **cur)
{
	return shim_original(frame + 8);
}

/* unwind_next_frame() begins with one of these, so a walk that does not end can be left. */
void shim_count_step(void);
#define preempt_disable() shim_count_step()
#define preempt_enable()
#define guard(what) shim_count_step

#endif
