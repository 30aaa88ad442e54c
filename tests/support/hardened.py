"""Runs a command as a container of Kubernetes would run it under the `restricted` profile: on a read-only root file
system, without capabilities and new privileges, as uid 1337, under a system-call filter.

The filter allows a part of what RuntimeDefault of containerd allows, and answers every other call with EPERM. So what
runs under it also runs under RuntimeDefault. Usage, as root: unshare --mount python3 hardened.py COMMAND...
"""

import ctypes
import ctypes.util
import os
import subprocess
import sys

ALLOWED = """
accept accept4 access arch_prctl bind brk capget clock_getres clock_gettime clock_nanosleep close connect
dup dup2 dup3 epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd2 execve execveat exit exit_group faccessat
faccessat2 fchmod fchmodat fcntl fdatasync fstat fstatfs fsync ftruncate futex getcwd getdents64 getegid geteuid getgid
getpeername getpid getppid getrandom getrlimit getrusage getsockname getsockopt gettid gettimeofday getuid
inotify_add_watch inotify_init1 inotify_rm_watch ioctl listen lseek lstat madvise membarrier memfd_create mkdir mkdirat
mmap mprotect mremap munmap nanosleep newfstatat open openat pipe2 poll ppoll prctl pread64 prlimit64 pselect6 pwrite64
read readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat renameat2 restart_syscall rseq rt_sigaction
rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_yield sendfile sendmmsg sendmsg sendto
set_robust_list set_tid_address setsockopt shutdown sigaltstack socket socketpair splice stat statfs statx sysinfo
tgkill timerfd_create timerfd_settime uname unlink unlinkat wait4 waitid write writev
""".split()

EPERM, ENOSYS, ALLOW = 0x00050000 | 1, 0x00050000 | 38, 0x7FFF0000
MASKED_EQUAL = 7
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: a thread needs none of them
NAMESPACES = 0x7E020000
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
USER = 1337


def read_only():
    """Makes every file system of this mount namespace read-only, but those of the kernel that cannot be."""
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    with open("/proc/self/mountinfo") as mounts:
        points = [line.split()[4] for line in mounts]
    for point in points:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=point == "/", stderr=subprocess.DEVNULL)


def without_privileges(libc):
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("no_new_privs cannot be set")


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: an argument of a call, and what it is compared with."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64)]


def filtered():
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(EPERM)))
    for name in ALLOWED:
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 0, None) != 0:
            sys.exit(f"no rule for {name}")
    number = seccomp.seccomp_syscall_resolve_name(b"clone")
    without_namespaces = Comparison(0, MASKED_EQUAL, NAMESPACES, 0)
    if seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 1, ctypes.byref(without_namespaces)) != 0:
        sys.exit("no rule for clone")
    number = seccomp.seccomp_syscall_resolve_name(b"clone3")  # its flags are in memory, which no filter reads
    if seccomp.seccomp_rule_add_array(context, ctypes.c_uint32(ENOSYS), number, 0, None) != 0:
        sys.exit("no rule for clone3")
    if seccomp.seccomp_load(context) != 0:
        sys.exit("the filter cannot be loaded")


def readable(config):
    """Lets the user read the configuration and the certificates beside it, as `fsGroup` does for a volume."""
    subprocess.run(["chmod", "-R", "a+rX", os.path.dirname(config)], check=True)


if __name__ == "__main__":
    binary = os.open(sys.argv[1], os.O_RDONLY)  # the folders above it may be closed to the user
    readable(sys.argv[-1])
    read_only()
    libc = ctypes.CDLL(None, use_errno=True)
    without_privileges(libc)
    filtered()
    os.execve(binary, sys.argv[1:], os.environ)
