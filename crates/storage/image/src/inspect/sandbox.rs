//! What a process may still do that reads an image of anybody's.
//!
//! Three layers, each of which holds without the others: limits of the system (memory, processor time, no files written, no
//! dump of its memory), Landlock (no file but the image, no network), and seccomp (only the calls that reading and
//! computing need). What the kernel does not have is left out, and told.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, set_dumpable_behavior, setrlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// Descriptors that may be open at once.
const MAX_FILES: u64 = 128;

/// What the system limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of address space.
    pub memory: u64,
    /// Seconds of processor time.
    pub seconds: u64,
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Force {
    /// The system's limits.
    pub limits: bool,
    /// Landlock: `full`, `partial` (an older kernel, without all kinds of access) or `none`.
    pub landlock: &'static str,
    /// seccomp.
    pub seccomp: bool,
}

/// The first part, at the start of the process, when it has one thread and nothing open but its standard streams: from now on
/// only the file behind `image` can be opened, for reading.
pub fn close_files(image: BorrowedFd<'_>, bounds: Bounds) -> Force {
    let limit = |r, n| {
        let n = Some(n);
        setrlimit(r, Rlimit { current: n, maximum: n }).is_ok()
    };
    let mut force = Force { limits: true, landlock: landlock(image), seccomp: false };
    // The file size is that of files that it writes; a pipe is none.
    for (r, n) in [
        (Resource::As, bounds.memory),
        (Resource::Cpu, bounds.seconds),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nofile, MAX_FILES),
    ] {
        force.limits &= limit(r, n);
    }
    // Nobody of the same user looks into it, and it does not outlive the one who waits for it.
    force.limits &= set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    force.limits &= rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    force
}

fn landlock(image: BorrowedFd<'_>) -> &'static str {
    let abi = ABI::V6;
    let restrict = || {
        let rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .handle_access(AccessNet::from_all(abi))?
            .scope(Scope::from_all(abi))?
            .create()?;
        rules.add_rule(PathBeneath::new(image, AccessFs::ReadFile))?.restrict_self()
    };
    match restrict().map(|s: landlock::RestrictionStatus| s.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => "full",
        Ok(RulesetStatus::PartiallyEnforced) => "partial",
        Ok(RulesetStatus::NotEnforced) | Err(_) => "none",
    }
}

/// The second part, when the image's file is open and nothing of it was read: all threads, and those to come, have only the
/// calls left that reading and computing need. Whether that is so.
pub fn close_calls() -> bool {
    filters().is_some_and(|both| {
        let programs = both.map(|f| seccompiler::BpfProgram::try_from(f).ok());
        programs.iter().all(|p| p.as_ref().is_some_and(|p| seccompiler::apply_filter_all_threads(p).is_ok()))
    })
}

/// The calls that need no look at their arguments.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
];

/// The calls that nothing but a parser that was taken over would make: it is ended.
const FATAL: &[libc::c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_memfd_create,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_bpf,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_kill,
];

/// What may be called, and what must not. A call in neither list is answered as if the kernel did not have it, which
/// programs know how to live with (a thread, say, is then made by the older call, whose arguments can be seen here).
fn filters() -> Option<[SeccompFilter; 2]> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let own = u64::from(std::process::id());
    let no_code = masked(2, libc::PROT_EXEC as u64, 0)?;
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|c| (*c, Vec::new())).collect();
    allowed.insert(libc::SYS_mmap, vec![no_code.clone()]);
    allowed.insert(libc::SYS_mprotect, vec![no_code]);
    let thread = (libc::CLONE_THREAD | libc::CLONE_VM) as u64;
    allowed.insert(libc::SYS_clone, vec![masked(0, thread, thread)?]);
    // The end of a process that gives up.
    allowed.insert(libc::SYS_tgkill, vec![masked(0, u64::from(u32::MAX), own)?]);
    allowed.insert(libc::SYS_prctl, vec![masked(0, u64::from(u32::MAX), libc::PR_SET_NAME as u64)?]);
    let fatal = FATAL.iter().map(|c| (*c, Vec::new())).collect();
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    Some([
        // In this order: the first still lets the second be put in force. Of both answers the harder one counts.
        SeccompFilter::new(fatal, SeccompAction::Allow, SeccompAction::KillProcess, arch).ok()?,
        SeccompFilter::new(allowed, unknown, SeccompAction::Allow, arch).ok()?,
    ])
}

fn masked(arg: u8, mask: u64, value: u64) -> Option<SeccompRule> {
    let is = SeccompCmpOp::MaskedEq(mask);
    let c = SeccompCondition::new(arg, SeccompCmpArgLen::Qword, is, value).ok()?;
    SeccompRule::new(vec![c]).ok()
}
