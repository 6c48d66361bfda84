// SPDX-License-Identifier: GPL-2.0
/*
 * Makes tasks wait for each other, and writes down who waits for what and who holds it.
 *
 * A task writes to /proc/lab_hung, and the lock is taken in its name:
 *
 *	hold KIND N	takes lock N of a kind; the task goes on with it held
 *	take KIND N	writes down that the task waits for it, and takes it
 *	expect KIND PID	writes down that the task is about to wait for mmap_lock, which PID has taken to read
 *	seal		nothing changes any more: says where the sheet is
 */
#include <linux/completion.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/percpu-rwsem.h>
#include <linux/pid.h>
#include <linux/proc_fs.h>
#include <linux/rtmutex.h>
#include <linux/rwsem.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/semaphore.h>
#include <linux/uaccess.h>
#include <linux/wait.h>
#include <linux/wait_bit.h>
#include "hung_sheet.h"

#define LOCKS 16

static struct {
	struct lh_header header;
	struct lh_record records[LH_RECORDS];
} *sheet;
static atomic_t nr_records;

static struct mutex mutexes[LOCKS];
static struct rw_semaphore rwsems[LOCKS];
static struct semaphore semaphores[LOCKS];
static struct completion completions[LOCKS];
static struct wait_queue_head queues[LOCKS];
static unsigned long bits[LOCKS];
static struct folio *folios[LOCKS];
static struct percpu_rw_semaphore percpu[2];
#ifdef CONFIG_RT_MUTEXES
static struct rt_mutex rt_mutexes[LOCKS];
static struct task_struct *rt_owner[LOCKS];
#endif
static struct task_struct *mutex_owner[LOCKS], *rwsem_writer[LOCKS];
static int mutex_owner_pid[LOCKS];
static int rwsem_readers[LOCKS];

struct lh_record *lh_note(const char *kind, const void *lock, struct task_struct *owner)
{
	int i = atomic_inc_return(&nr_records) - 1;
	struct lh_record *r = &sheet->records[i];

	if (WARN_ON(i >= LH_RECORDS))
		i = 0;
	r->task = (unsigned long)current;
	r->pid = current->pid;
	memcpy(r->comm, current->comm, sizeof(r->comm));
	strscpy(r->kind, kind, sizeof(r->kind));
	r->lock = (unsigned long)lock;
	r->owner = (unsigned long)owner;
	r->since_ns = local_clock();
	return r;
}

static long hold(const char *kind, int n)
{
	if (!strcmp(kind, "mutex")) {
		mutex_lock(&mutexes[n]);
		mutex_owner[n] = current;
		mutex_owner_pid[n] = current->pid;
	} else if (!strcmp(kind, "rwsem-w")) {
		down_write(&rwsems[n]);
		rwsem_writer[n] = current;
	} else if (!strcmp(kind, "rwsem-r")) {
		down_read(&rwsems[n]);
		rwsem_readers[n]++;
#ifdef CONFIG_RT_MUTEXES
	} else if (!strcmp(kind, "rt-mutex")) {
		rt_mutex_lock(&rt_mutexes[n]);
		rt_owner[n] = current;
#endif
	} else if (!strcmp(kind, "semaphore")) {
		down(&semaphores[n]);
	} else if (!strcmp(kind, "bit")) {
		wait_on_bit_lock(&bits[n], 3, TASK_UNINTERRUPTIBLE);
	} else if (!strcmp(kind, "folio")) {
		folio_lock(folios[n]);
	} else if (!strcmp(kind, "percpu-w")) {
		percpu_down_write(&percpu[n & 1]);
	} else if (!strcmp(kind, "mmap-r")) {
		mmap_read_lock(current->mm);
	} else {
		return -EOPNOTSUPP;
	}
	return 0;
}

