//! Mappers that join a space that is in use, or leave it.

use std::fmt;
use std::ops::RangeInclusive;

use super::{AddressSpace, DmaMapper, IovaConstraints, State};
use crate::error::DmaError;
use crate::iova::{Iova, IovaAllocator};

/// One mapper of an address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MapperId(u64);

impl MapperId {
    /// The mapper that the space was made with.
    pub const FIRST: MapperId = MapperId(0);
}

impl fmt::Display for MapperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mapper {}", self.0)
    }
}

impl AddressSpace {
    /// Adds a mapper, and maps in it all that is mapped. From then on every mapping is made in all of them.
    ///
    /// # Errors
    /// [`DmaError::CannotJoin`] where what is mapped lies outside the mapper's ranges or does not consist of its pages, or
    /// where it takes too few mappings; [`DmaError::NeedsFd`]; and what the mapper answers. It has nothing of ours then.
    pub fn join(&self, mapper: Box<dyn DmaMapper>) -> Result<MapperId, DmaError> {
        let mut state = self.state();
        let constraints = state.joint_constraints(mapper.as_ref())?;
        state.replay(mapper.as_ref())?;
        let id = MapperId(state.next_mapper);
        state.next_mapper += 1;
        state.mappers.push((id, mapper));
        state.adopt(constraints);
        Ok(id)
    }

    /// Removes a mapper, after unmapping all that it has. The space keeps its constraints.
    ///
    /// # Errors
    /// [`DmaError::UnmapDma`]: it stays.
    pub fn leave(&self, id: MapperId) -> Result<(), DmaError> {
        let mut state = self.state();
        let Some(at) = state.mappers.iter().position(|(known, _)| *known == id) else { return Ok(()) };
        let mut result = Ok(());
        for (&iova, pages) in &state.live {
            let mapper = &state.mappers[at].1;
            result = result.and(mapper.unmap(Iova(iova), pages.len() as u64));
        }
        if result.is_ok() {
            state.mappers.remove(at);
        }
        result
    }

    /// Asks the mappers again what they ask of addresses, after a device joined one of them behind its own back, as a
    /// group does that is attached to a container.
    pub fn refresh_constraints(&self) {
        let mut state = self.state();
        let now = state.mappers.iter().map(|(_, mapper)| mapper.constraints()).reduce(|a, b| both(&a, &b));
        if let Some(constraints) = now {
            state.adopt(constraints);
        }
    }
}

impl State {
    /// What the mappers ask for together with a further one, if what is mapped allows it.
    fn joint_constraints(&self, mapper: &dyn DmaMapper) -> Result<IovaConstraints, DmaError> {
        let refused =
            |reason| DmaError::CannotJoin { mapper: mapper.describe(), others: self.describe(), reason };
        let theirs = mapper.constraints();
        let joint = both(&self.constraints, &theirs);
        if joint.page_bytes > self.iovas.page_bytes() && !self.live.is_empty() {
            return Err(refused(format!(
                "memory is mapped in pages of {} bytes, and its pages have {}",
                self.iovas.page_bytes(),
                joint.page_bytes
            )));
        }
        if joint.max_mappings.is_some_and(|limit| (limit as usize) < self.live.len()) {
            return Err(refused(format!(
                "{} mappings are in use, and it takes {}",
                self.live.len(),
                joint.max_mappings.unwrap_or(0)
            )));
        }
        let mut allowed = IovaAllocator::new(joint.page_bytes, &joint.ranges);
        for (&iova, pages) in &self.live {
            if !allowed.allocate_at(Iova(iova), pages.len() as u64) {
                return Err(refused(format!(
                    "{} bytes are mapped at {iova:#x}, which it does not allow",
                    pages.len()
                )));
            }
            if joint.needs_fd && pages.fd().is_none() {
                let (addr, len_bytes) = (pages.addr(), pages.len());
                return Err(DmaError::NeedsFd { mapper: mapper.describe(), addr, len_bytes });
            }
        }
        Ok(joint)
    }

    /// Maps all that is mapped in a mapper that has nothing yet.
    fn replay(&self, mapper: &dyn DmaMapper) -> Result<(), DmaError> {
        for (done, (&iova, pages)) in self.live.iter().enumerate() {
            let Err(error) = mapper.map(Iova(iova), pages) else { continue };
            for (&iova, pages) in self.live.iter().take(done) {
                if let Err(error) = mapper.unmap(Iova(iova), pages.len() as u64) {
                    tracing::error!(%error, "a mapper that could not join keeps memory");
                    std::mem::forget(pages.clone());
                }
            }
            return Err(error);
        }
        Ok(())
    }

    fn adopt(&mut self, constraints: IovaConstraints) {
        if constraints.page_bytes > self.iovas.page_bytes() && self.live.is_empty() {
            self.iovas = IovaAllocator::new(constraints.page_bytes, &constraints.ranges);
        } else {
            self.iovas.narrow(&constraints.ranges);
        }
        self.constraints = constraints;
    }
}

/// What satisfies both.
fn both(a: &IovaConstraints, b: &IovaConstraints) -> IovaConstraints {
    let common = |x: &RangeInclusive<u64>, y: &RangeInclusive<u64>| {
        let range = *x.start().max(y.start())..=*x.end().min(y.end());
        (!range.is_empty()).then_some(range)
    };
    let ranges = a.ranges.iter().flat_map(|x| b.ranges.iter().filter_map(move |y| common(x, y)));
    IovaConstraints {
        page_bytes: a.page_bytes.max(b.page_bytes),
        ranges: ranges.collect(),
        max_mappings: [a.max_mappings, b.max_mappings].into_iter().flatten().min(),
        needs_fd: a.needs_fd || b.needs_fd,
    }
}
