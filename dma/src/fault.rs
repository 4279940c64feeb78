//! Accesses to registers that are not there: a handler of SIGBUS that lets a load give all ones, and a store do nothing.
//!
//! Linux raises SIGBUS for an access to a mapped register whose device does not decode memory accesses (vfio-pci), or to a
//! page beyond the end of a file. All ones is what a load gives that no device answers on the bus, and what every user of
//! registers has to know anyway. On other processors than x86-64 there is no such handler, and SIGBUS ends the process.
//!
//! Invariants:
//! - Only a fault at an address within a mapping of registers, by an instruction of the two forms that [`super::mmio`]
//!   uses, or a store of a constant, is dealt with. Every other goes to the handler that was there before.
//! - The handler calls nothing, locks nothing and allocates nothing: it reads and changes atomics and the saved registers.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// How many mappings of registers there can be that are looked after. A controller has one to three.
const MOST: usize = 1024;

struct Range {
    /// 0 for a place that is free.
    start: AtomicUsize,
    /// Its end; 0 while it is being set.
    end: AtomicUsize,
}

static RANGES: [Range; MOST] =
    [const { Range { start: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; MOST];
static FAULTS: AtomicU64 = AtomicU64::new(0);
/// What was done for SIGBUS before; never freed.
static BEFORE: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// How many accesses to registers faulted in this process.
pub fn register_faults() -> u64 {
    FAULTS.load(Ordering::Relaxed)
}

/// A mapping that is looked after until this goes.
#[derive(Debug)]
pub(crate) struct Guarded(Option<usize>);

/// Looks after the mapping from `start` on. If there are too many already, a fault there ends the process.
pub(crate) fn guard(start: usize, len_bytes: usize) -> Guarded {
    install();
    for (index, range) in RANGES.iter().enumerate() {
        if range.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            range.end.store(start + len_bytes, Ordering::Release);
            return Guarded(Some(index));
        }
    }
    tracing::warn!(most = MOST, "too many mappings of registers: a fault in this one ends the process");
    Guarded(None)
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(range) = self.0.and_then(|index| RANGES.get(index)) {
            range.end.store(0, Ordering::Release);
            range.start.store(0, Ordering::Release);
        }
    }
}

fn is_guarded(addr: usize) -> bool {
    RANGES.iter().any(|range| {
        // A place that is being set or freed has an end of 0.
        range.start.load(Ordering::Acquire) <= addr && addr < range.end.load(Ordering::Acquire)
    })
}

/// Installs the handler, once.
fn install() {
    static ONCE: Once = Once::new();
    if cfg!(any(miri, not(target_arch = "x86_64"))) {
        return;
    }
    ONCE.call_once(|| {
        // SAFETY: all zeroes is a value of this structure of integers and an optional pointer.
        let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it only asks, into a structure of ours.
        if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) } != 0 {
            return;
        }
        // Before the handler is there that reads it.
        BEFORE.store(Box::into_raw(Box::new(before)), Ordering::Release);
        // SAFETY: as above.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        // On the alternative stack, if the thread has one, as the handlers of the standard library.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for, and keeps to what a handler may do.
        if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
            tracing::warn!("SIGBUS cannot be handled: a register that is not there ends the process");
        }
    });
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid structure, which has an address for SIGBUS.
    let addr = unsafe { (*info).si_addr() }.addr();
    if is_guarded(addr) && access::skip(context) {
        FAULTS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    pass_on(signal, info, context);
}

/// A handler with SA_SIGINFO (sigaction(2)).
type InfoHandler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
/// A handler without.
type PlainHandler = extern "C" fn(libc::c_int);

/// Does what was done before.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let before = BEFORE.load(Ordering::Acquire);
    // SAFETY: set before the handler was installed, and never freed.
    let Some(before) = (unsafe { before.as_ref() }) else { return };
    match before.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: all zeroes is a value of this structure of integers and an optional pointer, and the default action.
            let default: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: the default action has no handler. The instruction faults again when this one returns.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        }
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: a handler that was installed with SA_SIGINFO has this signature.
            let handler = unsafe { std::mem::transmute::<usize, InfoHandler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: a handler that was installed without SA_SIGINFO has this one.
            let handler = unsafe { std::mem::transmute::<usize, PlainHandler>(handler) };
            handler(signal);
        }
    }
}

/// An access as the instruction says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Access {
    /// How many bytes the instruction has.
    len: usize,
    /// The register that is loaded, 0 to 15, and what a load of all ones leaves there; `None` for a store.
    load: Option<(usize, u64)>,
}

