// SPDX-License-Identifier: GPL-2.0
/*
 * The guest's init: brings tasks of every kind to the place where they are to be
 * seen, proves that they got there, then has the machine frozen.
 *
 * What it tells the host, each on a line of its own on the console:
 *
 *	LAB-SKIPPED name: why		this kernel cannot do that one
 *	LAB-FAILED why			no use going on
 *	LAB-VMCORE bytes		/proc/vmcore is copied to the host
 *	LAB-LIVE status			the program of lab.live has ended
 *
 * Words of the kernel command line: lab.mode=shell starts everything but does
 * not freeze, and gives a shell; lab.crash=NAME has the machine crash instead; with
 * lab.kdump a crash kernel is loaded, which comes here again and copies the memory of
 * the first one to the folder that the host shares. lab.live=NAME runs the program
 * /live/NAME beside the tasks that sleep, and freezes when it has ended well; with
 * lab.mode=bare there is that program and nothing else.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kexec.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lab.h"

#define FREEZE_CPU 0
/* The one that gets the NMIs that the host sends. */
#define CRASH_CPU 0

/*
 * Return addresses that the kernel swaps out while these functions run: by the
 * function graph tracer in eventfd_read() and, one above the other, in msgrcv() or
 * sigtimedwait() or wait4() (which of these are functions and no jumps is the
 * compiler's choice); by a kretprobe in inotify_read().
 */
static void swap_return_addresses(void)
{
	static const char *const traced[] = {
		"eventfd_read", "do_msgrcv", "ksys_msgrcv", "__x64_sys_msgrcv",
		"do_sigtimedwait", "__x64_sys_rt_sigtimedwait", "do_wait", "kernel_wait4",
	};

	put("/sys/kernel/tracing/buffer_size_kb", "16", 0);
	put("/sys/kernel/tracing/kprobe_events", "r:lab/inotify inotify_read", O_APPEND);
	put("/sys/kernel/tracing/events/lab/inotify/enable", "1", 0);
	for (unsigned i = 0; i < COUNT(traced); i++)
		put("/sys/kernel/tracing/set_ftrace_filter", traced[i], O_APPEND);
	put("/sys/kernel/tracing/current_tracer", "function_graph", 0);
}

static void stay_on(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	must(sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity");
}

static void *never(void *unused)
{
	return unused;
}

/*
 * From here on this task alone decides what runs on its CPU: children that are
 * to be seen as newly forked inherit CPU and priority, and wait for ever.
 */
static void freeze(void)
{
	struct sched_param param = { .sched_priority = 50 };
	pthread_t t;

	prctl(PR_SET_NAME, "lab-trigger");
	must(helper("ready %d", FREEZE_CPU), "helper: ready");
	stay_on(FREEZE_CPU);
	must(sched_setscheduler(0, SCHED_FIFO, &param), "sched_setscheduler");
	prctl(PR_SET_NAME, "w-neverran");
	for (int i = 0; i < 2; i++)
		process(pauser);
	pthread_create(&t, NULL, never, NULL);
	prctl(PR_SET_NAME, "lab-trigger");
	helper("freeze");
	fail("the freeze came back");
}

static void hang_on_another_cpu(void)
{
	prctl(PR_SET_NAME, "lab-hung");
	stay_on(CRASH_CPU + 1);
	put("/proc/lab_crash", "hang", 0);
}

/* Where the kernel comes back, it is to crash while we are in user mode. */
static void crash(const char *how)
{
	struct sched_param param = { .sched_priority = 50 };

	prctl(PR_SET_NAME, "lab-crasher");
	if (!strcmp(how, "lockup"))
		process(hang_on_another_cpu);
	stay_on(CRASH_CPU);
	must(sched_setscheduler(0, SCHED_FIFO, &param), "sched_setscheduler");
	if (!strcmp(how, "fgraph")) {
		put("/sys/kernel/tracing/set_ftrace_filter", "lab_call", O_APPEND);
		put("/sys/kernel/tracing/set_ftrace_filter", "vfs_write", O_APPEND);
	}
	if (!strcmp(how, "sysrq"))
		put("/proc/sysrq-trigger", "c", 0);
	else
		put("/proc/lab_crash", how, 0);
	for (;;)
		;
}

/* ``all``: also what keeps the CPUs busy for good. */
static void start_everything(int all)
{
	prctl(PR_SET_NAME, "workload");
	swap_return_addresses();
	put("/proc/sys/kernel/core_pattern", "|/init core", 0);
	put_bpf_trampoline_on("__x64_sys_flock");
	hold_pi_mutex();
	for (unsigned i = 0; i < nr_processes; i++)
		process(as_processes[i]);
	start_deep();
	for (unsigned i = 0; i < nr_threads; i++)
		thread(as_threads[i]);
	if (all)
		must(helper("kthreads"), "helper: kthreads");
	must(helper("exec /init"), "helper: exec");
	wait_for_all();
	process(file_write_waiter);
	for (unsigned i = 0; all && i < nr_spinners; i++)
		process(spinners[i]);
	wait_for_all();
}

/* -------------------------------------------------------------------- crash kernel */

#define SHARED "/shared"
#define CRASH_COMMAND_LINE "console=ttyS0 panic=-1 maxcpus=1 reset_devices"

static void mount_shared_folder(void)
{
	mkdir(SHARED, 0755);
	must(mount("lab", SHARED, "9p", 0, "trans=virtio,version=9p2000.L,msize=131072"),
	     "mount the shared folder");
}

static void load_crash_kernel(void)
{
#ifdef SYS_kexec_file_load
	int kernel, initramfs;

	mount_shared_folder();
	kernel = must(open(SHARED "/bzImage", O_RDONLY | O_CLOEXEC), "bzImage");
	initramfs = must(open(SHARED "/initramfs.gz", O_RDONLY | O_CLOEXEC), "initramfs.gz");
	must(syscall(SYS_kexec_file_load, kernel, initramfs, sizeof(CRASH_COMMAND_LINE),
		     CRASH_COMMAND_LINE, KEXEC_FILE_ON_CRASH), "kexec_file_load");
	close(kernel);
	close(initramfs);
	must(umount(SHARED), "umount");
#else
	/* x86-32 has no such system call. */
	errno = ENOSYS;
	must(-1, "kexec_file_load");
#endif
}

_Noreturn static void save_vmcore(void)
{
	static char buffer[1 << 20];
	unsigned long long total = 0;
	ssize_t bytes;
	int from, to;

	mount_shared_folder();
	from = must(open("/proc/vmcore", O_RDONLY | O_CLOEXEC), "/proc/vmcore");
	to = must(open(SHARED "/vmcore", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), "vmcore");
	while ((bytes = must(read(from, buffer, sizeof(buffer)), "read")) > 0) {
		for (ssize_t done = 0; done < bytes;)
			done += must(write(to, buffer + done, bytes - done), "write");
		total += bytes;
	}
	must(fsync(to), "fsync");
	must(close(to), "close");
	must(umount(SHARED), "umount");
	tell("LAB-VMCORE", "%llu", total);
	for (;;)
		pause();
}

/* ------------------------------------------------------------------ a live guest */

static void be_on_console(void)
{
	int fd = open("/dev/console", O_RDWR);

	for (int i = 0; i < 3; i++)
		dup2(fd, i);
	setsid();
	ioctl(0, TIOCSCTTY, 1);
}

/* Returns when /live/NAME has ended well. */
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

		be_on_console();
		execle(path, path, NULL, env);
		fail("%s: %s", path, strerror(errno));
	}
	must(waitpid(pid, &status, 0), "waitpid");
	tell("LAB-LIVE", "%d", status);
	while (status)
		pause();
}

