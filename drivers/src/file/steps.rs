//! Which kernel operation carries a request, and which one comes next when the kernel refuses it.
//!
//! Reads and writes are a [`Step::Transfer`] and handled where the commands are. Everything else is decided here, without the
//! kernel, from three things: the step, what it returned, and what this file has been found able to do. What a file cannot
//! do is learned once and shared by all lanes; a request that no step is left for ends with `ENOTSUP`, and the block
//! layer does it by hand.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use corelane_engine::block::{Errno, IoResult, Op, ReqFlags};

use super::probe::FileKind;

/// What a command is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A read or write.
    Transfer,
    /// The rest of a read or write, or another try.
    Rest,
    /// `fdatasync` for a flush.
    Flush,
    /// Write zeroes that may deallocate: punch a hole.
    ZeroPunch,
    /// Write zeroes: zero the range, leaving it allocated.
    ZeroRange,
    /// Write zeroes in a file system without zeroing of ranges: punch a hole first,
    ZeroPunchFirst,
    /// and allocate it again after.
    ZeroAllocate,
    /// `fdatasync` after write zeroes that must be durable.
    ZeroSync,
    /// Discard in a file: punch a hole.
    DiscardPunch,
    /// Discard on a block device through the ring (`BLOCK_URING_CMD_DISCARD`, Linux 6.12).
    DiscardCommand,
    /// Discard on a block device by `ioctl(BLKDISCARD)`, on a helper thread.
    DiscardCall,
}

/// What to do after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The request ends.
    Done(IoResult),
    /// Do this.
    Go(Step),
}

/// What a file was found able to do. Each starts hopeful and goes off once, when the kernel says so.
#[derive(Debug)]
pub struct Abilities {
    /// `fallocate(FALLOC_FL_ZERO_RANGE)`.
    pub zero_range: AtomicBool,
    /// `fallocate(FALLOC_FL_PUNCH_HOLE)`.
    pub punch_hole: AtomicBool,
    /// `fallocate(0)`.
    pub allocate: AtomicBool,
    /// The ring's discard command.
    pub discard_command: AtomicBool,
    /// `ioctl(BLKDISCARD)`.
    pub discard_call: AtomicBool,
    /// The errno of the first flush that failed with the page cache in use, 0 for none. After such a failure the kernel
    /// has forgotten which pages never reached the disk, so no later flush may claim success (QEMU does the same).
    pub flush_errno: AtomicI32,
}

impl Default for Abilities {
    fn default() -> Abilities {
        Abilities {
            zero_range: AtomicBool::new(true),
            punch_hole: AtomicBool::new(true),
            allocate: AtomicBool::new(true),
            discard_command: AtomicBool::new(true),
            discard_call: AtomicBool::new(true),
            flush_errno: AtomicI32::new(0),
        }
    }
}

/// Relaxed everywhere: each is a hint that stands for itself; a lane that reads an old value asks the kernel once more.
fn can(ability: &AtomicBool) -> bool {
    ability.load(Ordering::Relaxed)
}

fn cannot(ability: &AtomicBool) {
    ability.store(false, Ordering::Relaxed);
}

/// What the steps have to know of the file.
#[derive(Debug)]
pub struct Rules {
    /// What kind of file it is.
    pub kind: FileKind,
    /// Whether the page cache is in use.
    pub buffered: bool,
    /// Whether flushes are ignored.
    pub no_flush: bool,
    /// Whether every write must be durable when it completes.
    pub always_durable: bool,
    /// Whether discards and deallocating writes of zeroes do anything.
    pub unmap: bool,
    /// What was found out.
    pub abilities: Abilities,
}

impl Rules {
    /// The first step of a request that is not a read or write.
    pub fn first(&self, op: Op, flags: ReqFlags) -> Next {
        match op {
            Op::Read | Op::Write => Next::Go(Step::Transfer),
            Op::Flush => self.first_flush(),
            Op::WriteZeroes => self.first_zero(flags),
            Op::Discard => self.first_discard(),
        }
    }

    /// Whether a write with `flags` must be durable when it completes.
    #[inline]
    pub fn durable(&self, flags: ReqFlags) -> bool {
        self.always_durable || (flags.contains(ReqFlags::FUA) && !self.no_flush)
    }

    /// Whether there is any way left to write zeroes without sending them.
    pub fn can_write_zeroes(&self) -> bool {
        can(&self.abilities.zero_range) || (self.kind == FileKind::Regular && self.can_punch_and_allocate())
    }

    /// Whether there is any way left to discard.
    pub fn can_discard(&self) -> bool {
        self.unmap
            && match self.kind {
                FileKind::Regular => can(&self.abilities.punch_hole),
                FileKind::Block => can(&self.abilities.discard_command) || can(&self.abilities.discard_call),
            }
    }

    fn can_punch_and_allocate(&self) -> bool {
        can(&self.abilities.punch_hole) && can(&self.abilities.allocate)
    }

