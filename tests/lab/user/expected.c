// SPDX-License-Identifier: GPL-2.0
/* Who has to be where before the machine may be frozen, and whether they are. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "lab.h"

#define PATIENCE_SECONDS 150

/* Shared by all processes of the workload. */
struct expected {
	pid_t tid;
	char name[16];
	char states[8];		/* of /proc/TID/stat; "" for a spinner */
};

struct shared {
	int count;
	struct expected tasks[512];
};

static struct shared *shared;

void expect_init(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	if (shared == MAP_FAILED)
		fail("no memory");
}

static void say(const char *what, const char *format, va_list args)
{
	char text[256], line[320];
	int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);

	vsnprintf(text, sizeof(text), format, args);
	snprintf(line, sizeof(line), "<0>%s %s\n", what, text);
	if (fd < 0 || write(fd, line, strlen(line)) < 0)
		fputs(line, stderr);
	if (fd >= 0)
		close(fd);
}

void tell(const char *what, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(what, format, args);
	va_end(args);
}

_Noreturn void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("LAB-FAILED", format, args);
	va_end(args);
	for (;;)
		pause();
}

void skipped(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say("LAB-SKIPPED", format, args);
	va_end(args);
}

long must(long result, const char *what)
{
	if (result < 0)
		fail("%s: %s", what, strerror(errno));
	return result;
}

static pid_t gettid_(void)
{
	return syscall(SYS_gettid);
}

/* Gives the calling task its name and says in which states it is to end up. */
void i_am(const char *name, const char *states)
{
	int i = __atomic_fetch_add(&shared->count, 1, __ATOMIC_SEQ_CST);
	struct expected *e = &shared->tasks[i];

	if (i >= (int)(sizeof(shared->tasks) / sizeof(shared->tasks[0])))
		fail("too many tasks");
	prctl(PR_SET_NAME, name);
	snprintf(e->name, sizeof(e->name), "%s", name);
	snprintf(e->states, sizeof(e->states), "%s", states);
	__atomic_store_n(&e->tid, gettid_(), __ATOMIC_SEQ_CST);
}

/* For a task that finds it cannot get there: nothing more is expected of it. */
void cannot(const char *what)
{
	int error = errno;
	pid_t tid = gettid_();

	for (int i = 0; i < shared->count; i++)
		if (shared->tasks[i].tid == tid) {
			skipped("%s: %s: %s", shared->tasks[i].name, what, strerror(error));
			shared->tasks[i].tid = -1;
		}
}

static char state_of(pid_t tid)
{
	char path[40], buf[512], *p;
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return '-';
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return '-';
	buf[n] = 0;
	p = strrchr(buf, ')');
	return p && p[1] ? p[2] : '-';
}

/* Switches of one kind a task has made: "voluntary" or "nonvoluntary". */
static long switches(pid_t tid, const char *kind)
{
	char path[40], line[128], format[64];
	long count = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	snprintf(format, sizeof(format), "%s_ctxt_switches: %%ld", kind);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (count < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, format, &count) != 1)
			count = -1;
	fclose(f);
	return count;
}

static int has_settled(const struct expected *e)
{
	pid_t tid = __atomic_load_n(&e->tid, __ATOMIC_SEQ_CST);

	if (tid < 0)		/* skipped */
		return 1;
	if (!tid)		/* not there yet */
		return 0;
	if (!e->states[0])
		return switches(tid, "nonvoluntary") >= 2;
	return strchr(e->states, state_of(tid)) != NULL;
}

static void short_sleep(void)
{
	struct timespec t = { 0, 20 * 1000 * 1000 };

	nanosleep(&t, NULL);
}

static time_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* For a task whose stack is to be looked at from outside. */
void wait_until_asleep(pid_t tid)
{
	time_t limit = now() + PATIENCE_SECONDS;

	while (state_of(tid) != 'S') {
		if (now() > limit)
			fail("task %d does not fall asleep", tid);
		short_sleep();
	}
	short_sleep();
}

/* Waits until everyone was found where expected three times in a row. */
void wait_for_all(void)
{
	time_t limit = now() + PATIENCE_SECONDS;

	for (int good = 0; good < 3; good++) {
		for (int i = 0; i < shared->count; i++)
			if (!has_settled(&shared->tasks[i])) {
				struct expected *e = &shared->tasks[i];

				if (now() > limit)
					fail("%s (%d) is in state %c, not in '%s', after %d s",
					     e->name, e->tid, state_of(e->tid), e->states,
					     PATIENCE_SECONDS);
				good = -1;
				break;
			}
		short_sleep();
	}
}
