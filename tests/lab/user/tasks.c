// SPDX-License-Identifier: GPL-2.0
/* The tasks: each has a name that tells what it is, and sleeps or spins for good. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lab.h"

#define PAGE 4096

/* ------------------------------------------------------------- plain sleepers */

static void nanosleeper(void)
{
	i_am("w-nanosleep", "S");
	for (;;)
		sleep(10000);
}

static void clock_nanosleeper(void)
{
	struct timespec t = { 10000, 0 };

	i_am("w-clocksleep", "S");
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void futex_waiter(void)
{
	static int word;

	i_am("w-futex", "S");
	for (;;)
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
}

static pthread_mutex_t pi_mutex;

/* For whoever is going to start futex_pi_waiter(). */
void hold_pi_mutex(void)
{
	pthread_mutexattr_t a;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&pi_mutex, &a);
	pthread_mutex_lock(&pi_mutex);
}

static void futex_pi_waiter(void)
{
	i_am("w-futex-pi", "S");
	pthread_mutex_lock(&pi_mutex);
}

static void pipe_reader(void)
{
	int p[2];
	char c;

	i_am("w-pipe-read", "S");
	must(pipe(p), "pipe");
	for (;;)
		(void)!read(p[0], &c, 1);
}

static void pipe_writer(void)
{
	static char full[1 << 17];
	int p[2];

	i_am("w-pipe-write", "S");
	must(pipe(p), "pipe");
	(void)!write(p[1], full, sizeof(full));
}

static void fifo_opener(void)
{
	i_am("w-fifo-open", "S");
	must(mkfifo("/tmp/fifo", 0600), "mkfifo");
	open("/tmp/fifo", O_RDONLY);
}

static void splicer(void)
{
	int a[2], b[2];

	i_am("w-splice", "S");
	must(pipe(a), "pipe");
	must(pipe(b), "pipe");
	if (splice(a[0], NULL, b[1], NULL, PAGE, 0) < 0)
		cannot("splice");
}

static int quiet_fd(void)
{
	int p[2];

	must(pipe(p), "pipe");
	return p[0];
}

static void poller(void)
{
	struct pollfd f = { quiet_fd(), POLLIN, 0 };

	i_am("w-poll", "S");
	for (;;)
		poll(&f, 1, -1);
}

static void ppoller(void)
{
	struct pollfd f = { quiet_fd(), POLLIN, 0 };
	struct timespec t = { 10000, 0 };

	i_am("w-ppoll", "S");
	ppoll(&f, 1, &t, NULL);
}

static void selecter(void)
{
	int fd = quiet_fd();
	fd_set set;

	i_am("w-select", "S");
	FD_ZERO(&set);
	FD_SET(fd, &set);
	select(fd + 1, &set, NULL, NULL, NULL);
}

static void epoller(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	int fd = epoll_create1(0);

	i_am("w-epoll", "S");
	epoll_ctl(fd, EPOLL_CTL_ADD, quiet_fd(), &e);
	for (;;)
		epoll_wait(fd, &e, 1, -1);
}

static void pidfd_poller(void)
{
	struct pollfd f = { syscall(SYS_pidfd_open, 1, 0), POLLIN, 0 };

	i_am("w-pidfd", "S");
	poll(&f, 1, -1);
}

static void eventfd_reader(void)
{
	int fd = eventfd(0, 0);
	uint64_t v;

	i_am("w-eventfd", "S");
	for (;;)
		(void)!read(fd, &v, sizeof(v));
}

static void timerfd_reader(void)
{
	struct itimerspec t = { .it_value = { 10000, 0 } };
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);
	uint64_t v;

	i_am("w-timerfd", "S");
	timerfd_settime(fd, 0, &t, NULL);
	(void)!read(fd, &v, sizeof(v));
}

