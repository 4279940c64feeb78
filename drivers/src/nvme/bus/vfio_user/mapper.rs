//! The address space of a function behind a server: mappings are messages.
//!
//! Invariant: memory is given to the server only with its descriptor. So it consists of pages of a file, which the server
//! maps by itself; what the server does with them later can never touch memory of this process that has become something
//! else.

use std::io;
use std::sync::Arc;

use corelane_dma::{DmaError, DmaMapper, Iova, IovaConstraints, MemRegion};

use super::client::Client;
use super::error::CallError;

/// The last address that is used: servers and the virtual machines behind them know 47 bits for sure.
const LAST: u64 = (1 << 47) - 1;

pub(super) struct Mapper {
    pub(super) client: Arc<Client>,
    pub(super) address: String,
}

impl Mapper {
    fn source(error: CallError) -> io::Error {
        match error {
            CallError::Refused { errno, .. } if errno != 0 => io::Error::from_raw_os_error(errno),
            other => io::Error::other(other),
        }
    }
}

impl DmaMapper for Mapper {
    fn constraints(&self) -> IovaConstraints {
        let server = self.client.server();
        let page_bytes = server.page_bytes();
        let max_mappings = Some(server.max_dma_maps);
        IovaConstraints { page_bytes, ranges: vec![page_bytes..=LAST], max_mappings, needs_fd: true }
    }

    fn map(&self, iova: Iova, region: &MemRegion) -> Result<(), DmaError> {
        let (addr, len_bytes) = (region.addr(), region.len());
        let Some((fd, offset)) = region.fd() else {
            return Err(DmaError::NeedsFd { mapper: self.describe(), addr, len_bytes });
        };
        self.client.dma_map(fd, offset, iova.0, len_bytes as u64).map_err(|error| match error {
            CallError::Refused { errno: libc::ENOSPC, .. } => DmaError::MappingsExhausted {
                mapper: self.describe(),
                in_use: 0,
                limit: None,
                advice: self.limit_advice(),
            },
            other => DmaError::MapDma {
                mapper: self.describe(),
                addr,
                len_bytes,
                iova: iova.0,
                source: Mapper::source(other),
            },
        })
    }

    fn unmap(&self, iova: Iova, len_bytes: u64) -> Result<(), DmaError> {
        match self.client.dma_unmap(iova.0, len_bytes) {
            // A server that is gone reaches nothing. One that only seems to be still has pages of a file (the module's
            // invariant), which are not given to anybody else as long as it maps them.
            Ok(()) | Err(CallError::Lost { .. }) => Ok(()),
            Err(other) => Err(DmaError::UnmapDma {
                mapper: self.describe(),
                iova: iova.0,
                len_bytes,
                source: Mapper::source(other),
            }),
        }
    }

    fn describe(&self) -> String {
        format!("the server of {}", self.address)
    }

    fn limit_advice(&self) -> String {
        "; the server sets the limit (max_dma_maps): register less memory, or in larger pieces".into()
    }
}
