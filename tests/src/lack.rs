//! What a machine may lack, and how a test says that it was skipped for that.
//!
//! A skipped test prints one line, `SKIPPED: what is lacking: why that matters`, and passes. `tests/run` counts these
//! lines; where it found by itself that the machine has the thing, as in continuous integration, it calls such a line
//! a failure. So a test cannot drop out unseen.

use std::fmt;

/// What a test may have to do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Lack {
    /// A program of another project, such as fio.
    Program(&'static str),
    /// Loop devices, and the right to set them up.
    LoopDevice,
    /// A file system for scratch files that is not in memory.
    OrdinaryFileSystem,
    /// `O_DIRECT` on the scratch files' file system.
    DirectIo,
    /// Huge pages that are free.
    HugePage,
    /// io_uring, which a container or a sysctl may forbid.
    IoUring,
    /// Something that came with a later kernel.
    Kernel,
    /// A second processor core.
    SecondCore,
    /// QEMU, or a kernel to boot in it.
    VirtualMachine,
}

impl fmt::Display for Lack {
    /// The words by which `tests/run` knows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lack::Program(name) => name,
            Lack::LoopDevice => "loop device",
            Lack::OrdinaryFileSystem => "ordinary file system",
            Lack::DirectIo => "direct I/O",
            Lack::HugePage => "huge page",
            Lack::IoUring => "io_uring",
            Lack::Kernel => "kernel",
            Lack::SecondCore => "second core",
            Lack::VirtualMachine => "virtual machine",
        })
    }
}

/// Says that the test, or a part of it, is skipped. The test returns afterwards.
#[allow(clippy::print_stdout)] // The line is for whoever runs the tests.
pub fn skip(lack: Lack, reason: impl fmt::Display) {
    println!("SKIPPED: {lack}: {reason}");
}