static void signalfd_reader(void)
{
	struct signalfd_siginfo info;
	sigset_t set;

	i_am("w-signalfd", "S");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	(void)!read(signalfd(-1, &set, 0), &info, sizeof(info));
}

static void inotify_reader(void)
{
	char buf[1024];
	int fd;

	i_am("w-inotify", "S");
	fd = inotify_init1(0);
	inotify_add_watch(fd, "/sys", IN_DELETE_SELF);
	if (read(fd, buf, sizeof(buf)) < 0)
		cannot("inotify");
}

static void socket_receiver(void)
{
	int s[2];
	char c;

	i_am("w-unix-recv", "S");
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	recv(s[0], &c, 1, 0);
}

static void datagram_receiver(void)
{
	struct msghdr m = { 0 };
	int s[2];

	i_am("w-unix-dgram", "S");
	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, s), "socketpair");
	recvmsg(s[0], &m, 0);
}

static void socket_sender(void)
{
	static char chunk[4096];
	int s[2];

	i_am("w-unix-send", "S");
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, s), "socketpair");
	for (;;)
		send(s[0], chunk, sizeof(chunk), 0);
}

static void accepter(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "\0lab" };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);

	i_am("w-accept", "S");
	must(bind(s, (struct sockaddr *)&a, sizeof(a)), "bind");
	must(listen(s, 1), "listen");
	accept(s, NULL, NULL);
}

static void message_receiver(void)
{
	struct { long type; char text[8]; } m;
	int q = msgget(IPC_PRIVATE, 0600);

	i_am("w-msgrcv", "S");
	if (msgrcv(q, &m, sizeof(m.text), 0, 0) < 0)
		cannot("msgrcv");
}

static void semaphore_waiter(void)
{
	struct sembuf down = { 0, -1, 0 };
	int s = semget(IPC_PRIVATE, 1, 0600);

	i_am("w-semop", "S");
	if (semop(s, &down, 1) < 0)
		cannot("semop");
}

static void mqueue_receiver(void)
{
	struct mq_attr a = { .mq_maxmsg = 1, .mq_msgsize = 8 };
	char m[8];

	i_am("w-mqueue", "S");
	if (mq_receive(mq_open("/lab", O_CREAT | O_RDWR, 0600, &a), m, sizeof(m), NULL) < 0)
		cannot("mq_receive");
}

static void file_lock_waiter(void)
{
	int a = open("/tmp/flock", O_CREAT | O_RDWR, 0600);
	int b = open("/tmp/flock", O_RDWR);

	i_am("w-flock", "S");
	must(flock(a, LOCK_EX), "flock");
	flock(b, LOCK_EX);
}

static void record_lock_waiter(void)
{
	struct flock l = { .l_type = F_WRLCK };
	int fd = open("/tmp/lock", O_CREAT | O_RDWR, 0600);

	must(fcntl(fd, F_SETLK, &l), "fcntl");
	if (!fork()) {
		i_am("w-fcntl-lock", "S");
		fcntl(fd, F_SETLKW, &l);
	}
	i_am("w-fcntl-owner", "S");
	pause();
}

static void aio_waiter(void)
{
	aio_context_t context = 0;
	struct io_event e;

	i_am("w-io-getevents", "S");
	if (syscall(SYS_io_setup, 1, &context) < 0 ||
	    syscall(SYS_io_getevents, context, 1, 1, &e, NULL) < 0)
		cannot("io_getevents");
}

static void terminal_reader(void)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY), unlock = 0;
	char c;
	int fd;

	i_am("w-tty-read", "S");
	ioctl(master, TIOCSPTLCK, &unlock);
	fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
	if (fd < 0 || read(fd, &c, 1) < 0)
		cannot("pseudo terminal");
}

/* -------------------------------------------------------- signals and children */

void pauser(void)
{
	i_am("w-pause", "S");
	for (;;)
		pause();
}

static void signal_suspender(void)
{
	sigset_t set;

	i_am("w-sigsuspend", "S");
	sigemptyset(&set);
	for (;;)
		sigsuspend(&set);
}

