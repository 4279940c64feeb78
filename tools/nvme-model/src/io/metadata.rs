//! Blocks with metadata (NVM command set 2.1.2.3), and protection information in it (5.2): all of it goes through the scratch
//! lists.
//!
//! Invariant: a write changes nothing unless all of its blocks pass their checks. Metadata of blocks that were not written is all
//! ones, which says that nothing is to be checked.

use super::{DWORD12, Io, IoContext, Step, namespace, range, within_limit};
use crate::check::Checker;
use crate::namespace::Namespace;
use crate::protection::{Guard, Protection, Tags};
use crate::violation::Rule;
use crate::wire::command::{Command, DataFormat, nvm};
use crate::wire::status::Status;

/// PRINFO, in bits 29:26 of double word 12.
const PRACT: u32 = 8;
const CHECK_GUARD: u32 = 4;
const CHECK_APPLICATION: u32 = 2;
const CHECK_REFERENCE: u32 = 1;

/// How much of a command without data is carried out at once, in bytes.
const STEP_BYTES: usize = 1 << 20;

/// Blocks of a command, with what it says of their metadata.
#[derive(Clone, Copy)]
struct Tagged<'a> {
    namespace: &'a Namespace,
    first: u64,
    count: usize,
    prinfo: u32,
    /// Of the first block, and what is compared of the application tag.
    reference: u128,
    application: u16,
    mask: u16,
}

impl Tagged<'_> {
    fn block_bytes(&self) -> usize {
        1 << self.namespace.lba_shift()
    }

    fn metadata_bytes(&self) -> usize {
        self.namespace.config.metadata_bytes.into()
    }

    /// As limits in bytes count it: with metadata that lies between the blocks.
    fn len_bytes(&self) -> u64 {
        let between = if self.namespace.config.metadata_extended { self.metadata_bytes() } else { 0 };
        (self.count * (self.block_bytes() + between)) as u64
    }

    /// The same in steps that need little memory.
    fn steps(self) -> impl Iterator<Item = Self> {
        let most = (STEP_BYTES / self.block_bytes()).max(1);
        (0..self.count).step_by(most).map(move |done| Tagged {
            first: self.first + done as u64,
            count: most.min(self.count - done),
            reference: match self.namespace.config.protection {
                Some(protection) => self.reference_of(protection, done),
                None => 0,
            },
            ..self
        })
    }

    /// Whether the host neither gives nor gets the metadata.
    fn keeps_metadata(&self) -> bool {
        let pi = self.namespace.config.protection.map(|protection| protection.guard.pi_bytes());
        self.prinfo & PRACT != 0 && pi == Some(self.metadata_bytes())
    }

    /// The reference tag of block `index` of the command.
    fn reference_of(&self, protection: Protection, index: usize) -> u128 {
        let step = if protection.kind == 3 { 0 } else { index as u128 };
        (self.reference + step) & ((1 << protection.guard.reference_bits()) - 1)
    }

    /// Checks the protection information of a block as far as the command asks for it.
    fn check(
        &self,
        protection: Protection,
        index: usize,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), Status> {
        let tags = protection.read(metadata);
        if protection.is_escaped(tags) {
            return Ok(());
        }
        if self.prinfo & CHECK_GUARD != 0 && tags.guard != protection.guard_of(data, metadata) {
            return Err(Status::GUARD_CHECK);
        }
        if self.prinfo & CHECK_APPLICATION != 0 && (tags.application ^ self.application) & self.mask != 0 {
            return Err(Status::APPLICATION_CHECK);
        }
        let differs = tags.reference != self.reference_of(protection, index);
        if self.prinfo & CHECK_REFERENCE != 0 && differs { Err(Status::REFERENCE_CHECK) } else { Ok(()) }
    }
}

impl Io {
    /// What the host says of itself, or no longer.
    pub(crate) fn set_extended_formats(&mut self, known: bool) {
        self.extended_formats = known;
    }

