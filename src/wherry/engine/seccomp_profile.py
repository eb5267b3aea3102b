"""The default system call filter, as data: the behaviour of Docker's default profile, grouped by purpose.

Everything not named here is refused with EPERM. What is missing on purpose, because it has let containers
out or is of no use inside one: io_uring, userfaultfd, the kernel keyring, kexec, swap, the classic module
calls, and sockets of the families AF_ALG and AF_VSOCK. A test holds this table against the published
profile.
"""

from __future__ import annotations

import msgspec


class Argument(msgspec.Struct, frozen=True):
    """A condition on one argument of a call; `op` without its SCMP_CMP_."""

    index: int
    op: str
    value: int
    value_two: int = 0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Calls and what becomes of them, if the conditions hold for the container.

    `caps`: the container has all of them. `arches`: the machine is one of them. `without_caps`,
    `without_arches`: the container has none of them, the machine is none of them. `kernel`: at least this
    version.
    """

    names: tuple[str, ...]
    action: str = "SCMP_ACT_ALLOW"
    errno: int | None = None
    args: tuple[Argument, ...] = ()
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    without_caps: tuple[str, ...] = ()
    without_arches: tuple[str, ...] = ()
    kernel: tuple[int, int] = (0, 0)


FILES = """
    access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32
    fchownat fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd getdents getdents64 lchown lchown32 link
    linkat listmount lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2
    readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64 statmount statx symlink symlinkat
    truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr
    lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
    fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
    landlock_add_rule landlock_create_ruleset landlock_restrict_self"""

DESCRIPTORS = """
    close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64 fdatasync flock fsync
    ftruncate ftruncate64 ioctl _llseek lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee vmsplice write writev
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit"""

SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64
    recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair"""

MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages"""

PROCESSES = """
    execve execveat exit exit_group fork getpgid getpgrp getpid getppid getsid gettid pidfd_open prctl
    process_mrelease seccomp setpgid setsid set_tid_address vfork wait4 waitid waitpid
    get_robust_list get_thread_area set_robust_list set_thread_area rseq restart_syscall uretprobe
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
    getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 setpriority setrlimit ugetrlimit
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield
    getrandom riscv_hwprobe sysinfo uname"""

SIGNALS = """
    kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn tgkill tkill"""

IDENTITY = """
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid setuid32"""

TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time times timer_create
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
    timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64"""

MESSAGES = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget"""

ADMINISTRATION = """
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
    sethostname setns syslog umount umount2 unshare"""

WITH_CAPABILITY = {
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_ADMIN": ADMINISTRATION,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYSLOG": "syslog",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
}

ON_MACHINE = {
    ("ppc64le",): "sync_file_range2 swapcontext",
    ("arm", "arm64"): "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
    ("amd64", "x32"): "arch_prctl",
    ("amd64", "x32", "x86"): "modify_ldt",
    ("s390", "s390x"): "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ("riscv64",): "riscv_flush_icache",
}

_AF_ALG, _AF_VSOCK = 38, 40
_ENOSYS = 38

_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, 32-bit addresses, old uname, both, and "what is it now"."""

_NAMESPACE_FLAGS = 0x7E020000
"""Every CLONE_NEW… that clone takes: cgroup, uts, ipc, user, pid, net and mount."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _clone_without_namespaces(flags_argument: int) -> tuple[Argument, ...]:
    return (Argument(flags_argument, "MASKED_EQ", _NAMESPACE_FLAGS, 0),)


RULES: tuple[Rule, ...] = (
    Rule(
        names=_names(
            FILES + DESCRIPTORS + SOCKETS + MEMORY + PROCESSES + SIGNALS + IDENTITY + TIME + MESSAGES
        )
    ),
    # Before 4.8 a traced process could slip past its filter.
    Rule(names=_names("process_vm_readv process_vm_writev ptrace"), kernel=(4, 8)),
    *(
        Rule(names=("socket",), args=(argument,))
        for argument in (Argument(0, "LT", _AF_ALG), Argument(0, "EQ", 39), Argument(0, "GT", _AF_VSOCK))
    ),
    *(Rule(names=("personality",), args=(Argument(0, "EQ", value),)) for value in _PERSONALITIES),
    *(Rule(names=_names(calls), arches=machines) for machines, calls in ON_MACHINE.items()),
    *(Rule(names=_names(calls), caps=(capability,)) for capability, calls in WITH_CAPABILITY.items()),
    Rule(
        names=("clone",),
        args=_clone_without_namespaces(0),
        without_caps=("CAP_SYS_ADMIN",),
        without_arches=("s390", "s390x"),
    ),
    Rule(  # s390 has the flags second
        names=("clone",),
        args=_clone_without_namespaces(1),
        arches=("s390", "s390x"),
        without_caps=("CAP_SYS_ADMIN",),
    ),
    # clone3 has its flags in memory, where a filter cannot look: "no such call" makes libc fall back
    # to clone.
    Rule(names=("clone3",), action="SCMP_ACT_ERRNO", errno=_ENOSYS, without_caps=("CAP_SYS_ADMIN",)),
)
"""In the order in which a filter is to be built from them."""

ARCHITECTURES = {
    "SCMP_ARCH_X86_64": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "SCMP_ARCH_AARCH64": ("SCMP_ARCH_ARM",),
    "SCMP_ARCH_MIPS64": ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"),
    "SCMP_ARCH_MIPS64N32": ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64"),
    "SCMP_ARCH_MIPSEL64": ("SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32"),
    "SCMP_ARCH_MIPSEL64N32": ("SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64"),
    "SCMP_ARCH_S390X": ("SCMP_ARCH_S390",),
    "SCMP_ARCH_RISCV64": (),
    "SCMP_ARCH_LOONGARCH64": (),
}
"""What a machine runs besides its own kind of program."""
