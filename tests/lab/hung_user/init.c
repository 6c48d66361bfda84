// SPDX-License-Identifier: GPL-2.0
/*
 * The init of a guest that hangs on purpose: starts tasks that wait for each other in ways that are known,
 * and innocent ones beside them. ../hung_module/hung.c takes the locks and writes down who waits for what.
 *
 * lab.live=NAME on the kernel command line names a program in /live that is run when all hang. How the host
 * hears of trouble is in ../user/expected.c.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
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

#define PAGE 4096

/* ----------------------------------------------------------------------- helpers */

static void load(const char *name)
{
	char path[80];
	int fd;

	snprintf(path, sizeof(path), "/modules/%s.ko", name);
	fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
	must(syscall(SYS_finit_module, fd, "", 0), path);
	close(fd);
}

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

static int ask(const char *line)
{
	int fd = must(open("/proc/lab_hung", O_WRONLY | O_CLOEXEC), "/proc/lab_hung");
	int ret = write(fd, line, strlen(line));

	close(fd);
	return ret;
}

/* A task that waits is not asked to be anywhere if its kernel cannot do this. */
static void take(const char *what)
{
	char line[64];

	snprintf(line, sizeof(line), "take %s", what);
	if (ask(line) < 0)
		cannot(what);
}

static void hold(const char *what)
{
	char line[64];

	snprintf(line, sizeof(line), "hold %s", what);
	if (ask(line) < 0)
		cannot(what);
}

/* Shared by all processes: how many have what they are to hold. */
static int *ready;

static void say_ready(void)
{
	__atomic_fetch_add(ready, 1, __ATOMIC_SEQ_CST);
}

static void wait_until_ready(int count)
{
	for (int i = 0; i < 6000; i++) {
		if (__atomic_load_n(ready, __ATOMIC_SEQ_CST) >= count)
			return;
		usleep(20000);
	}
	fail("not all tasks have taken what they are to hold");
}

static int nr_holders;

static void rest(void)
{
	for (;;)
		pause();
}

/* ------------------------------------------------------------------- who waits for whom */

/*
 * First all take what they hold; then, in the order of ``turn``, they wait. Who waits in a later turn
 * comes to a lock when those of the turns before wait for it.
 */
static const struct role {
	const char *name, *holds, *waits;
	int turn;
	const char *states;	/* in which it ends up */
} roles[] = {
	/* A-B, B-A */
	{ "abba-1", "mutex 0", "mutex 1", 0, "D" },
	{ "abba-2", "mutex 1", "mutex 0", 0, "D" },
	{ "abba-late", NULL, "mutex 0", 1, "D" },
	/* a cycle of three */
	{ "ring-1", "mutex 2", "mutex 3", 0, "D" },
	{ "ring-2", "mutex 3", "mutex 4", 0, "D" },
	{ "ring-3", "mutex 4", "mutex 2", 0, "D" },
	/* a cycle through two kinds */
	{ "mixed-1", "rwsem-w 0", "mutex 5", 0, "D" },
	{ "mixed-2", "mutex 5", "rwsem-r 0", 0, "D" },
	{ "mixed-late", NULL, "rwsem-w 0", 1, "D" },
	{ "self", "mutex 6", "mutex 6", 0, "D" },
	/* a chain, at the end of which somebody sleeps who holds nothing back on purpose */
	{ "chain-end", "mutex 7", NULL, 0, "S" },
	{ "chain-3", "mutex 8", "mutex 7", 0, "D" },
	{ "chain-2", "mutex 9", "mutex 8", 0, "D" },
	{ "chain-1", NULL, "mutex 9", 0, "D" },
	{ "chain-1-kill", NULL, "mutex-killable 9", 1, "D" },
	{ "chain-1-int", NULL, "mutex-int 9", 1, "S" },
	/* readers behind a writer behind a reader */
	{ "rw-reader", "rwsem-r 1", NULL, 0, "S" },
	{ "rw-writer", NULL, "rwsem-w 1", 0, "D" },
	{ "rw-late-1", NULL, "rwsem-r 1", 1, "D" },
	{ "rw-late-2", NULL, "rwsem-r 1", 1, "D" },
	{ "wr-writer", "rwsem-w 2", NULL, 0, "S" },
	{ "wr-reader", NULL, "rwsem-r 2", 0, "D" },
	{ "wr-writer-2", NULL, "rwsem-w 2", 1, "D" },
	{ "rt-owner", "rt-mutex 0", NULL, 0, "S" },
	{ "rt-waiter", NULL, "rt-mutex 0", 0, "D" },
	{ "rt-waiter-2", NULL, "rt-mutex 0", 1, "D" },
	/* nobody knows who holds these */
	{ "sem-holder", "semaphore 0", NULL, 0, "S" },
	{ "sem-waiter", NULL, "semaphore 0", 0, "D" },
	{ "sem-waiter-2", NULL, "semaphore 0", 1, "D" },
	{ "completion", NULL, "completion 0", 0, "D" },
	{ "queue", NULL, "queue 0", 0, "D" },
	{ "bit-holder", "bit 0", NULL, 0, "S" },
	{ "bit-waiter", NULL, "bit 0", 0, "D" },
	{ "folio-holder", "folio 0", NULL, 0, "S" },
	{ "folio-waiter", NULL, "folio 0", 0, "D" },
	{ "percpu-writer", "percpu-w 0", NULL, 0, "S" },
	{ "percpu-reader", NULL, "percpu-r 0", 0, "D" },
	{ "disk", NULL, "disk 0", 0, "D" },
	/* the owner has exited with it: its task is freed, or a zombie */
	{ "dead-waiter", NULL, "mutex 10", 0, "D" },
	{ "zombie-waiter", NULL, "mutex 12", 0, "D" },
	/* the owner runs */
	{ "spin-owner", "mutex 11", NULL, 0, "" },
	{ "spin-waiter", NULL, "mutex 11", 0, "D" },
};

