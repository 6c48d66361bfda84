// SPDX-License-Identifier: GPL-2.0
/* Walks stacks with the kernel's unwinder, many in one call. See shim.h. */
#include <asm/stacktrace.h>
#include <asm/unwind.h>
#include <asm/orc_types.h>

#define MAX_STEPS 8192 /* as _MAX_STEPS in drgn_tools/unwind/orc.py */
#define MAX_KEPT_STEPS 320
#define MAX_ENTRIES 100 /* MAX_STACK_ENTRIES in kernel/livepatch/transition.c */
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/* Memory for the tables and stacks; the kernel's linker script defines these symbols. */
asm(".bss\n"
    ".balign 4096\n"
    ".globl shim_arena\n"
    "shim_arena: .skip " TEXT(ARENA_BYTES) "\n"
    ".globl __start_orc_unwind_ip, __stop_orc_unwind_ip\n"
    "__start_orc_unwind_ip: .skip 4 * " TEXT(ENTRIES) "\n"
    "__stop_orc_unwind_ip:\n"
    ".globl __start_orc_unwind, __stop_orc_unwind\n"
    "__start_orc_unwind: .skip 6 * " TEXT(ENTRIES) "\n"
    "__stop_orc_unwind:\n"
    ".balign 4\n"
    ".globl orc_lookup, orc_lookup_end\n"
    "orc_lookup: .skip 4 * " TEXT(LOOKUP_BLOCKS) "\n"
    "orc_lookup_end:\n"
    ".globl shim_module_tables\n"
    "shim_module_tables: .skip " TEXT(MODULE_TABLES_BYTES) "\n"
    ".text\n");

struct shim shim;
struct task_struct *shim_current;

extern char shim_arena[];

static struct task_struct task;
static unsigned int steps_left;
static jmp_buf endless;

struct step {
	unsigned long ip, regs, ip_at, flags;
};
enum { STEP_ERROR = 1, STEP_EXACT = 2, STEP_USER = 4 };

struct walk {
	unsigned int step_count; /* all, also those not kept */
	unsigned int error;
	unsigned int endless;
	int ret; /* of arch_stack_walk_reliable() */
	unsigned int entry_count;
};

void shim_count_step(void)
{
	if (!--steps_left)
		longjmp(endless, 1);
}

/* Follows arch/x86/kernel/dumpstack_64.c, the same from v5.10 to v7.2. */
bool get_stack_info_noinstr(unsigned long *stack, struct task_struct *of, struct stack_info *info)
{
	unsigned long addr = (unsigned long)stack;
	unsigned int i;

	for (i = 0; i < (of == current ? shim.stack_count : 1); i++) {
		if (addr < shim.stacks[i].begin || addr >= shim.stacks[i].end)
			continue;
		info->type = shim.stacks[i].type;
		info->begin = (unsigned long *)shim.stacks[i].begin;
		info->end = (unsigned long *)shim.stacks[i].end;
		info->next_sp = NULL;
		return true;
	}
	return false;
}

int get_stack_info(unsigned long *stack, struct task_struct *of, struct stack_info *info,
		   unsigned long *visit_mask)
{
	if (!stack || !get_stack_info_noinstr(stack, of, info) ||
	    *visit_mask & (1UL << info->type)) {
		info->type = STACK_TYPE_UNKNOWN;
		return -EINVAL;
	}
	*visit_mask |= 1UL << info->type;
	return 0;
}

int arch_stack_walk_reliable(stack_trace_consume_fn consume_entry, void *cookie,
			     struct task_struct *task);

/* stack_trace_consume_entry() in kernel/stacktrace.c, which nothing has to be skipped for. */
static bool consume_entry(void *cookie, unsigned long addr)
{
	unsigned int *len = cookie;

	if (*len >= MAX_ENTRIES)
		return false;
	++*len;
	return *len < MAX_ENTRIES;
}

static void walk_one(struct pt_regs *regs, struct walk *walk, struct step *steps)
{
	struct unwind_state state;

	memset(walk, 0, sizeof(*walk));
	steps_left = MAX_STEPS;
	if (setjmp(endless)) {
		walk->endless = 1;
		return;
	}
	for (unwind_start(&state, &task, regs, NULL); !unwind_done(&state);
	     unwind_next_frame(&state)) {
		struct step *step = steps + walk->step_count;
		struct pt_regs *saved = unwind_get_entry_regs(&state, NULL);

		if (walk->step_count++ >= MAX_KEPT_STEPS)
			continue;
		step->ip = state.ip;
		step->regs = (unsigned long)saved;
		step->ip_at = (unsigned long)unwind_get_return_address_ptr(&state);
		step->flags = (unwind_error(&state) ? STEP_ERROR : 0) |
			      (saved || state.signal ? STEP_EXACT : 0) |
			      (saved && user_mode(saved) ? STEP_USER : 0);
	}
	walk->error = unwind_error(&state);
	if (!regs)
		walk->ret = arch_stack_walk_reliable(consume_entry, &walk->entry_count, &task);
}

/*
 * Stack i is data[i], copied to the arena first; its task sleeps with thread.sp = sps[i] or, with
 * regs, runs with regs[i]. Its steps are copied behind those of the stack before.
 */
void shim_walk(unsigned int count, const char *data, unsigned long bytes, unsigned long at,
	       const unsigned long *sps, struct pt_regs *regs, struct walk *walks,
	       struct step *steps)
{
	unsigned int i;

	shim_current = regs ? &task : NULL;
	for (i = 0; i < count; i++) {
		memcpy(shim_arena + at, data + i * bytes, bytes);
		if (!regs)
			task.thread.sp = sps[i];
		walk_one(regs ? regs + i : NULL, walks + i, steps);
		steps += walks[i].step_count < MAX_KEPT_STEPS ? walks[i].step_count
							      : MAX_KEPT_STEPS;
	}
}

#ifdef COVERAGE
void __gcov_dump(void);
void shim_dump_coverage(void)
{
	__gcov_dump();
}
#endif
