// SPDX-License-Identifier: GPL-2.0
/*
 * Ways for a machine to die, each with the CPU on other stacks. A task writes
 * one of the names in the table at the end to /proc/lab_crash, and that is that.
 *
 * Where the machine dies by an NMI, LAB-NMI on the console asks the host for one;
 * it goes to CPU 0.
 */
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/hw_breakpoint.h>
#include <linux/interrupt.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/mc146818rtc.h>
#include <linux/module.h>
#include <linux/perf_event.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/version.h>

/* Something to do after a call, so that the call is not turned into a jump. */
#define not_a_tail_call() asm volatile("")

#define NEVER_MAPPED ((int *)0x1000)
#define LATER_NS (2 * NSEC_PER_MSEC)

noinline void lab_die(const char *where);
noinline void lab_fault(void);
noinline void lab_spin(unsigned long ticks);
noinline void lab_call(void (*function)(void));
noinline int lab_overflow(int calls);
noinline int lab_victim(int n);
noinline void lab_probed(void);
noinline void lab_hang(void);
noinline void lab_lose_stack(void);

static int spinning;

noinline void lab_die(const char *where)
{
	panic("lab: %s", where);
}

noinline void lab_fault(void)
{
	WRITE_ONCE(*NEVER_MAPPED, 1);
	not_a_tail_call();
}

#define FOR_GOOD (MAX_JIFFY_OFFSET)

/* Waits for its end: no other task comes to this CPU, interrupts do. */
noinline void lab_spin(unsigned long ticks)
{
	unsigned long end = jiffies + ticks;

	preempt_disable();
	WRITE_ONCE(spinning, 1);
	while (time_before(jiffies, end))
		cpu_relax();
	preempt_enable();
}

noinline void lab_call(void (*function)(void))
{
	OPTIMIZER_HIDE_VAR(function);
	function();
	not_a_tail_call();
}

/* --- hard interrupts --- */

static void (*when_fired)(void);

static enum hrtimer_restart timer_fired(struct hrtimer *timer)
{
	when_fired();
	not_a_tail_call();
	return HRTIMER_NORESTART;
}