static long take(const char *kind, int n)
{
	/* Its owner may be a task no more. */
	if (!strncmp(kind, "mutex", 5))
		lh_note("mutex", &mutexes[n], mutex_owner[n])->owner_pid = mutex_owner_pid[n];
	if (!strcmp(kind, "mutex")) {
		;
	} else if (!strcmp(kind, "mutex-killable")) {
		return mutex_lock_killable(&mutexes[n]);
	} else if (!strcmp(kind, "mutex-int")) {
		return mutex_lock_interruptible(&mutexes[n]);
	} else if (!strcmp(kind, "rwsem-w") || !strcmp(kind, "rwsem-r")) {
		struct lh_record *r = lh_note(kind, &rwsems[n], rwsem_writer[n]);

		r->owner_pid = rwsem_writer[n] ? rwsem_writer[n]->pid : 0;
		r->readers = rwsem_readers[n];
#ifdef CONFIG_RT_MUTEXES
	} else if (!strcmp(kind, "rt-mutex")) {
		lh_note(kind, &rt_mutexes[n], rt_owner[n])->owner_pid = rt_owner[n]->pid;
#endif
	} else if (!strcmp(kind, "semaphore")) {
		lh_note(kind, &semaphores[n], NULL);
	} else if (!strcmp(kind, "bit")) {
		lh_note(kind, &bits[n], NULL);
	} else if (!strcmp(kind, "folio")) {
		lh_note(kind, folios[n], NULL);
	} else if (!strcmp(kind, "completion")) {
		lh_note(kind, &completions[n], NULL);
		wait_for_completion(&completions[n]);
		return 0;
	} else if (!strcmp(kind, "queue")) {
		lh_note(kind, &queues[n], NULL);
		wait_event(queues[n], READ_ONCE(bits[LOCKS - 1]) == n + 100);
		return 0;
	} else if (!strcmp(kind, "percpu-r")) {
		lh_note(kind, &percpu[n & 1], NULL);
		percpu_down_read(&percpu[n & 1]);
		return 0;
	} else if (!strcmp(kind, "disk")) {
		return lh_disk_wait();
	} else {
		return -EOPNOTSUPP;
	}
	return hold(kind, n);
}

static long expect(const char *kind, int pid)
{
	struct task_struct *owner;
	struct lh_record *r;

	rcu_read_lock();
	owner = pid_task(find_vpid(pid), PIDTYPE_PID);
	r = lh_note(kind, &current->mm->mmap_lock, owner);
	rcu_read_unlock();
	r->owner_pid = pid;
	r->readers = 1;
	return 0;
}

static long seal(void)
{
	struct lh_record *r = sheet->records;
	int i, n = atomic_read(&nr_records);

	rcu_read_lock();
	for (i = 0; i < n; i++) {
		struct task_struct *now = pid_task(find_vpid(r[i].owner_pid), PIDTYPE_PID);

		/* A zombie still has its pid. */
		r[i].owner_exited = r[i].owner && r[i].owner != (unsigned long)now;
	}
	rcu_read_unlock();
	sheet->header.version = LH_VERSION;
	sheet->header.header_bytes = sizeof(sheet->header);
	sheet->header.record_bytes = sizeof(*r);
	sheet->header.nr_records = n;
	sheet->header.sealed_ns = local_clock();
	strscpy(sheet->header.magic, "LAB-HUNG", sizeof(sheet->header.magic));
	pr_emerg("LAB-HUNG-SHEET %px tasks %d\n", sheet, n);
	return 0;
}

static ssize_t hung_write(struct file *f, const char __user *buf, size_t count, loff_t *pos)
{
	char line[64] = "", word[16], kind[16] = "";
	int n = 0, words;
	long ret = -EINVAL;

	if (count >= sizeof(line))
		return -EINVAL;
	/* A page fault in here is one with all locks held that the task has asked for. */
	if (copy_from_user(line, buf, count))
		return -EFAULT;
	words = sscanf(line, "%15s %15s %d", word, kind, &n);
	if (words == 1 && !strcmp(word, "seal"))
		ret = seal();
	if (words == 3 && n >= 0 && !strcmp(word, "expect"))
		ret = expect(kind, n);
	if (words == 3 && n >= 0 && n < LOCKS && !strcmp(word, "hold"))
		ret = hold(kind, n);
	if (words == 3 && n >= 0 && n < LOCKS && !strcmp(word, "take"))
		ret = take(kind, n);
	return ret < 0 ? ret : count;
}

static const struct proc_ops ops = { .proc_write = hung_write };

static int __init hung_init(void)
{
	int i;

	BUILD_BUG_ON(sizeof(struct lh_header) != 40);
	BUILD_BUG_ON(sizeof(struct lh_record) != 80);
	sheet = kzalloc(sizeof(*sheet), GFP_KERNEL);
	if (!sheet)
		return -ENOMEM;
	for (i = 0; i < LOCKS; i++) {
		mutex_init(&mutexes[i]);
		init_rwsem(&rwsems[i]);
		sema_init(&semaphores[i], 1);
		init_completion(&completions[i]);
		init_waitqueue_head(&queues[i]);
		folios[i] = page_folio(alloc_page(GFP_KERNEL));
#ifdef CONFIG_RT_MUTEXES
		rt_mutex_init(&rt_mutexes[i]);
#endif
	}
	for (i = 0; i < 2; i++)
		percpu_init_rwsem(&percpu[i]);
	i = lh_disk_init();
	if (i)
		return i;
	return proc_create("lab_hung", 0200, NULL, &ops) ? 0 : -ENOMEM;
}

module_init(hung_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Tasks that wait for each other, and the answers");