static void signal_waiter(void)
{
	sigset_t set;

	i_am("w-sigwait", "S");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigtimedwait(&set, NULL, NULL);
}

static void wait4_waiter(void)
{
	process(pauser);
	i_am("w-wait4", "S");
	wait4(-1, NULL, 0, NULL);
}

static void waitid_waiter(void)
{
	siginfo_t info;

	process(pauser);
	i_am("w-waitid", "S");
	waitid(P_ALL, 0, &info, WEXITED);
}

static void vforker(void)
{
	i_am("w-vfork", "D");
	if (!vfork()) {
		i_am("w-vfork-child", "S");
		for (;;)
			pause();
	}
}

static void stopper(void)
{
	i_am("w-stopped", "T");
	raise(SIGSTOP);
}

/* Runs a tracee up to its first stop and, with resume, on to the next. */
static void tracer(const char *name, void (*tracee)(void), int resume)
{
	pid_t pid = process(tracee);
	int status;

	must(waitpid(pid, &status, __WALL), "waitpid");
	if (resume) {
		must(ptrace(resume, pid, 0, 0), "ptrace");
		must(waitpid(pid, &status, __WALL), "waitpid");
	}
	i_am(name, "S");
	for (;;)
		pause();
}

static void signal_tracee(void)
{
	i_am("w-traced-sig", "t");
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGUSR1);
}

static void syscall_tracee(void)
{
	i_am("w-traced-sys", "t");
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	raise(SIGSTOP);
	getppid();
}

static void breakpoint_tracee(void)
{
	i_am("w-traced-int3", "t");
	ptrace(PTRACE_TRACEME, 0, 0, 0);
	asm volatile("int3");
}

static void signal_tracer(void)
{
	tracer("w-tracer-sig", signal_tracee, 0);
}

static void syscall_tracer(void)
{
	tracer("w-tracer-sys", syscall_tracee, PTRACE_SYSCALL);
}

static void breakpoint_tracer(void)
{
	tracer("w-tracer-int3", breakpoint_tracee, 0);
}

static void zombie(void)
{
	i_am("w-zombie", "Z");
}

/* A thread group whose leader is dead and whose other thread lives on. */
static void dead_leader(void)
{
	thread(pauser);
	i_am("w-dead-leader", "Z");
	syscall(SYS_exit, 0);
}

/* Dumps core into the pipe of a helper that never reads it. */
static void core_dumper(void)
{
	static volatile char *nowhere;
	char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct { unsigned long soft, hard; } unlimited = { -1UL, -1UL };

	syscall(SYS_setrlimit, 4 /* RLIMIT_CORE */, &unlimited);
	memset(p, 1, 1 << 20);
	i_am("w-coredump", "SD");
	*nowhere = 1;
}

/* ------------------------------------------ sleepers below an exception frame */

/* Memory whose pages never arrive. */
static char *missing_pages(int count)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register r = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC);
	char *p = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	r.range.start = (unsigned long)p;
	r.range.len = count * PAGE;
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &r))
		return NULL;
	return p;
}

static void faulter(const char *name, void (*touch)(char *))
{
	char *p;

	i_am(name, "SD");
	p = missing_pages(4);
	if (p)
		touch(p);
	cannot("userfaultfd");
}

static void touch_by_write(char *p)
{
	int f[2];

	must(pipe(f), "pipe");
	(void)!write(f[1], p, PAGE);
}

static void touch_by_read(char *p)
{
	(void)!read(open("/dev/zero", O_RDONLY), p + PAGE, 100);
}

static void touch_by_store(char *p)
{
	p[2 * PAGE] = 1;
}

static void touch_by_load(char *p)
{
	*(volatile char *)(p + 3 * PAGE);
}

static void touch_by_get_user(char *p)
{
	must(prctl(PR_SET_NAME, p), "prctl");
}

