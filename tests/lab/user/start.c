// SPDX-License-Identifier: GPL-2.0
/* How tasks come to be. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lab.h"

void put(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		skipped("%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

int helper(const char *format, ...)
{
	char line[64];
	va_list args;
	int fd = must(open("/proc/lab_helper", O_WRONLY | O_CLOEXEC), "/proc/lab_helper");
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	n = write(fd, line, n);
	close(fd);
	return n;
}

struct start {
	void (*fn)(void);
};

static void *run(void *arg)
{
	((struct start *)arg)->fn();
	return NULL;
}

void thread(void (*fn)(void))
{
	struct start *s = malloc(sizeof(*s));
	pthread_attr_t attr;
	pthread_t t;

	s->fn = fn;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	errno = pthread_create(&t, &attr, run, s);
	if (errno)
		fail("pthread_create: %s", strerror(errno));
	pthread_attr_destroy(&attr);
}

pid_t process(void (*fn)(void))
{
	pid_t pid = must(fork(), "fork");

	if (!pid) {
		fn();
		_exit(0);
	}
	return pid;
}
