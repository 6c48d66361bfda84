// SPDX-License-Identifier: GPL-2.0
/*
 * Tasks and modules that come and go as fast as they can, for a tool that looks at all of
 * them meanwhile: `/init storm` never ends. What it did so far is counted in COUNTS.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lab.h"

#define COUNTS "/tmp/storm"
#define MODULE "/live/lab_storm.ko"

/* In this order in the file. */
static struct counts {
	uint64_t forks, execs, threads, orphans, switches, modules;
} *counts;

static void count(uint64_t *what)
{
	__atomic_fetch_add(what, 1, __ATOMIC_RELAXED);
}

static void sleep_ms(int ms)
{
	struct timespec t = { 0, ms * 1000 * 1000 };

	nanosleep(&t, NULL);
}

static void nothing(void)
{
}

static void forks(void)
{
	prctl(PR_SET_NAME, "s-fork");
	for (;; count(&counts->forks))
		waitpid(process(nothing), NULL, 0);
}

static void another_program(void)
{
	execl("/init", "init", "exit", NULL);
}

static void execs(void)
{
	prctl(PR_SET_NAME, "s-exec");
	for (;; count(&counts->execs))
		waitpid(process(another_program), NULL, 0);
}

static void *short_life(void *unused)
{
	sleep_ms(1);
	return unused;
}

static void start(pthread_t *t)
{
	errno = pthread_create(t, NULL, short_life, NULL);
	if (errno)
		fail("pthread_create: %s", strerror(errno));
}

static void threads(void)
{
	pthread_t t[4];

	prctl(PR_SET_NAME, "s-thread");
	for (;; count(&counts->threads)) {
		for (unsigned i = 0; i < COUNT(t); i++)
			start(&t[i]);
		for (unsigned i = 0; i < COUNT(t); i++)
			pthread_join(t[i], NULL);
	}
}

/* A thread that outlives the leader of its group. */
static void leader_dies_first(void)
{
	pthread_t t;

	start(&t);
	pthread_exit(NULL);
}

static void orphans(void)
{
	prctl(PR_SET_NAME, "s-orphan");
	for (;; count(&counts->orphans))
		waitpid(process(leader_dies_first), NULL, 0);
}

/* Two tasks that wake each other: hardly there, gone again. */
static void ping_pong(void)
{
	int there[2], back[2];
	char c = 0;

	prctl(PR_SET_NAME, "s-switch");
	must(pipe(there), "pipe");
	must(pipe(back), "pipe");
	if (!must(fork(), "fork"))
		for (;;) {
			(void)!read(there[0], &c, 1);
			(void)!write(back[1], &c, 1);
		}
	for (;; count(&counts->switches)) {
		(void)!write(there[1], &c, 1);
		(void)!read(back[0], &c, 1);
	}
}

static void modules(void)
{
	prctl(PR_SET_NAME, "s-module");
	for (;; count(&counts->modules)) {
		int fd = must(open(MODULE, O_RDONLY | O_CLOEXEC), MODULE);

		must(syscall(SYS_finit_module, fd, "", 0), "finit_module");
		close(fd);
		sleep_ms(20);
		must(syscall(SYS_delete_module, "lab_storm", 0), "delete_module");
	}
}

_Noreturn void storm(void)
{
	static void (*const all[])(void) = {
		forks, execs, threads, orphans, ping_pong, modules,
	};
	int fd = must(open(COUNTS, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), COUNTS);

	must(ftruncate(fd, sizeof(*counts)), "ftruncate");
	counts = mmap(NULL, sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counts == MAP_FAILED)
		fail("no memory");
	/* Who looks at them is to get the better half of a CPU. */
	must(setpriority(PRIO_PROCESS, 0, 10), "setpriority");
	for (unsigned i = 0; i < COUNT(all); i++)
		process(all[i]);
	for (;;)
		wait(NULL);
}