    fn first_flush(&self) -> Next {
        if self.no_flush {
            return Next::Done(Ok(()));
        }
        match self.abilities.flush_errno.load(Ordering::Relaxed) {
            0 => Next::Go(Step::Flush),
            errno => Next::Done(Err(Errno::from_raw(errno).into())),
        }
    }

    fn first_zero(&self, flags: ReqFlags) -> Next {
        let may_unmap = self.unmap && flags.contains(ReqFlags::MAY_UNMAP);
        match may_unmap && can(&self.abilities.punch_hole) {
            true => Next::Go(Step::ZeroPunch),
            false => self.zero_in_place(),
        }
    }

    fn zero_in_place(&self) -> Next {
        match can(&self.abilities.zero_range) {
            true => Next::Go(Step::ZeroRange),
            false => self.zero_without_range(),
        }
    }

    /// A block device cannot be allocated, so there this way is closed.
    fn zero_without_range(&self) -> Next {
        match self.kind == FileKind::Regular && self.can_punch_and_allocate() {
            true => Next::Go(Step::ZeroPunchFirst),
            false => unsupported(),
        }
    }

    fn first_discard(&self) -> Next {
        match self.kind {
            _ if !self.unmap => Next::Done(Ok(())),
            FileKind::Regular if can(&self.abilities.punch_hole) => Next::Go(Step::DiscardPunch),
            FileKind::Block if can(&self.abilities.discard_command) => Next::Go(Step::DiscardCommand),
            FileKind::Block if can(&self.abilities.discard_call) => Next::Go(Step::DiscardCall),
            _ => unsupported(),
        }
    }

    /// What follows `step`, which ended with `errno` (`None` for success). Not for transfers.
    pub fn after(&self, step: Step, errno: Option<Errno>, flags: ReqFlags) -> Next {
        match errno {
            None => self.after_success(step, flags),
            Some(errno) if is_unsupported(errno) => self.after_unsupported(step),
            Some(errno) => self.after_error(step, errno),
        }
    }

    fn after_success(&self, step: Step, flags: ReqFlags) -> Next {
        match step {
            Step::ZeroPunchFirst => Next::Go(Step::ZeroAllocate),
            Step::ZeroPunch | Step::ZeroRange | Step::ZeroAllocate if self.durable(flags) => {
                Next::Go(Step::ZeroSync)
            }
            _ => Next::Done(Ok(())),
        }
    }

    /// The kernel or the file system has no such operation: remember, and take the next way.
    fn after_unsupported(&self, step: Step) -> Next {
        let abilities = &self.abilities;
        match step {
            Step::ZeroPunch => {
                // A disk may lack deallocation that zeroes and still discard, which goes by other commands.
                cannot(&abilities.punch_hole);
                self.zero_in_place()
            }
            Step::ZeroRange => {
                cannot(&abilities.zero_range);
                self.zero_without_range()
            }
            Step::ZeroPunchFirst | Step::DiscardPunch => {
                cannot(&abilities.punch_hole);
                unsupported()
            }
            Step::ZeroAllocate => {
                cannot(&abilities.allocate);
                unsupported()
            }
            Step::DiscardCommand => {
                cannot(&abilities.discard_command);
                self.first_discard()
            }
            Step::DiscardCall => {
                cannot(&abilities.discard_call);
                unsupported()
            }
            Step::Flush | Step::ZeroSync | Step::Transfer | Step::Rest => unsupported(),
        }
    }

    fn after_error(&self, step: Step, errno: Errno) -> Next {
        match step {
            // Refused for this range only (unaligned, or in use as swap): another way may do.
            Step::ZeroPunch if errno == Errno::EINVAL || errno == Errno::EBUSY => self.zero_in_place(),
            Step::ZeroRange if errno == Errno::EINVAL => self.zero_without_range(),
            Step::ZeroPunchFirst | Step::ZeroAllocate | Step::DiscardPunch if errno == Errno::EINVAL => {
                unsupported()
            }
            Step::Flush | Step::ZeroSync => {
                if self.buffered {
                    self.abilities.flush_errno.store(errno.raw(), Ordering::Relaxed);
                }
                Next::Done(Err(errno.into()))
            }
            _ => Next::Done(Err(errno.into())),
        }
    }
}

fn unsupported() -> Next {
    Next::Done(Err(Errno::ENOTSUP.into()))
}