static const struct role *role;
static int *turn;
static int finds_deadlocks;

/*
 * With PREEMPT_RT a mutex is an rt_mutex. Whoever would close a circle of them is found out, warned of,
 * and put to sleep (S) for good: rt_mutex_handle_deadlock().
 */
static int has_preempt_rt(void)
{
	return !access("/sys/kernel/realtime", F_OK);
}

static int may_close_circle(const struct role *r)
{
	return finds_deadlocks && r->holds && r->waits && strncmp(r->name, "chain", 5);
}

static void spin(void)
{
	for (;;)
		;
}

static void play(void)
{
	i_am(role->name, may_close_circle(role) ? "DS" : role->states);
	if (role->holds) {
		hold(role->holds);
		say_ready();
	}
	if (!role->states[0])
		spin();
	while (__atomic_load_n(turn, __ATOMIC_SEQ_CST) < role->turn)
		usleep(10000);
	if (role->waits)
		take(role->waits);
	rest();
}

static void exit_with_mutex(void)
{
	prctl(PR_SET_NAME, "dead-owner");
	hold("mutex 10");
}

static void be_zombie_with_mutex(void)
{
	prctl(PR_SET_NAME, "zombie-owner");
	hold("mutex 12");
	say_ready();
}

static void start_roles(void)
{
	for (unsigned i = 0; i < COUNT(roles); i++) {
		role = &roles[i];
		nr_holders += !!role->holds;
		process(play);
	}
	wait_until_ready(nr_holders);
}

static int is_waiting(const char *name)
{
	char path[32], comm[32];
	FILE *f;

	for (int pid = 2; pid < 1000; pid++) {
		snprintf(path, sizeof(path), "/proc/%d/comm", pid);
		f = fopen(path, "re");
		if (!f)
			continue;
		comm[0] = 0;
		(void)!fgets(comm, sizeof(comm), f);
		fclose(f);
		comm[strcspn(comm, "\n")] = 0;
		if (strcmp(comm, name))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/stat", pid);
		f = fopen(path, "re");
		if (f) {
			char state = 0;
			int found = fscanf(f, "%*d (%*[^)]) %c", &state) == 1;

			fclose(f);
			return found && state == 'D';
		}
	}
	return 0;
}

/* ------------------------------------------------------------------------- mmap_lock */