    /// Carries out a command on a namespace with metadata; `None` if the namespace has none, or the command does not concern
    /// it.
    #[cold]
    pub(super) fn with_metadata(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Option<Result<Step, Status>> {
        let index = (command.nsid() as usize).wrapping_sub(1);
        context.shared.namespaces.get(index)?.metadata.as_ref()?;
        let config = &context.shared.config;
        match command.opcode() {
            nvm::READ => Some(self.read_tagged(command, context, check)),
            nvm::WRITE => Some(self.write_tagged(command, context, check)),
            nvm::WRITE_ZEROES if config.write_zeroes => Some(self.zero_tagged(command, context, check)),
            nvm::VERIFY if config.verify => Some(self.verify_tagged(command, context, check)),
            nvm::COMPARE if config.compare => Some(self.compare_tagged(command, context, check)),
            nvm::COPY => {
                let text = "the model copies no blocks with metadata".to_owned();
                Some(Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text)))
            }
            _ => None,
        }
    }

    fn tagged<'a>(
        &self,
        command: &Command,
        context: &IoContext<'a>,
        check: &Checker<'_>,
    ) -> Result<Tagged<'a>, Status> {
        check.reserved(command, 12, &[DWORD12 | 1 << 25, 0xFF]);
        let namespace = namespace(command.nsid(), context.shared, check)?;
        let blocks = range(command, namespace, check)?;
        let shift = namespace.lba_shift();
        let mut prinfo = command.dword(12) >> 26 & 0xF;
        let low = u128::from(command.dword(14));
        let high = u128::from(command.dword(3)) << 32 | u128::from(command.dword(2)) << 64;
        let mut tagged = Tagged {
            namespace,
            first: command.slba(),
            count: (blocks.len_bytes >> shift) as usize,
            prinfo,
            reference: low | high,
            application: command.dword(15) as u16,
            mask: (command.dword(15) >> 16) as u16,
        };
        let Some(protection) = namespace.config.protection else {
            // Without protection information PRINFO has no effect.
            prinfo = 0;
            tagged.prinfo = prinfo;
            return Ok(tagged);
        };
        if protection.guard != Guard::Crc16 && !self.extended_formats {
            // The host has not said that it knows this format (Host Behavior Support, LBAFEE), and is told so. That is not
            // forbidden: the firmware of a machine tries every namespace.
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        let checked = prinfo & CHECK_REFERENCE != 0;
        let ones = (1_u128 << protection.guard.reference_bits()) - 1;
        let first = u128::from(command.slba()) & ones;
        if checked && (protection.kind == 3 || protection.kind == 1 && tagged.reference != first) {
            let text = format!("reference tag {:#x} of type {}", tagged.reference, protection.kind);
            return Err(check.refuse(Status::INVALID_PROTECTION, Rule::InvalidField, text));
        }
        Ok(tagged)
    }

    /// Finds the host's memory of a transfer. Where the metadata is, if it has a buffer of its own.
    fn find_tagged(
        &mut self,
        tagged: &Tagged<'_>,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(usize, Option<u64>), Status> {
        let config = &tagged.namespace.config;
        let beside = config.metadata_extended && !tagged.keeps_metadata();
        let unit = tagged.block_bytes() + if beside { tagged.metadata_bytes() } else { 0 };
        let len = unit * tagged.count;
        let mdts = context.shared.config.mdts;
        if mdts != 0 && len > 4096 << mdts {
            let text = format!("{len} bytes; MDTS allows {}", 4096_u64 << mdts);
            return Err(check.refuse(Status::INVALID_FIELD, Rule::Range, text));
        }
        self.segments.of_command(command, len, context.rules, context.view, check)?;
        let elsewhere = !config.metadata_extended && !tagged.keeps_metadata();
        if elsewhere && command.data_format() == DataFormat::Prp && !command.mptr().is_multiple_of(4) {
            let text = format!("MPTR is {:#x}, but must be a multiple of 4", command.mptr());
            return Err(check.refuse(Status::INVALID_FIELD, Rule::InvalidField, text));
        }
        if !elsewhere && command.mptr() != 0 {
            check.note(Rule::ReservedField, "a metadata pointer where no metadata is transferred".to_owned());
        }
        Ok((unit, elsewhere.then(|| command.mptr())))
    }

    fn read_tagged(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let tagged = self.tagged(command, context, check)?;
        let (unit, pointer) = self.find_tagged(&tagged, command, context, check)?;
        self.load(&tagged)?;
        self.check_all(&tagged)?;
        let (block, more) = (tagged.block_bytes(), tagged.metadata_bytes());
        let [data, tags] = &self.scratch;
        let mut out = Vec::with_capacity(unit * tagged.count);
        for (data, tags) in data.chunks(block).zip(tags.chunks(more)) {
            out.extend_from_slice(data);
            if unit > block {
                out.extend_from_slice(tags);
            }
        }
        let mut rest = &out[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at(segment.len_bytes);
            context.view.write(segment.iova, now).map_err(|fault| check.fault("the data", fault))?;
            rest = later;
        }
        if let Some(iova) = pointer {
            context.view.write(iova, tags).map_err(|fault| check.fault("the metadata", fault))?;
        }
        Ok(Step::Done)
    }

    /// The host's blocks, into the scratch lists; zeroes for metadata that it does not give.
    fn take_from_host(
        &mut self,
        tagged: &Tagged<'_>,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<(), Status> {
        let (unit, pointer) = self.find_tagged(tagged, command, context, check)?;
        let (block, more) = (tagged.block_bytes(), tagged.metadata_bytes());
        let mut all = vec![0; unit * tagged.count];
        let mut rest = &mut all[..];
        for segment in self.segments.list() {
            let (now, later) = rest.split_at_mut(segment.len_bytes);
            context.view.read(segment.iova, now).map_err(|fault| check.fault("the data", fault))?;
            rest = later;
        }
        let [data, tags] = &mut self.scratch;
        data.clear();
        tags.clear();
        for one in all.chunks(unit) {
            data.extend_from_slice(&one[..block]);
            tags.extend_from_slice(&one[block..]);
        }
        tags.resize(more * tagged.count, 0);
        if let Some(iova) = pointer {
            context.view.read(iova, tags).map_err(|fault| check.fault("the metadata", fault))?;
        }
        Ok(())
    }

    fn write_tagged(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let tagged = self.tagged(command, context, check)?;
        self.take_from_host(&tagged, command, context, check)?;
        match tagged.namespace.config.protection {
            Some(protection) if tagged.prinfo & PRACT != 0 => self.make_tags(&tagged, protection),
            _ => self.check_all(&tagged)?,
        }
        self.store(&tagged)
    }

    /// Compare (3.2.1): of the metadata all but the protection information is compared; that is checked on both sides.
    fn compare_tagged(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let tagged = self.tagged(command, context, check)?;
        if tagged.prinfo & PRACT != 0 {
            let text = "Compare with PRACT".to_owned();
            return Err(check.refuse(Status::INVALID_PROTECTION, Rule::InvalidField, text));
        }
        self.take_from_host(&tagged, command, context, check)?;
        self.check_all(&tagged)?;
        let host = self.scratch.clone();
        self.load(&tagged)?;
        self.check_all(&tagged)?;
        let place = tagged.namespace.config.protection.map(|one| one.place(tagged.metadata_bytes()));
        let compared = |at: usize| place.as_ref().is_none_or(|place| !place.contains(&at));
        let same =
            |(at, (one, other)): (usize, (&u8, &u8))| one == other || !compared(at % tagged.metadata_bytes());
        let [data, tags] = &self.scratch;
        let is_same = host[0] == *data && host[1].iter().zip(tags).enumerate().all(same);
        if is_same { Ok(Step::Done) } else { Err(Status::COMPARE_FAILURE.dnr()) }
    }

    fn zero_tagged(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let tagged = self.tagged(command, context, check)?;
        if tagged.prinfo & (CHECK_GUARD | CHECK_APPLICATION | CHECK_REFERENCE) != 0 {
            let text = "Write Zeroes has nothing to check".to_owned();
            return Err(check.refuse(Status::INVALID_PROTECTION, Rule::InvalidField, text));
        }
        within_limit("WZSL", context.shared.config.wzsl, tagged.len_bytes(), check)?;
        for step in tagged.steps() {
            let [data, tags] = &mut self.scratch;
            data.clear();
            data.resize(step.block_bytes() * step.count, 0);
            tags.clear();
            tags.resize(step.metadata_bytes() * step.count, 0);
            if let Some(protection) = step.namespace.config.protection.filter(|_| step.prinfo & PRACT != 0) {
                self.make_tags(&step, protection);
            }
            self.store(&step)?;
        }
        Ok(Step::Done)
    }

    fn verify_tagged(
        &mut self,
        command: &Command,
        context: &mut IoContext<'_>,
        check: &Checker<'_>,
    ) -> Result<Step, Status> {
        let tagged = self.tagged(command, context, check)?;
        within_limit("VSL", context.shared.config.vsl, tagged.len_bytes(), check)?;
        for step in tagged.steps() {
            self.load(&step)?;
            self.check_all(&step)?;
        }
        Ok(Step::Done)
    }

    /// What is stored, into the scratch lists.
    fn load(&mut self, tagged: &Tagged<'_>) -> Result<(), Status> {
        let [data, tags] = &mut self.scratch;
        data.resize(tagged.block_bytes() * tagged.count, 0);
        tags.resize(tagged.metadata_bytes() * tagged.count, 0);
        let (block, more) = (tagged.block_bytes() as u64, tagged.metadata_bytes() as u64);
        let copied = tagged.namespace.store.copy_to(tagged.first * block, data);
        copied.map_err(|_| Status::READ_ERROR)?;
        tagged.namespace.metadata_to(tagged.first * more, tags)
    }

    /// The scratch lists, to where blocks are kept.
    fn store(&self, tagged: &Tagged<'_>) -> Result<Step, Status> {
        let [data, tags] = &self.scratch;
        let (block, more) = (tagged.block_bytes() as u64, tagged.metadata_bytes() as u64);
        tagged.namespace.store.copy_from(tagged.first * block, data).map_err(|_| Status::WRITE_FAULT)?;
        tagged.namespace.set_metadata(tagged.first * more, tags)?;
        Ok(Step::Done)
    }

    fn check_all(&self, tagged: &Tagged<'_>) -> Result<(), Status> {
        let Some(protection) = tagged.namespace.config.protection else { return Ok(()) };
        let [data, tags] = &self.scratch;
        let blocks = data.chunks(tagged.block_bytes()).zip(tags.chunks(tagged.metadata_bytes()));
        blocks.enumerate().try_for_each(|(index, (data, tags))| tagged.check(protection, index, data, tags))
    }

    fn make_tags(&mut self, tagged: &Tagged<'_>, protection: Protection) {
        let [data, tags] = &mut self.scratch;
        let blocks = data.chunks(tagged.block_bytes()).zip(tags.chunks_mut(tagged.metadata_bytes()));
        for (index, (data, tags)) in blocks.enumerate() {
            let guard = protection.guard_of(data, tags);
            let reference = tagged.reference_of(protection, index);
            protection.write(tags, Tags { guard, application: tagged.application, reference });
        }
    }
}