static void touch_by_put_user(char *p)
{
	ioctl(quiet_fd(), FIONREAD, p);
}

/* Holds the file's lock while it waits for the page; see file_write_waiter(). */
static void touch_by_file_write(char *p)
{
	(void)!pwrite(open("/tmp/file", O_CREAT | O_RDWR, 0600), p, 16, 0);
}

static void fault_write(void) { faulter("w-kfault-write", touch_by_write); }
static void fault_read(void) { faulter("w-kfault-read", touch_by_read); }
static void fault_get(void) { faulter("w-kfault-get", touch_by_get_user); }
static void fault_put(void) { faulter("w-kfault-put", touch_by_put_user); }
static void fault_file(void) { faulter("w-kfault-file", touch_by_file_write); }
static void fault_store(void) { faulter("w-ufault-store", touch_by_store); }
static void fault_load(void) { faulter("w-ufault-load", touch_by_load); }

void file_write_waiter(void)
{
	i_am("w-inode-lock", "SD");
	(void)!pwrite(open("/tmp/file", O_CREAT | O_RDWR, 0600), "x", 1, 0);
}

/* Every register holds its own name, for whoever has to find them again. */
static void registers_in_syscall(void)
{
	i_am("w-regs-syscall", "S");
#ifdef __x86_64__
	asm volatile("mov $0x1515151515151515, %%r15\n\t"
		     "mov $0x1414141414141414, %%r14\n\t"
		     "mov $0x1313131313131313, %%r13\n\t"
		     "mov $0x1212121212121212, %%r12\n\t"
		     "mov $0x1010101010101010, %%r10\n\t"
		     "mov $0x0909090909090909, %%r9\n\t"
		     "mov $0x0808080808080808, %%r8\n\t"
		     "mov $0xb0b0b0b0b0b0b0b0, %%rbx\n\t"
		     "mov $0xd0d0d0d0d0d0d0d0, %%rdx\n\t"
		     "mov $0x5151515151515151, %%rsi\n\t"
		     "mov $0xd1d1d1d1d1d1d1d1, %%rdi\n\t"
		     "mov %0, %%eax\n\t"
		     "syscall\n\t"
		     "ud2"
		     : : "i"(SYS_pause)
		     : "r15", "r14", "r13", "r12", "r10", "r9", "r8", "rbx", "rdx", "rsi", "rdi",
		       "rax", "rcx", "r11", "memory");
#else
	asm volatile("mov $0xb0b0b0b0, %%ebx\n\t"
		     "mov $0xc0c0c0c0, %%ecx\n\t"
		     "mov $0xd0d0d0d0, %%edx\n\t"
		     "mov $0x51515151, %%esi\n\t"
		     "mov $0xd1d1d1d1, %%edi\n\t"
		     "int $0x80\n\t"
		     "ud2"
		     : : "a"(SYS_pause)
		     : "ebx", "ecx", "edx", "esi", "edi", "memory");
#endif
}