/*
 *	mm-fault	reads its memory in the kernel with mmap_lock held, in a page that nobody provides
 *	mm-map		mmap(): waits for it to write
 *	mm-read		waits behind that to read
 */
static char *missing;
static pid_t fault_tid;
static int about_to_map;

static void mm_fault(void)
{
	int fd;

	i_am("mm-fault", "SD");
	fd = must(open("/proc/lab_hung", O_WRONLY | O_CLOEXEC), "/proc/lab_hung");
	hold("mmap-r 0");
	__atomic_store_n(&fault_tid, syscall(SYS_gettid), __ATOMIC_SEQ_CST);
	(void)!write(fd, missing, 16);
	cannot("a fault that nobody answers");
}

static void expect(const char *kind)
{
	char line[64];

	snprintf(line, sizeof(line), "expect %s %d", kind, fault_tid);
	ask(line);
}

static void mm_map(void)
{
	i_am("mm-map", "D");
	expect("mmap-w");
	__atomic_store_n(&about_to_map, 1, __ATOMIC_SEQ_CST);
	mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cannot("mmap");
}

static void mm_read(void)
{
	expect("mmap-r");
	hold("mmap-r 0");
	cannot("mmap_lock");
}

static char stacks[2][65536] __attribute__((aligned(4096)));

static void thread_on(void *stack, void *(*fn)(void *))
{
	pthread_attr_t attr;
	pthread_t t;

	pthread_attr_init(&attr);
	pthread_attr_setstack(&attr, stack, sizeof(stacks[0]));
	errno = pthread_create(&t, &attr, fn, NULL);
	if (errno)
		fail("pthread_create: %s", strerror(errno));
}

static void *run_fault(void *arg)
{
	mm_fault();
	return arg;
}

static void *run_read(void *arg)
{
	i_am("mm-read", "D");
	/* Without malloc(): that may need mmap_lock itself. */
	while (!__atomic_load_n(&about_to_map, __ATOMIC_SEQ_CST))
		usleep(20000);
	usleep(500000);
	mm_read();
	return arg;
}

static void be_process_with_fault(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);

	prctl(PR_SET_NAME, "mm-leader");
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		skipped("userfaultfd: %s", strerror(errno));
		rest();
	}
	memset(stacks, 1, sizeof(stacks));
	/* Nothing but what is meant to may need mmap_lock: no other page is to be missing. */
	must(mlockall(MCL_CURRENT), "mlockall");
	missing = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (unsigned long)missing;
	reg.range.len = PAGE;
	must(ioctl(fd, UFFDIO_REGISTER, &reg), "UFFDIO_REGISTER");
	/* Before the fault: a thread that starts later would need mmap_lock itself. */
	thread_on(stacks[0], run_read);
	thread_on(stacks[1], run_fault);
	while (!__atomic_load_n(&fault_tid, __ATOMIC_SEQ_CST))
		usleep(20000);
	usleep(200000);
	mm_map();
	rest();
}

/* ---------------------------------------------------------------------------- futexes */

static int pi_word, plain_word;

static void pi_owner(void)
{
	i_am("pi-owner", "S");
	must(syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0), "FUTEX_LOCK_PI");
	__atomic_store_n(&plain_word, 1, __ATOMIC_SEQ_CST);
	rest();
}

static void pi_waiter(void)
{
	while (!__atomic_load_n(&plain_word, __ATOMIC_SEQ_CST))
		usleep(10000);
	i_am("pi-waiter", "S");
	syscall(SYS_futex, &pi_word, FUTEX_LOCK_PI_PRIVATE, 0, NULL, NULL, 0);
	cannot("FUTEX_LOCK_PI");
}

static void be_process_with_futexes(void)
{
	prctl(PR_SET_NAME, "pi-leader");
	/* Its word must hold the owner's tid: the kernel puts it there only if somebody waits. */
	thread(pi_owner);
	thread(pi_waiter);
	rest();
}

/* --------------------------------------------------------------------------- innocents */

static void calm_nanosleep(void)
{
	i_am("calm-sleep", "S");
	for (;;)
		sleep(100000);
}

