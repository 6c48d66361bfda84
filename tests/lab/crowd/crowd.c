// SPDX-License-Identifier: GPL-2.0
/*
 * A crowd: processes of many threads, which sleep for good where threads of servers do.
 * crowd.tasks=N on the kernel command line says how many tasks there are to be. When all
 * of them sleep this ends well, and init (tests/lab/user) freezes the machine.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define THREADS 50		/* of a process, its first one among them */
#define PATIENCE_SECONDS 280

_Noreturn static void fail(const char *what)
{
	fprintf(stderr, "LAB-FAILED crowd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static long must(long result, const char *what)
{
	if (result < 0)
		fail(what);
	return result;
}

/* ------------------------------------------------------------------- the sleepers */

static int quiet[2];	/* a pipe into which nobody writes; one for each process */

static void in_futex(void)
{
	static int word;

	syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static void in_nanosleep(void)
{
	sleep(1000000);
}

static void in_clock_nanosleep(void)
{
	struct timespec t = { 1000000, 0 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void in_read(void)
{
	char c;

	(void)!read(quiet[0], &c, 1);
}

static void in_poll(void)
{
	struct pollfd f = { quiet[0], POLLIN, 0 };

	poll(&f, 1, -1);
}

static void in_select(void)
{
	fd_set set;

	FD_ZERO(&set);
	FD_SET(quiet[0], &set);
	select(quiet[0] + 1, &set, NULL, NULL, NULL);
}

static void in_epoll(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int fd = must(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");

	epoll_ctl(fd, EPOLL_CTL_ADD, quiet[0], &e);
	epoll_wait(fd, &e, 1, -1);
}

static void in_eventfd(void)
{
	int fd = must(eventfd(0, EFD_CLOEXEC), "eventfd");
	eventfd_t value;

	eventfd_read(fd, &value);
}

static void in_recv(void)
{
	int s[2];
	char c;

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), "socketpair");
	(void)!recv(s[0], &c, 1, 0);
}

static void in_sigwait(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigwaitinfo(&set, NULL);
}

static void in_pause(void)
{
	pause();
}

/* Below some calls in a module. */
static void in_module(void)
{
	int fd = must(open("/proc/lab_helper", O_WRONLY | O_CLOEXEC), "/proc/lab_helper");

	(void)!write(fd, "deep 20", 7);
}

/* In a page fault that the kernel itself runs into. */
static void in_page_fault(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = must(syscall(SYS_userfaultfd, O_CLOEXEC), "userfaultfd");
	int f[2];

	r.range.start = (unsigned long)p;
	r.range.len = PAGE;
	must(ioctl(fd, UFFDIO_API, &api), "UFFDIO_API");
	must(ioctl(fd, UFFDIO_REGISTER, &r), "UFFDIO_REGISTER");
	must(pipe2(f, O_CLOEXEC), "pipe");
	(void)!write(f[1], p, PAGE);
}

static const struct kind {
	const char *name;
	void (*sleep)(void);
} kinds[] = {
	/* As in a server, most wait for work. */
	{ "c-worker", in_futex },
	{ "c-worker", in_futex },
	{ "c-worker", in_futex },
	{ "c-worker", in_futex },
	{ "c-worker", in_futex },
	{ "c-worker", in_futex },
	{ "c-loop", in_epoll },
	{ "c-loop", in_epoll },
	{ "c-loop", in_epoll },
	{ "c-reader", in_read },
	{ "c-reader", in_read },
	{ "c-receiver", in_recv },
	{ "c-receiver", in_recv },
	{ "c-timer", in_nanosleep },
	{ "c-timer", in_clock_nanosleep },
	{ "c-poll", in_poll },
	{ "c-select", in_select },
	{ "c-eventfd", in_eventfd },
	{ "c-signals", in_sigwait },
	{ "c-pause", in_pause },
	{ "c-module", in_module },
	{ "c-fault", in_page_fault },
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void *sleep_for_good(void *arg)
{
	const struct kind *kind = arg;

	prctl(PR_SET_NAME, kind->name);
	kind->sleep();
	fail(kind->name);
}

/* ---------------------------------------------------------------------- the crowd */

static void be_process(int threads)
{
	pthread_attr_t attr;
	pthread_t t;

	/* When the leader of our session ends, the terminal hangs up. */
	must(setsid(), "setsid");
	must(pipe(quiet), "pipe");
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	for (int i = 1; i < threads; i++) {
		errno = pthread_create(&t, &attr, sleep_for_good, (void *)&kinds[i % KINDS]);
		if (errno)
			fail("pthread_create");
	}
	sleep_for_good((void *)&kinds[0]);
}

/* Of this process, the threads that sleep under a name of ours. */
static int asleep(pid_t pid)
{
	char path[64], line[256];
	struct dirent *entry;
	int count = 0;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		char *after;
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, atoi(entry->d_name));
		f = fopen(path, "re");
		if (f && fgets(line, sizeof(line), f) && (after = strstr(line, "(c-")) &&
		    (after = strrchr(after, ')')) && strchr("SD", after[2]))
			count++;
		if (f)
			fclose(f);
	}
	if (tasks)
		closedir(tasks);
	return count;
}

static void write_limit(const char *path)
{
	int fd = must(open(path, O_WRONLY | O_CLOEXEC), path);

	must(write(fd, "100000", 6), path);
	close(fd);
}

static int tasks_wanted(void)
{
	char line[4096] = "";
	int fd = must(open("/proc/cmdline", O_RDONLY | O_CLOEXEC), "/proc/cmdline");
	const char *at;

	(void)!read(fd, line, sizeof(line) - 1);
	close(fd);
	at = strstr(line, "crowd.tasks=");
	return at ? atoi(at + strlen("crowd.tasks=")) : 0;
}

int main(void)
{
	int wanted = tasks_wanted(), processes = (wanted + THREADS - 1) / THREADS;
	pid_t *pids = calloc(processes, sizeof(*pids));
	time_t limit = time(NULL) + PATIENCE_SECONDS;

	prctl(PR_SET_NAME, "crowd");
	write_limit("/proc/sys/kernel/threads-max");
	for (int i = 0; i < processes; i++) {
		int threads = i < processes - 1 ? THREADS : wanted - THREADS * i;

		pids[i] = must(fork(), "fork");
		if (!pids[i])
			be_process(threads);
	}
	for (int good = 0; good < 3; good++) {
		int count = 0;

		for (int i = 0; i < processes; i++)
			count += asleep(pids[i]);
		if (count < wanted)
			good = -1;
		if (time(NULL) > limit) {
			fprintf(stderr, "LAB-FAILED crowd: %d of %d tasks sleep after %d s\n",
				count, wanted, PATIENCE_SECONDS);
			return 1;
		}
		usleep(100 * 1000);
	}
	return 0;
}
