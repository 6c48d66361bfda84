/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the guest's init program share. */
#ifndef LAB_H
#define LAB_H

#include <sys/types.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* expected.c: who has to be where, and how the host hears of trouble */
void expect_init(void);
void i_am(const char *name, const char *states);
void cannot(const char *what);
void wait_for_all(void);
void wait_until_asleep(pid_t tid);
void tell(const char *what, const char *format, ...) __attribute__((format(printf, 2, 3)));
void skipped(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
long must(long result, const char *what);

/* start.c: how tasks come to be */
void thread(void (*fn)(void));
pid_t process(void (*fn)(void));
int helper(const char *format, ...) __attribute__((format(printf, 1, 2)));
void put(const char *path, const char *text, int flags);

/* tasks.c: the tasks */
extern void (*const as_threads[])(void);
extern void (*const as_processes[])(void);
extern void (*const spinners[])(void);
extern const unsigned nr_threads, nr_processes, nr_spinners;
void hold_pi_mutex(void);
void start_deep(void);
void file_write_waiter(void);
void pauser(void);

/* storm.c */
_Noreturn void storm(void);

/* bpf.c */
void put_bpf_trampoline_on(const char *function);

#endif