/// Reads `mov r, [m]`, `mov [m], r` and `mov [m], imm32` of 32 and 64 bits (Intel SDM volume 2, 2.1 and MOV); `None` for anything
/// else.
/// `byte` gives the instruction's bytes.
fn decode(byte: impl Fn(usize) -> u8) -> Option<Access> {
    let mut at = 0;
    let mut rex = 0;
    if byte(at) & 0xf0 == 0x40 {
        rex = byte(at);
        at += 1;
    }
    let (is_load, constant_bytes) = match byte(at) {
        0x8b => (true, 0),
        0x89 => (false, 0),
        0xc7 => (false, 4),
        _ => return None,
    };
    let modrm = byte(at + 1);
    at += 2;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let mut base = rm;
    if mode == 3 {
        return None;
    }
    if rm == 4 {
        base = byte(at) & 7;
        at += 1;
    }
    at += match mode {
        1 => 1,
        2 => 4,
        // Without a base register, or relative to the instruction.
        _ if base == 5 => 4,
        _ => 0,
    };
    let register = usize::from(modrm >> 3 & 7 | (rex >> 2 & 1) << 3);
    // A load of 32 bits clears the upper half.
    let ones = if rex & 8 != 0 { u64::MAX } else { u64::from(u32::MAX) };
    at += constant_bytes;
    Some(Access { len: at, load: is_load.then_some((register, ones)) })
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod access {
    use super::decode;

    /// Where the kernel saves registers 0 to 15, in the processor's order.
    const SAVED: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];

    /// Goes on behind the instruction, as if it had read all ones or written to nobody. False if it is none that is known.
    pub(super) fn skip(context: *mut libc::c_void) -> bool {
        // SAFETY: with SA_SIGINFO the kernel passes the saved context of the thread that faulted.
        let Some(context) = (unsafe { context.cast::<libc::ucontext_t>().as_mut() }) else { return false };
        let registers = &mut context.uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize] as usize;
        let code = std::ptr::with_exposed_provenance::<u8>(at);
        // SAFETY: the processor has just read the whole instruction there, and no byte beyond it is looked at.
        let byte = |index: usize| unsafe { code.wrapping_add(index).read() };
        let Some(access) = decode(byte) else { return false };
        if let Some((register, ones)) = access.load
            && let Some(saved) = SAVED.get(register).and_then(|index| registers.get_mut(*index as usize))
        {
            *saved = ones.cast_signed();
        }
        registers[libc::REG_RIP as usize] += access.len as i64;
        true
    }
}

#[cfg(any(miri, not(target_arch = "x86_64")))]
mod access {
    /// No handler is installed.
    pub(super) fn skip(_: *mut libc::c_void) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;
    use crate::mmio::MmioRegion;

    /// Two pages of a file that has one.
    fn half_there() -> MmioRegion {
        let file = memfd_create("registers", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        MmioRegion::from_fd(file.as_fd(), 0, 8192).unwrap()
    }

    #[test]
    fn both_forms_of_mov_are_read() {
        let cases: [(&[u8], Option<Access>); 11] = [
            (&[0x8b, 0x07], Some(Access { len: 2, load: Some((0, 0xffff_ffff)) })),
            (&[0x48, 0x8b, 0x0e], Some(Access { len: 3, load: Some((1, u64::MAX)) })),
            (&[0x45, 0x8b, 0x04, 0x24], Some(Access { len: 4, load: Some((8, 0xffff_ffff)) })),
            (&[0x4c, 0x8b, 0x7d, 0x10], Some(Access { len: 4, load: Some((15, u64::MAX)) })),
            (&[0x89, 0x37], Some(Access { len: 2, load: None })),
            (&[0x49, 0x89, 0x85, 0, 1, 0, 0], Some(Access { len: 7, load: None })),
            (&[0x8b, 0x05, 0, 0, 0, 0], Some(Access { len: 6, load: Some((0, 0xffff_ffff)) })),
            (&[0x48, 0xc7, 0x47, 8, 0, 0, 0, 0], Some(Access { len: 8, load: None })),
            (&[0x48, 0xc7, 0x44, 0x0f, 8, 0, 0, 0, 0], Some(Access { len: 9, load: None })),
            (&[0x8b, 0xc7], None),
            (&[0x0f, 0xb6, 0x07], None),
        ];
        for (code, access) in cases {
            assert_eq!(decode(|index| code[index]), access, "{code:x?}");
        }
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn registers_that_are_not_there_read_as_all_ones() {
        let region = half_there();
        region.write32(0, 7).unwrap();
        let before = register_faults();
        assert_eq!(region.read32(4096).unwrap(), u32::MAX);
        assert_eq!(region.read64(4096 + 8).unwrap(), u64::MAX);
        region.write32(4096, 1).unwrap();
        region.write64(4096, 1).unwrap();
        let register = region.register32(8188).unwrap();
        register.write(3);
        assert_eq!(register.read(), u32::MAX);
        assert_eq!(region.read32(0).unwrap(), 7, "what is there works");
        assert!(register_faults() >= before + 6);
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn entries_of_a_queue_that_is_not_there_are_written_to_nobody() {
        let array = crate::CoherentArray::<[u64; 8]>::new(&half_there().memory(), 0, 128).unwrap();
        let before = register_faults();
        assert_eq!(array.set(1, &[7; 8]), Some(()));
        assert_eq!((array.set(64, &[7; 8]), array.set(65, &[0; 8])), (Some(()), Some(())));
        assert!(register_faults() >= before + 16);
        assert_eq!(array.get(1), Some([7; 8]), "what is there works");
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    fn a_fault_elsewhere_still_ends_the_process() {
        const CHILD: &str = "CORELANE_FAULT_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let region = half_there();
            assert_eq!(region.read32(4096).unwrap(), u32::MAX);
            // As if it were no mapping of registers.
            RANGES.iter().for_each(|range| range.end.store(0, Ordering::Relaxed));
            panic!("it was read as {:#x}", region.read32(4096).unwrap());
        }
        let name = "fault::tests::a_fault_elsewhere_still_ends_the_process";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGBUS), "{child:?}");
    }

    #[test]
    fn a_place_is_free_again_when_its_mapping_goes() {
        for _ in 0..2 * MOST {
            let guarded = guard(0x1000, 0x1000);
            assert!(guarded.0.is_some() && is_guarded(0x1000) && is_guarded(0x1fff));
        }
        assert!(!is_guarded(0x1000));
    }
}
