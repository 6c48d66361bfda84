// SPDX-License-Identifier: GPL-2.0
/*
 * The init of a guest with live patches: starts tasks in and out of what is patched, has the patches
 * loaded, and has the kernel say what it thinks of each task.
 *
 * lab.livepatch=NAME on the kernel command line names the scenario, see the end of this file. In one of
 * them, lab.live=NAME names a program in /live. How the host hears of trouble is in ../user/expected.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "../user/lab.h"

#define TARGET "/proc/klp_lab"
#define DYNAMIC_DEBUG "/proc/dynamic_debug/control"
#define PATCHES "/sys/kernel/livepatch"
/* Kernels with PREEMPT_DYNAMIC patch each cond_resched() as a transition begins and ends. */
#define PATIENCE_SECONDS 280
#define PAGE 4096

/* ----------------------------------------------------------------------- helpers */

/* Returns what write() does. */
static long give(const char *path, const char *text)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC), path);
	long written = write(fd, text, strlen(text));

	close(fd);
	return written;
}

static void give_or_fail(const char *path, const char *text)
{
	if (give(path, text) < 0)
		fail("%s: '%s': %s", path, text, strerror(errno));
}

static void load(const char *name)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/modules/%s.ko", name);
	fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
	must(syscall(SYS_finit_module, fd, "", 0), path);
	close(fd);
}

/* What follows a word of the kernel command line, up to a space. */
static const char *word_on_command_line(const char *word)
{
	static char line[4096];
	int fd = must(open("/proc/cmdline", O_RDONLY | O_CLOEXEC), "/proc/cmdline");
	char *at;

	must(read(fd, line, sizeof(line) - 1), "/proc/cmdline");
	close(fd);
	at = strstr(line, word);
	if (!at)
		fail("there is no %s", word);
	at += strlen(word);
	at[strcspn(at, " \n")] = 0;
	return at;
}

static void stay_on(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	must(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
}

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* From here on the kernel says ``text`` so many times. */
static void wait_for_message(const char *text, int times)
{
	int fd = must(open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC), "/dev/kmsg");
	time_t limit = now() + PATIENCE_SECONDS;
	static char record[8192];

	must(lseek(fd, 0, SEEK_END), "/dev/kmsg");
	while (times > 0) {
		struct pollfd f = { fd, POLLIN, 0 };
		ssize_t n;

		if (now() > limit)
			fail("the kernel does not say '%s'", text);
		poll(&f, 1, 1000);
		n = read(fd, record, sizeof(record) - 1);
		if (n <= 0)
			continue;	/* nothing yet, or more than the buffer holds */
		record[n] = 0;
		if (strstr(record, text))
			times--;
	}
	close(fd);
}

static void wait_for_end_of_transition(void)
{
	time_t limit = now() + PATIENCE_SECONDS;
	char answer = '1';

	while (answer != '0') {
		int fd = must(open(PATCHES "/lab_patch1/transition", O_RDONLY | O_CLOEXEC),
			      "transition");

		if (now() > limit)
			fail("the transition does not end");
		must(read(fd, &answer, 1), "transition");
		close(fd);
		usleep(20000);
	}
}

/* ------------------------------------------------------------------------- tasks */

/* What is behind the dash of their names. */
static const struct sleeper {
	const char *name, *line, *states;
	int for_good;		/* klp_target cannot let it go */
} sleepers[] = {
	{ "old-s", "old 0", "S", 0 },
	{ "old-d", "old 1", "D", 0 },
	{ "old-i", "old 2", "I", 0 },
	{ "plain", "plain 0", "S", 0 },
	{ "deep", "deep 20", "D", 0 },
	{ "too-deep", "deep 110", "D", 0 },
	{ "same1", "same1 1", "D", 0 },
	{ "same2", "same2 1", "D", 0 },
	{ "off", "off", "D", 1 },
	{ "cold", "cold", "D", 0 },
};

static const char *prefix;	/* "w": the first ones; "v": those of later */
static int all_can_leave;	/* start nobody who never leaves */

static void be(const char *name, const char *states)
{
	char whole[16];

	snprintf(whole, sizeof(whole), "%s-%s", prefix, name);
	i_am(whole, states);
}

static void sleep_as(const struct sleeper *s)
{
	if (all_can_leave && s->for_good)
		return;
	be(s->name, s->states);
	give(TARGET, s->line);
	for (;;)
		pause();
}

static unsigned turn;

static void sleep_in_turn(void)
{
	sleep_as(&sleepers[__atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST)]);
}

static void eventfd_reader(void)
{
	int fd = eventfd(0, 0);
	uint64_t value;

	be("eventfd", "S");
	for (;;)
		(void)!read(fd, &value, sizeof(value));
}

/* Faults in kernel mode, in a page that nobody provides. */
static void fault_in_kernel(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	int p[2];
	char *page;

	be("kfault", "SD");
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		cannot("userfaultfd");
		return;
	}
	page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (unsigned long)page;
	reg.range.len = PAGE;
	must(ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
	must(pipe(p), "pipe");
	(void)!write(p[1], page, PAGE);
}

static void be_process_of_sleepers(void)
{
	be("leader", "S");
	for (unsigned i = 0; i < COUNT(sleepers); i++)
		thread(sleep_in_turn);
	for (;;)
		pause();
}

static void spin_in_user_mode(void)
{
	stay_on(0);
	be("spin-user", "");
	for (;;)
		;
}

