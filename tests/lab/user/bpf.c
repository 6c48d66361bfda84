// SPDX-License-Identifier: GPL-2.0
/*
 * Attaches a BPF program to the exit of a kernel function. From then on the
 * function is called by a BPF trampoline, so whoever sleeps in it has a return
 * address on the stack that lies in neither the kernel image nor a module.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "lab.h"

/* Bytes behind a struct btf_type; see Documentation/bpf/btf.rst. */
static size_t extra_bytes(const struct btf_type *t)
{
	unsigned n = BTF_INFO_VLEN(t->info);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_ENUM:
		return n * sizeof(struct btf_enum);
	case BTF_KIND_FUNC_PROTO:
		return n * sizeof(struct btf_param);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
	case BTF_KIND_DATASEC:
	case BTF_KIND_ENUM64:
		return n * 12;
	}
	return 0;
}

static char *read_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	struct stat st;
	char *data;

	if (fd < 0 || fstat(fd, &st))
		return NULL;
	data = malloc(st.st_size);
	while (data && have < (size_t)st.st_size) {
		ssize_t n = read(fd, data + have, st.st_size - have);

		if (n <= 0)
			break;
		have += n;
	}
	close(fd);
	return data;
}

/* The BTF type ID of a function of the kernel, or 0. */
static unsigned function_id(const char *name)
{
	char *data = read_file("/sys/kernel/btf/vmlinux");
	struct btf_header *h = (struct btf_header *)data;
	unsigned found = 0;
	char *at, *end;

	if (!data)
		return 0;
	at = data + h->hdr_len + h->type_off;
	end = at + h->type_len;
	for (unsigned id = 1; at < end && !found; id++) {
		struct btf_type *t = (struct btf_type *)at;

		if (BTF_INFO_KIND(t->info) == BTF_KIND_FUNC &&
		    !strcmp(data + h->hdr_len + h->str_off + t->name_off, name))
			found = id;
		at += sizeof(*t) + extra_bytes(t);
	}
	free(data);
	return found;
}

void put_bpf_trampoline_on(const char *function)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 0 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_TRACING,
		.expected_attach_type = BPF_TRACE_FEXIT,
		.insns = (unsigned long)insns,
		.insn_cnt = COUNT(insns),
		.license = (unsigned long)"GPL",
		.attach_btf_id = function_id(function),
	};
	union bpf_attr attach = { 0 };
	int program = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));

	attach.raw_tracepoint.prog_fd = program;
	/* The link lives as long as the descriptor, and that is for good. */
	if (program < 0 || syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &attach, sizeof(attach)) < 0)
		skipped("BPF on the exit of %s: %s", function, strerror(errno));
}