static void calm_pause(void)
{
	i_am("calm-pause", "S");
	rest();
}

static void calm_pipe(void)
{
	int p[2];
	char c;

	i_am("calm-pipe", "S");
	must(pipe(p), "pipe");
	(void)!read(p[0], &c, 1);
}

static void calm_poll(void)
{
	int p[2];
	struct pollfd f = { .events = POLLIN };

	i_am("calm-poll", "S");
	must(pipe(p), "pipe");
	f.fd = p[0];
	poll(&f, 1, -1);
}

static void calm_epoll(void)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event;

	i_am("calm-epoll", "S");
	epoll_wait(fd, &event, 1, -1);
}

static void calm_futex(void)
{
	static int word;

	i_am("calm-futex", "S");
	syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void calm_wait(void)
{
	i_am("calm-wait", "S");
	process(rest);
	wait(NULL);
}

static void calm_vfork(void)
{
	i_am("calm-vfork", "D");
	if (!vfork()) {
		for (;;)
			syscall(SYS_pause);
	}
}

static void (*const innocents[])(void) = {
	calm_nanosleep, calm_pause, calm_pipe, calm_poll, calm_epoll, calm_futex, calm_wait, calm_vfork,
};

/* -------------------------------------------------------------------------------- init */

/* Returns when the program has ended well. */
static void run_live(void)
{
	char line[4096] = "", *at, path[128];
	int fd = must(open("/proc/cmdline", O_RDONLY | O_CLOEXEC), "/proc/cmdline");
	pid_t pid;
	int status;

	must(read(fd, line, sizeof(line) - 1), "/proc/cmdline");
	close(fd);
	at = strstr(line, "lab.live=");
	if (!at)
		return;
	at += strlen("lab.live=");
	at[strcspn(at, " \n")] = 0;
	snprintf(path, sizeof(path), "/live/%s", at);
	pid = must(fork(), "fork");
	if (!pid) {
		static char *const env[] = {
			"PATH=/usr/bin:/bin", "HOME=/tmp", "TERM=dumb", "LANG=C.UTF-8", NULL,
		};
		int console = must(open("/dev/console", O_RDWR), "/dev/console");

		for (int i = 0; i < 3; i++)
			dup2(console, i);
		execle(path, path, NULL, env);
		fail("%s: %s", path, strerror(errno));
	}
	must(waitpid(pid, &status, 0), "waitpid");
	tell("LAB-LIVE", "%d", status);
}

static void drive(void)
{
	pid_t dead;

	prctl(PR_SET_NAME, "lab-driver");
	*turn = -1;
	process(be_zombie_with_mutex);
	nr_holders++;
	start_roles();
	process(be_process_with_fault);
	process(be_process_with_futexes);
	for (unsigned i = 0; i < COUNT(innocents); i++)
		process(innocents[i]);
	/* Last: a task that starts later, as the threads of these may, can get the memory of that one. */
	sleep(4);
	dead = process(exit_with_mutex);
	must(waitpid(dead, NULL, 0), "waitpid");
	*turn = 0;
	while ((!finds_deadlocks && (!is_waiting("abba-1") || !is_waiting("abba-2") ||
				     !is_waiting("mixed-1") || !is_waiting("mixed-2"))) ||
	       !is_waiting("chain-1") || !is_waiting("rw-writer") || !is_waiting("wr-reader") ||
	       !is_waiting("sem-waiter"))
		usleep(20000);
	sleep(1);
	*turn = 1;
	wait_for_all();
	if (!access("/proc/sys/kernel/hung_task_timeout_secs", W_OK)) {
		put("/proc/sys/kernel/hung_task_warnings", "-1", 0);
		put("/proc/sys/kernel/hung_task_timeout_secs", "2", 0);
		sleep(7);
	} else {
		sleep(3);
	}
	run_live();
	must(ask("seal"), "seal");
	rest();
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
	ready = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ready == MAP_FAILED)
		fail("no memory");
	turn = ready + 1;
	finds_deadlocks = has_preempt_rt();
	load_modules();
	if (!must(fork(), "fork"))
		drive();
	for (;;)
		wait(NULL);
}