/// The ways in which kernels and file systems say that they have no such operation.
fn is_unsupported(errno: Errno) -> bool {
    matches!(errno.raw(), libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::ENOTTY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(kind: FileKind) -> Rules {
        Rules {
            kind,
            buffered: true,
            no_flush: false,
            always_durable: false,
            unmap: true,
            abilities: Abilities::default(),
        }
    }

    const NONE: ReqFlags = ReqFlags::empty();

    #[test]
    fn zeroes_fall_back_step_by_step_and_are_learned() {
        let rules = rules(FileKind::Regular);
        assert_eq!(rules.first(Op::WriteZeroes, ReqFlags::MAY_UNMAP), Next::Go(Step::ZeroPunch));
        assert_eq!(rules.after(Step::ZeroPunch, Some(Errno::EBUSY), NONE), Next::Go(Step::ZeroRange));
        assert_eq!(
            rules.first(Op::WriteZeroes, ReqFlags::MAY_UNMAP),
            Next::Go(Step::ZeroPunch),
            "not learned"
        );
        assert_eq!(
            rules.after(Step::ZeroRange, Some(Errno::EOPNOTSUPP), NONE),
            Next::Go(Step::ZeroPunchFirst)
        );
        assert_eq!(rules.first(Op::WriteZeroes, NONE), Next::Go(Step::ZeroPunchFirst), "learned");
        assert_eq!(rules.after(Step::ZeroPunchFirst, None, NONE), Next::Go(Step::ZeroAllocate));
        assert_eq!(rules.after(Step::ZeroAllocate, None, NONE), Next::Done(Ok(())));
        assert!(rules.can_write_zeroes());
        assert_eq!(rules.after(Step::ZeroAllocate, Some(Errno::EOPNOTSUPP), NONE), unsupported());
        assert_eq!(rules.first(Op::WriteZeroes, NONE), unsupported());
        assert!(!rules.can_write_zeroes());
    }

    #[test]
    fn a_disk_without_zeroing_deallocation_still_discards() {
        let rules = rules(FileKind::Block);
        assert_eq!(
            rules.after(Step::ZeroPunch, Some(Errno::EOPNOTSUPP), ReqFlags::MAY_UNMAP),
            Next::Go(Step::ZeroRange)
        );
        assert_eq!(rules.first(Op::WriteZeroes, ReqFlags::MAY_UNMAP), Next::Go(Step::ZeroRange));
        assert_eq!(rules.first(Op::Discard, NONE), Next::Go(Step::DiscardCommand));
        assert_eq!(
            rules.after(Step::DiscardCommand, Some(Errno::EOPNOTSUPP), NONE),
            Next::Go(Step::DiscardCall)
        );
        assert_eq!(rules.after(Step::DiscardCall, Some(Errno::from_raw(libc::ENOTTY)), NONE), unsupported());
        assert!(!rules.can_discard());
        assert_eq!(rules.first(Op::Discard, NONE), unsupported());
        assert_eq!(rules.after(Step::ZeroRange, Some(Errno::EOPNOTSUPP), NONE), unsupported());
    }

    #[test]
    fn ignored_discards_neither_discard_nor_deallocate() {
        let rules = Rules { unmap: false, ..rules(FileKind::Regular) };
        assert_eq!(rules.first(Op::Discard, NONE), Next::Done(Ok(())));
        assert!(!rules.can_discard());
        assert_eq!(rules.first(Op::WriteZeroes, ReqFlags::MAY_UNMAP), Next::Go(Step::ZeroRange));
    }

    #[test]
    fn durable_zeroes_are_synced() {
        let writeback = rules(FileKind::Regular);
        assert_eq!(writeback.after(Step::ZeroRange, None, NONE), Next::Done(Ok(())));
        assert_eq!(writeback.after(Step::ZeroRange, None, ReqFlags::FUA), Next::Go(Step::ZeroSync));
        let through = Rules { always_durable: true, ..rules(FileKind::Regular) };
        assert_eq!(through.after(Step::ZeroPunch, None, NONE), Next::Go(Step::ZeroSync));
        assert_eq!(through.after(Step::ZeroSync, None, NONE), Next::Done(Ok(())));
        let reckless = Rules { no_flush: true, ..rules(FileKind::Regular) };
        assert_eq!(reckless.after(Step::ZeroRange, None, ReqFlags::FUA), Next::Done(Ok(())));
        assert_eq!(reckless.first(Op::Flush, NONE), Next::Done(Ok(())));
    }

    #[test]
    fn a_failed_flush_of_the_page_cache_is_never_forgotten() {
        let failed = Next::Done(Err(Errno::ENOSPC.into()));
        let buffered = rules(FileKind::Regular);
        assert_eq!(buffered.after(Step::Flush, Some(Errno::ENOSPC), NONE), failed);
        assert_eq!(buffered.first(Op::Flush, NONE), failed);
        let direct = Rules { buffered: false, ..rules(FileKind::Regular) };
        assert_eq!(direct.after(Step::Flush, Some(Errno::ENOSPC), NONE), failed);
        assert_eq!(direct.first(Op::Flush, NONE), Next::Go(Step::Flush));
    }

    #[test]
    fn other_errors_pass_up() {
        let rules = rules(FileKind::Regular);
        let nospc = Next::Done(Err(Errno::ENOSPC.into()));
        for step in [Step::ZeroPunch, Step::ZeroRange, Step::ZeroAllocate, Step::DiscardPunch] {
            assert_eq!(rules.after(step, Some(Errno::ENOSPC), NONE), nospc, "{step:?}");
        }
        assert!(rules.can_discard() && rules.can_write_zeroes());
    }
}
