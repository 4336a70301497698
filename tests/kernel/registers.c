/* Lets User-Mode Linux 6.1 run on processors with AMX, whose registers it has no room for.
 *
 * It reads and writes its processes' registers by ptrace, in 2,696 bytes (AVX-512 and PKRU). With AMX there are 11,008: reading
 * gives it the first part, which is all that its processes use; writing less than the whole is refused, and it stops. So this
 * stands before ptrace, and writes the whole with their first part replaced.
 *
 * Loaded into the kernel's process by LD_PRELOAD; needs no header, so no more than a compiler.
 */
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE ((void *) 0x202)
#define RTLD_NEXT ((void *) -1l)

struct region {
	char *start;
	unsigned long bytes;
};

extern void *dlsym(void *handle, const char *name);

long ptrace(long request, long pid, void *address, void *data)
{
	/* Not on the stack: a kernel's is small. And only one thread of it traces. */
	static long (*libc_ptrace)(long, long, void *, void *);
	static char registers[65536];
	struct region whole = { registers, sizeof registers };
	struct region *part = data;
	unsigned long i;

	if (!libc_ptrace)
		libc_ptrace = dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || address != NT_X86_XSTATE)
		return libc_ptrace(request, pid, address, data);
	if (libc_ptrace(PTRACE_GETREGSET, pid, address, &whole) < 0)
		return -1;
	for (i = 0; i < part->bytes && i < whole.bytes; i++)
		registers[i] = part->start[i];
	return libc_ptrace(PTRACE_SETREGSET, pid, address, &whole);
}