/* The current task is hit in a system call. */
static void hit_by_interrupt(void (*function)(void))
{
	static struct hrtimer timer;

	when_fired = function;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	hrtimer_setup(&timer, timer_fired, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
#else
	hrtimer_init(&timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	timer.function = timer_fired;
#endif
	preempt_disable();
	hrtimer_start(&timer, ns_to_ktime(LATER_NS), HRTIMER_MODE_REL_PINNED_HARD);
	lab_spin(FOR_GOOD);
}

static void die_in_hardirq(void)
{
	lab_die("in a hard interrupt");
}

static void crash_hardirq(void)
{
	hit_by_interrupt(die_in_hardirq);
}

static void crash_hardirq_fault(void)
{
	hit_by_interrupt(lab_fault);
}

static void warned_in_hardirq(void)
{
	WARN(1, "lab: in a hard interrupt");
	lab_die("after a warning");
}

static void crash_hardirq_warn(void)
{
	hit_by_interrupt(warned_in_hardirq);
}

/* --- softirqs --- */

static void soft_timer_fired(struct timer_list *timer)
{
	lab_die("in a softirq");
	not_a_tail_call();
}

static struct timer_list soft_timer;

/*
 * The current task is hit by a softirq at the end of an interrupt. Before v6.4 there is none
 * while ksoftirqd is to run, and this task keeps it from running: then it gets its turn.
 */
static void hit_by_softirq(void (*function)(struct timer_list *))
{
	timer_setup(&soft_timer, function, TIMER_PINNED);
	for (;;) {
		preempt_disable();
		mod_timer(&soft_timer, jiffies + 2);
		lab_spin(HZ / 10);
		mod_timer(&soft_timer, jiffies + 3600 * HZ);
		preempt_enable();
		usleep_range(100 * USEC_PER_MSEC, 101 * USEC_PER_MSEC);
	}
}

/* On the way out of a hard interrupt. */
static void crash_softirq(void)
{
	hit_by_softirq(soft_timer_fired);
}

static void tasklet_runs(unsigned long unused)
{
	lab_die("in a softirq");
	not_a_tail_call();
}

static DECLARE_TASKLET_OLD(dying_tasklet, tasklet_runs);

/* When a task allows them again: no interrupt, no pt_regs in between. */
static void crash_softirq_task(void)
{
	local_bh_disable();
	tasklet_schedule(&dying_tasklet);
	local_bh_enable();
}

/* An interrupt, with a fault in it, on top of a softirq on top of a task. */
static void soft_timer_waits(struct timer_list *timer)
{
	hit_by_interrupt(lab_fault);
}

static void crash_hardirq_softirq(void)
{
	hit_by_softirq(soft_timer_waits);
}

/* --- NMIs --- */

static void ask_for_nmi(void)
{
	pr_emerg("LAB-NMI\n");
	lab_spin(FOR_GOOD);
}

static void crash_nmi(void)
{
	ask_for_nmi();
}

static void crash_nmi_irq(void)
{
	hit_by_interrupt(ask_for_nmi);
}

/* In user mode: the writer goes on and spins there. */
static void crash_nmi_user(void)
{
	pr_emerg("LAB-NMI\n");
}

/* --- exceptions --- */

static void crash_fault(void)
{
	lab_fault();
}

static void crash_null_call(void)
{
	lab_call(NULL);
}

/* With lab_call() and vfs_write() traced: their return addresses are elsewhere. */
static void crash_fgraph(void)
{
	lab_call(lab_fault);
}

static void crash_wild_call(void)
{
	lab_call((void (*)(void))0xffff000000001234);
}

static void crash_bug(void)
{
	BUG();
}

noinline int lab_overflow(int calls)
{
	volatile char room[200];
	int sum;

	room[calls % sizeof(room)] = calls;
	sum = lab_overflow(calls + 1);
	return sum + room[(calls + 1) % sizeof(room)];
}

static void crash_stack_overflow(void)
{
	lab_overflow(0);
}

/* Faults on a stack that is not the task's, and cannot be grown: in an interrupt. */
static void overflow_in_hardirq(void)
{
	lab_overflow(0);
}

static void crash_hardirq_overflow(void)
{
	hit_by_interrupt(overflow_in_hardirq);
}

/* --- hit by a hardware breakpoint: on the #DB stack --- */

static int watched;

static void breakpoint_hit(struct perf_event *event, struct perf_sample_data *data,
			   struct pt_regs *regs)
{
	lab_die("in a debug exception");
}

static void crash_debug(void)
{
	struct perf_event_attr attr;

	hw_breakpoint_init(&attr);
	attr.bp_addr = (unsigned long)&watched;
	attr.bp_len = HW_BREAKPOINT_LEN_4;
	attr.bp_type = HW_BREAKPOINT_W;
	if (IS_ERR((void __force *)register_wide_hw_breakpoint(&attr, breakpoint_hit, NULL)))
		return;
	WRITE_ONCE(watched, 1);
}

/* --- kprobes --- */

noinline int lab_victim(int n)
{
	asm volatile("nop; nop; nop; nop; nop; nop; nop; nop");
	return n + 1;
}

static int probe_hit(struct kprobe *probe, struct pt_regs *regs)
{
	BUG();
	return 0;
}

static void probe_passed(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = { .pre_handler = probe_hit };

static void hit_probe(void)
{
	int ret = register_kprobe(&probe);

	if (ret)
		pr_emerg("LAB-FAILED register_kprobe: %d\n", ret);
	else
		lab_victim(1);
	not_a_tail_call();
}

/* The nops, wherever they are behind the prologue. */
static void *inside_victim(void)
{
	u8 *at = (u8 *)lab_victim + 16;

	while (at[0] != 0x90 || at[1] != 0x90)
		at++;
	return at;
}

/* At the function's entry: called from an ftrace trampoline. */
static void crash_kprobe_ftrace(void)
{
	probe.symbol_name = "lab_victim";
	hit_probe();
}

/* A probe with a post_handler is never optimized: an int3. */
static void crash_kprobe_int3(void)
{
	probe.addr = inside_victim();
	probe.post_handler = probe_passed;
	hit_probe();
}

/* A jump to a copy of the instructions, which calls the handler. */
static void crash_kprobe_opt(void)
{
	u8 *at = inside_victim();

	probe.addr = at;
	if (register_kprobe(&probe))
		return;
	while (READ_ONCE(*at) != 0xe9)
		msleep(20);
	lab_victim(1);
	not_a_tail_call();
}

static int return_probe_hit(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	BUG();
	return 0;
}

static struct kretprobe return_probe = {
	.handler = return_probe_hit,
	.kp.symbol_name = "lab_victim",
};

static void crash_kretprobe(void)
{
	if (!register_kretprobe(&return_probe))
		lab_victim(1);
	not_a_tail_call();
}

/* The address that it returns to is the trampoline's until it does. */
noinline void lab_probed(void)
{
	lab_fault();
	not_a_tail_call();
}

static int nothing_hit(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	return 0;
}

static struct kretprobe harmless_probe = {
	.handler = nothing_hit,
	.kp.symbol_name = "lab_probed",
};

static void crash_kretprobe_below(void)
{
	if (!register_kretprobe(&harmless_probe))
		lab_probed();
	not_a_tail_call();
}

/* --- more CPUs --- */

/* Deaf to everything but an NMI. */
noinline void lab_hang(void)
{
	local_irq_disable();
	WRITE_ONCE(spinning, 1);
	for (;;)
		cpu_relax();
}

static void hang_on_this_cpu(void)
{
	lab_hang();
	not_a_tail_call();
}

static void crash_lockup(void)
{
	while (!READ_ONCE(spinning))
		cpu_relax();
	mdelay(20);
	lab_die("another CPU is hung");
}

#ifdef CONFIG_X86_32

/* --- no stack at all: those of x86-32 have no guard page to run into --- */

/* The push faults, and so does the exception, which would be pushed there, too. */
noinline void lab_lose_stack(void)
{
	asm volatile("movl %0, %%esp\n\tpushl %0" : : "r" (NEVER_MAPPED) : "memory");
}

static void crash_double_fault(void)
{
	lab_lose_stack();
	not_a_tail_call();
}

/* --- interrupts of a device: on x86-32 they have a stack, the timer's have none --- */

#define CLOCK_LINE 8
#define TICKS_64_HZ (RTC_REF_CLCK_32KHZ | 10)

static struct task_struct *to_be_hit;
static bool softirq_to_be_hit;

static irqreturn_t clock_ticked(int line, void *unused)
{
	spin_lock(&rtc_lock);
	CMOS_READ(RTC_INTR_FLAGS); /* or this was the last one */
	spin_unlock(&rtc_lock);
	if (current == to_be_hit && !in_serving_softirq() == !softirq_to_be_hit)
		when_fired();
	return IRQ_HANDLED;
}

/* The real-time clock is to interrupt this CPU and call a function. */
static void listen_to_clock(void (*function)(void))
{
	int ret;

	when_fired = function;
	ret = request_irq(CLOCK_LINE, clock_ticked, 0, "lab", NULL);
	if (!ret)
		ret = irq_set_affinity(CLOCK_LINE, cpumask_of(raw_smp_processor_id()));
	if (ret)
		pr_emerg("LAB-FAILED interrupt of the clock: %d\n", ret);
}

/* The current task is hit, or the softirq that runs on top of it. */
static void hit_by_clock(void)
{
	unsigned long flags;

	softirq_to_be_hit = in_serving_softirq();
	to_be_hit = current;
	spin_lock_irqsave(&rtc_lock, flags);
	CMOS_WRITE(TICKS_64_HZ, RTC_FREQ_SELECT);
	CMOS_WRITE(CMOS_READ(RTC_CONTROL) | RTC_PIE, RTC_CONTROL);
	CMOS_READ(RTC_INTR_FLAGS);
	spin_unlock_irqrestore(&rtc_lock, flags);
	lab_spin(FOR_GOOD);
}

static void crash_device_fault(void)
{
	listen_to_clock(lab_fault);
	hit_by_clock();
}

static void crash_device_nmi(void)
{
	listen_to_clock(ask_for_nmi);
	hit_by_clock();
}

static void soft_timer_waits_for_clock(struct timer_list *timer)
{
	hit_by_clock();
}

/* An interrupt, with a fault in it, on top of a softirq on top of a task: three stacks. */
static void crash_device_softirq(void)
{
	listen_to_clock(lab_fault);
	hit_by_softirq(soft_timer_waits_for_clock);
}

#endif /* CONFIG_X86_32 */

static const struct {
	const char *name;
	void (*function)(void);
} crashes[] = {
	{ "bug", crash_bug },
	{ "debug", crash_debug },
#ifdef CONFIG_X86_32
	{ "device-fault", crash_device_fault },
	{ "device-nmi", crash_device_nmi },
	{ "device-softirq", crash_device_softirq },
	{ "double-fault", crash_double_fault },
#endif
	{ "fault", crash_fault },
	{ "fgraph", crash_fgraph },
	{ "hang", hang_on_this_cpu },
	{ "hardirq", crash_hardirq },
	{ "hardirq-fault", crash_hardirq_fault },
	{ "hardirq-overflow", crash_hardirq_overflow },
	{ "hardirq-softirq", crash_hardirq_softirq },
	{ "hardirq-warn", crash_hardirq_warn },
	{ "kprobe-ftrace", crash_kprobe_ftrace },
	{ "kprobe-int3", crash_kprobe_int3 },
	{ "kprobe-opt", crash_kprobe_opt },
	{ "kretprobe", crash_kretprobe },
	{ "kretprobe-below", crash_kretprobe_below },
	{ "lockup", crash_lockup },
	{ "nmi", crash_nmi },
	{ "nmi-irq", crash_nmi_irq },
	{ "nmi-user", crash_nmi_user },
	{ "null-call", crash_null_call },
	{ "softirq", crash_softirq },
	{ "softirq-task", crash_softirq_task },
	{ "stack-overflow", crash_stack_overflow },
	{ "wild-call", crash_wild_call },
};

static ssize_t crash_write(struct file *f, const char __user *buf, size_t count, loff_t *pos)
{
	char name[32] = "";
	int i;

	if (count >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, buf, count))
		return -EFAULT;
	for (i = 0; i < ARRAY_SIZE(crashes); i++)
		if (!strcmp(name, crashes[i].name)) {
			crashes[i].function();
			return count;
		}
	return -EINVAL;
}

static const struct proc_ops crash_ops = { .proc_write = crash_write };

static int __init crash_init(void)
{
	return proc_create("lab_crash", 0200, NULL, &crash_ops) ? 0 : -ENOMEM;
}

module_init(crash_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Ways for a machine to die");