static void spin_in_kernel(void)
{
	static char buffer[1 << 20];
	int fd = must(open("/dev/zero", O_RDONLY | O_CLOEXEC), "/dev/zero");

	stay_on(0);
	be("spin-zero", "");
	for (;;)
		(void)!read(fd, buffer, sizeof(buffer));
}

/* ``kthreads``: a line for klp_target. */
static void start_tasks(const char *name, const char *kthreads)
{
	prefix = name;
	process(be_process_of_sleepers);
	process(eventfd_reader);
	if (!all_can_leave)
		process(fault_in_kernel);
	give_or_fail(TARGET, kthreads);
	wait_for_all();
}

static void start_spinners(void)
{
	process(spin_in_user_mode);
	process(spin_in_kernel);
	wait_for_all();
}

static void start_first_tasks(void)
{
	start_tasks("w", "kthreads k");
	start_spinners();
}

/* --------------------------------------------------------------------- scenarios */

/* Returns when the host has dumped the machine. */
static void hold_at(const char *moment)
{
	give_or_fail("/proc/klp_oracle", moment);
}

static int says_why;	/* klp_try_switch_task() does: dynamic debug messages */

/* Two rounds on, all have moved who can. */
static void wait_for_rounds(const char *straggler)
{
	if (says_why)
		wait_for_message(straggler, 3);
	else
		sleep(4);	/* a round takes a second */
}

static void load_patch1_and_stall(void)
{
	load("lab_patch1");
	wait_for_rounds("w-old-d:");
}

static void stalled(void)
{
	start_first_tasks();
	hold_at("before");
	load_patch1_and_stall();
	/* It is free to go from now on, and is not asked before the next round. */
	give_or_fail(TARGET, "go k-free");
	hold_at("stalled");
}

static void signalled(void)
{
	start_first_tasks();
	load("lab_patch1");
	wait_for_message("signaling remaining tasks", 1);
	wait_for_rounds("w-old-d:");
	hold_at("signalled");
}

static void replaced(void)
{
	start_tasks("w", "kthreads k");
	load_patch1_and_stall();
	/* Or they run where those that come now are meant to. */
	give_or_fail(TARGET, "go k-spin/1a");
	give_or_fail(TARGET, "go k-spin/1b");
	give_or_fail(PATCHES "/lab_patch1/force", "1");
	wait_for_end_of_transition();
	start_tasks("v", "kthreads kv");
	start_spinners();
	hold_at("before");
	load("lab_patch2");
	wait_for_rounds("v-old-d:");
	give_or_fail(TARGET, "go kv-free");
	hold_at("replaced");
}

static void disabled(void)
{
	load("lab_patch1");
	wait_for_end_of_transition();
	start_tasks("v", "kthreads kv");
	start_spinners();
	give_or_fail(PATCHES "/lab_patch1/enabled", "0");
	wait_for_rounds("v-old-d:");
	give_or_fail(TARGET, "go kv-free");
	hold_at("disabled");
}

static void sleep_in_late_function(void)
{
	be("late", "D");
	give(TARGET, "late 1");
	cannot("late");
}

static void late(void)
{
	start_first_tasks();
	load_patch1_and_stall();
	load("lab_absent");
	process(sleep_in_late_function);
	wait_for_all();
	wait_for_rounds(" is sleeping on function absent_fn");
	hold_at("late");
}

/* Returns when the program has ended well. */
static void run_live(const char *name)
{
	char path[128];
	pid_t pid = must(fork(), "fork");
	int status;

	snprintf(path, sizeof(path), "/live/%s", name);
	if (!pid) {
		static char *const env[] = {
			"PATH=/usr/bin:/bin", "HOME=/tmp", "TERM=dumb", "LANG=C.UTF-8", NULL,
		};
		int fd = must(open("/dev/console", O_RDWR), "/dev/console");

		for (int i = 0; i < 3; i++)
			dup2(fd, i);
		execle(path, path, NULL, env);
		fail("%s: %s", path, strerror(errno));
	}
	must(waitpid(pid, &status, 0), "waitpid");
	tell("LAB-LIVE", "%d", status);
}

/* The program loads the patch, and lets the tasks go. */
static void watch(void)
{
	all_can_leave = 1;
	start_tasks("w", "kthreads k");
	run_live(word_on_command_line("lab.live="));
}

static const struct scenario {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{ "stalled", stalled },
	{ "signalled", signalled },
	{ "replaced", replaced },
	{ "disabled", disabled },
	{ "late", late },
	{ "watch", watch },
};

static void run_scenario(const char *name)
{
	for (unsigned i = 0; i < COUNT(scenarios); i++)
		if (!strcmp(scenarios[i].name, name)) {
			scenarios[i].run();
			for (;;)
				pause();
		}
	fail("no scenario is named '%s'", name);
}

/* -------------------------------------------------------------------------- init */

/* The modules that the host names, in its order. */
static void load_modules(void)
{
	char name[64];
	FILE *f = fopen("/modules/order", "re");

	while (f && fgets(name, sizeof(name), f)) {
		name[strcspn(name, "\n")] = 0;
		load(name);
	}
	if (f)
		fclose(f);
}

int main(void)
{
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 01777);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	expect_init();
	load_modules();
	says_why = !access(DYNAMIC_DEBUG, F_OK);
	if (says_why)
		give_or_fail(DYNAMIC_DEBUG, "func klp_try_switch_task +p");
	if (!must(fork(), "fork")) {
		prctl(PR_SET_NAME, "lab-driver");
		stay_on(0);	/* kernel threads spin on the other one */
		run_scenario(word_on_command_line("lab.livepatch="));
	}
	for (;;)
		wait(NULL);
}