static void registers_in_fault(void)
{
	char *p;

	i_am("w-regs-fault", "SD");
	p = missing_pages(1);
	if (!p) {
		cannot("userfaultfd");
		return;
	}
#ifdef __x86_64__
	asm volatile("mov $0x1515151515151515, %%r15\n\t"
		     "mov $0x1414141414141414, %%r14\n\t"
		     "mov $0x1313131313131313, %%r13\n\t"
		     "mov $0x1212121212121212, %%r12\n\t"
		     "mov $0x1111111111111111, %%r11\n\t"
		     "mov $0x1010101010101010, %%r10\n\t"
		     "mov $0x0909090909090909, %%r9\n\t"
		     "mov $0x0808080808080808, %%r8\n\t"
		     "mov $0xb0b0b0b0b0b0b0b0, %%rbx\n\t"
		     "mov $0xc0c0c0c0c0c0c0c0, %%rcx\n\t"
		     "mov $0xd0d0d0d0d0d0d0d0, %%rdx\n\t"
		     "mov $0x5151515151515151, %%rsi\n\t"
		     "mov $0xd1d1d1d1d1d1d1d1, %%rdi\n\t"
		     "movb $1, (%%rax)\n\t"
		     "ud2"
		     : : "a"(p)
		     : "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbx", "rcx", "rdx",
		       "rsi", "rdi", "memory");
#else
	asm volatile("mov $0xb0b0b0b0, %%ebx\n\t"
		     "mov $0xc0c0c0c0, %%ecx\n\t"
		     "mov $0xd0d0d0d0, %%edx\n\t"
		     "mov $0x51515151, %%esi\n\t"
		     "mov $0xd1d1d1d1, %%edi\n\t"
		     "movb $1, (%%eax)\n\t"
		     "ud2"
		     : : "a"(p)
		     : "ebx", "ecx", "edx", "esi", "edi", "memory");
#endif
}

/* ----------------------------------------------------------- the helper's part */

static void in_module(void)
{
	i_am("w-module", "S");
	helper("sleep");
}

static void on_mutex(void)
{
	i_am("w-mutex", "D");
	helper("mutex");
}

static void in_ftrace(void)
{
	i_am("w-ftrace", "S");
#ifdef __x86_64__
	if (helper("ftrace") < 0)
		cannot("ftrace handler");
#else
	/* Without a trampoline of its own a handler runs with preemption disabled. */
	errno = ENOSYS;
	cannot("ftrace handler that sleeps");
#endif
}

static int deep_calls;

static void deep(void)
{
	char name[16];

	snprintf(name, sizeof(name), deep_calls > 1 ? "w-deep-%d" : "w-shallow", deep_calls);
	i_am(name, "S");
	helper("deep %d", deep_calls);
}

static pid_t settled_child(void (*fn)(void))
{
	pid_t pid = process(fn);

	wait_until_asleep(pid);
	return pid;
}

static int calls_for_depth;

static void deep_wanted(void)
{
	char name[16];

	snprintf(name, sizeof(name), "w-deep-%d", deep_calls);
	i_am(name, "S");
	helper("deep %d", calls_for_depth);
}

/* Stacks with exactly so many return addresses, by the kernel's own count. */
void start_deep(void)
{
	static const int wanted[] = { 50, 98, 99, 100, 101, 120 };
	int base;

	deep_calls = 1;
	base = helper("depth %d", settled_child(deep)) - 1;
	if (base <= 0)
		fail("the helper cannot count a stack");
	for (unsigned i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		pid_t pid;

		deep_calls = wanted[i];
		calls_for_depth = wanted[i] - base;
		pid = settled_child(deep_wanted);
		if (helper("depth %d", pid) != wanted[i])
			fail("a stack of %d entries came out with %d", wanted[i],
			     helper("depth %d", pid));
	}
}

/* ------------------------------------------------------------------- io_uring */

struct ring {
	int fd;
	unsigned *sq_tail, *sq_array;
	struct io_uring_sqe *sqes;
};

static int make_ring(struct ring *r, unsigned flags)
{
	struct io_uring_params p = { .flags = flags, .sq_thread_idle = 1 };
	char *sq;

	r->fd = syscall(SYS_io_uring_setup, 4, &p);
	if (r->fd < 0)
		return -1;
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED,
		  r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, p.sq_entries * sizeof(*r->sqes), PROT_READ | PROT_WRITE, MAP_SHARED,
		       r->fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || r->sqes == MAP_FAILED)
		return -1;
	r->sq_tail = (unsigned *)(sq + p.sq_off.tail);
	r->sq_array = (unsigned *)(sq + p.sq_off.array);
	return 0;
}

