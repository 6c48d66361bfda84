// SPDX-License-Identifier: GPL-2.0
/* A disk that takes requests and never answers. */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/version.h>
#include "hung_sheet.h"

#ifdef CONFIG_BLOCK
#include <linux/bio.h>
#include <linux/blkdev.h>

static struct gendisk *disk;
static int major;

static void never(struct bio *bio)
{
}

static const struct block_device_operations disk_ops = {
	.owner = THIS_MODULE,
	.submit_bio = never,
};

int lh_disk_init(void)
{
	major = register_blkdev(0, "labdisk");
	if (major < 0)
		return major;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	disk = blk_alloc_disk(NULL, NUMA_NO_NODE);
	if (IS_ERR(disk))
		return PTR_ERR(disk);
#else
	disk = blk_alloc_disk(NUMA_NO_NODE);
	if (!disk)
		return -ENOMEM;
#endif
	disk->major = major;
	disk->minors = 1;
	disk->flags |= GENHD_FL_NO_PART;
	disk->fops = &disk_ops;
	strscpy(disk->disk_name, "labdisk", sizeof(disk->disk_name));
	set_capacity(disk, 2048);
	return add_disk(disk);
}

long lh_disk_wait(void)
{
	struct bio *bio = bio_alloc(disk->part0, 1, REQ_OP_WRITE, GFP_KERNEL);
	struct page *page = alloc_page(GFP_KERNEL);

	if (!bio || !page)
		return -ENOMEM;
	__bio_add_page(bio, page, PAGE_SIZE, 0);
	lh_note("bio", bio, NULL);
	return submit_bio_wait(bio);
}
#else
int lh_disk_init(void)
{
	return 0;
}

long lh_disk_wait(void)
{
	return -EOPNOTSUPP;
}
#endif