/* ------------------------------------------------------------------------ init */

static void load_modules(void)
{
	char name[128], path[160];
	FILE *f = fopen("/modules/order", "re");

	while (f && fgets(name, sizeof(name), f)) {
		int fd;

		name[strcspn(name, "\n")] = 0;
		snprintf(path, sizeof(path), "/modules/%s", name);
		fd = must(open(path, O_RDONLY | O_CLOEXEC), path);
		must(syscall(SYS_finit_module, fd, "", 0), path);
		close(fd);
	}
	if (f)
		fclose(f);
}

/* What follows a word of the kernel command line, up to a space; NULL without it. */
static const char *command_line_after(const char *word)
{
	static char line[4096];
	int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	char *at;

	if (fd >= 0) {
		(void)!read(fd, line, sizeof(line) - 1);
		close(fd);
	}
	at = strstr(line, word);
	if (!at)
		return NULL;
	at += strlen(word);
	at[strcspn(at, " \n")] = 0;
	return at;
}

static void be_shell(void)
{
	be_on_console();
	puts("\n`/init freeze` freezes the machine, `poweroff -f` ends it.");
	execl("/bin/busybox", "sh", NULL);
	fail("no shell: %s", strerror(errno));
}

static void be_init(void)
{
	const char *how, *live;
	int shell, bare;
	pid_t work;

	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mkdir("/dev", 0755);
	mkdir("/tmp", 01777);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("tracing", "/sys/kernel/tracing", "tracefs", 0, NULL);
	mount("debug", "/sys/kernel/debug", "debugfs", 0, NULL);
	mkdir("/dev/mqueue", 0755);
	mount("mqueue", "/dev/mqueue", "mqueue", 0, NULL);
	mkdir("/dev/pts", 0755);
	mount("pts", "/dev/pts", "devpts", 0, NULL);
	if (!access("/proc/vmcore", F_OK))
		save_vmcore();
	bare = command_line_after("lab.mode=bare") != NULL;
	if (!bare)
		load_modules();
	if (command_line_after("lab.kdump"))
		load_crash_kernel();
	expect_init();
	live = command_line_after("lab.live=");
	if (live)
		live = strdup(live);
	shell = command_line_after("lab.mode=shell") != NULL;
	how = command_line_after("lab.crash=");
	work = fork();
	if (!work) {
		/* A probe is optimized when every task has once given up its CPU. */
		if (!bare)
			start_everything(!live && (!how || strcmp(how, "kprobe-opt")));
		if (live)
			run_live(live);
		if (bare)
			for (;;)
				pause();
		if (shell)
			for (;;)
				pause();
		if (how)
			crash(how);
		freeze();
	}
	if (shell && !fork())
		be_shell();
	for (;;)
		wait(NULL);
}

int main(int argc, char **argv)
{
	const char *role = argc > 1 ? argv[1] : "";

	if (getpid() == 1)
		be_init();
	if (!strcmp(role, "freeze"))
		freeze();
	if (!strcmp(role, "exit"))
		return 0;
	if (!strcmp(role, "storm"))
		storm();
	if (!strcmp(role, "core"))
		prctl(PR_SET_NAME, "w-core-reader");
	else
		prctl(PR_SET_NAME, "w-umh");
	for (;;)
		pause();
}