/* One worker that sleeps in open() of a fifo, a polling thread, and who waits. */
static void ring_waiter(void)
{
	struct ring polled, r;

	i_am("w-io-uring", "S");
	mkfifo("/tmp/ring-fifo", 0600);
	if (make_ring(&r, 0) || make_ring(&polled, IORING_SETUP_SQPOLL)) {
		cannot("io_uring_setup");
		return;
	}
	r.sqes[0] = (struct io_uring_sqe){
		.opcode = IORING_OP_OPENAT, .flags = IOSQE_ASYNC, .fd = AT_FDCWD,
		.addr = (unsigned long)"/tmp/ring-fifo", .open_flags = O_RDONLY,
	};
	r.sq_array[0] = 0;
	__atomic_store_n(r.sq_tail, 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r.fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		cannot("io_uring_enter");
}

/* ------------------------------------------------------------------- spinners */

static void user_spinner(void)
{
	volatile unsigned long x = 0;

	i_am("spin-user", "");
	for (;;)
		x++;
}

static void zero_spinner(void)
{
	size_t bytes = 1 << 20;
	char *b = malloc(bytes);
	int fd = open("/dev/zero", O_RDONLY);

	i_am("spin-zero", "");
	for (;;)
		(void)!read(fd, b, bytes);
}

static void random_spinner(void)
{
	static char b[1 << 16];

	i_am("spin-random", "");
	for (;;)
		(void)!syscall(SYS_getrandom, b, sizeof(b), 0);
}

static void copy_spinner(void)
{
	size_t bytes = 1 << 18;
	struct iovec from = { malloc(bytes), bytes }, to = { malloc(bytes), bytes };

	i_am("spin-copy", "");
	for (;;)
		syscall(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0);
}

static void fault_spinner(void)
{
	size_t bytes = 1 << 20;

	i_am("spin-fault", "");
	for (;;) {
		char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			       -1, 0);

		for (size_t i = 0; i < bytes; i += PAGE)
			p[i] = 1;
		munmap(p, bytes);
	}
}

static void fork_spinner(void)
{
	i_am("spin-fork", "");
	for (;;) {
		pid_t pid = fork();

		if (!pid)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

/* ------------------------------------------------------------------ the tables */

/* Terminal escape, quote, newline, comma, and a byte that is no UTF-8. */
static void hostile(void)
{
	i_am("\033[31m\"x\n,\xff%s\\", "S");
	pause();
}

void (*const as_threads[])(void) = {
	nanosleeper, clock_nanosleeper, futex_waiter, futex_pi_waiter,
	pipe_reader, pipe_writer, fifo_opener, splicer,
	poller, ppoller, selecter, epoller, pidfd_poller,
	eventfd_reader, timerfd_reader, signalfd_reader, inotify_reader,
	socket_receiver, datagram_receiver, socket_sender, accepter,
	message_receiver, semaphore_waiter, mqueue_receiver,
	file_lock_waiter, aio_waiter, terminal_reader, signal_waiter,
	fault_write, fault_read, fault_get, fault_put, fault_store, fault_load,
	registers_in_syscall, registers_in_fault,
	in_module, on_mutex, in_ftrace, hostile,
};

void (*const as_processes[])(void) = {
	signal_suspender, wait4_waiter, waitid_waiter, vforker, record_lock_waiter,
	stopper, signal_tracer, syscall_tracer, breakpoint_tracer,
	zombie, dead_leader, core_dumper, ring_waiter, fault_file,
};

void (*const spinners[])(void) = {
	user_spinner, user_spinner, user_spinner, user_spinner, user_spinner,
	zero_spinner, zero_spinner, zero_spinner, zero_spinner,
	random_spinner, random_spinner, copy_spinner, copy_spinner,
	fault_spinner, fault_spinner, fault_spinner, fork_spinner,
};

const unsigned nr_threads = COUNT(as_threads);
const unsigned nr_processes = COUNT(as_processes);
const unsigned nr_spinners = COUNT(spinners);
