//! Making a thread the last one to get processor and disk.
#![expect(unsafe_code, reason = "calls that nix has no form of for one thread")]

/// ioprio_set(2): this thread, best effort, the lowest of its eight levels. Not the idle class: who is in it may hold what
/// others wait for (a journal's transaction) for as long as anybody reads.
const WHO_PROCESS: libc::c_int = 1;
const LOWEST: libc::c_int = 2 << 13 | 7;
/// setpriority(2): the least nice value is the largest.
const NICEST: libc::c_int = 19;

/// Lowers the calling thread's priority, and that of threads that it starts. What the kernel does not grant is no loss.
pub fn give_way() {
    // SAFETY: takes plain integers; on Linux 0 is the calling thread, not its process.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICEST);
        libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, LOWEST);
    }
}

#[cfg(test)]
mod tests {
    fn nice() -> i32 {
        // SAFETY: takes no pointers, and 0 stands for the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[test]
    fn only_the_thread_that_asks_and_those_that_it_makes_have_less_of_the_processor() {
        let before = nice();
        let lowered = std::thread::spawn(|| {
            super::give_way();
            (nice(), std::thread::spawn(nice).join().unwrap())
        });
        assert_eq!(lowered.join().unwrap(), (19, 19));
        assert_eq!(nice(), before);
    }
}
