//! Opcodes of commands.

/// Admin commands (Base 5, figure 138).
pub mod admin {
    /// Delete I/O Submission Queue (Base 5.7).
    pub const DELETE_SQ: u8 = 0x00;
    /// Create I/O Submission Queue (Base 5.5).
    pub const CREATE_SQ: u8 = 0x01;
    /// Get Log Page (Base 5.16).
    pub const GET_LOG_PAGE: u8 = 0x02;
    /// Delete I/O Completion Queue (Base 5.6).
    pub const DELETE_CQ: u8 = 0x04;
    /// Create I/O Completion Queue (Base 5.4).
    pub const CREATE_CQ: u8 = 0x05;
    /// Identify (Base 5.17).
    pub const IDENTIFY: u8 = 0x06;
    /// Abort (Base 5.1).
    pub const ABORT: u8 = 0x08;
    /// Set Features (Base 5.27).
    pub const SET_FEATURES: u8 = 0x09;
    /// Get Features (Base 5.15).
    pub const GET_FEATURES: u8 = 0x0a;
    /// Asynchronous Event Request (Base 5.2).
    pub const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    /// Doorbell Buffer Config (Base 5.8).
    pub const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// I/O commands (Base 7; NVM 3.2).
pub mod io {
    /// Flush (Base 7.1).
    pub const FLUSH: u8 = 0x00;
    /// Write (NVM 3.2.6).
    pub const WRITE: u8 = 0x01;
    /// Read (NVM 3.2.4).
    pub const READ: u8 = 0x02;
    /// Write Uncorrectable (NVM 3.2.7).
    pub const WRITE_UNCORRECTABLE: u8 = 0x04;
    /// Compare (NVM 3.2.1).
    pub const COMPARE: u8 = 0x05;
    /// Write Zeroes (NVM 3.2.8).
    pub const WRITE_ZEROES: u8 = 0x08;
    /// Dataset Management (NVM 3.2.3).
    pub const DATASET_MANAGEMENT: u8 = 0x09;
    /// Verify (NVM 3.2.5).
    pub const VERIFY: u8 = 0x0c;
    /// I/O Management Receive (TP4146; Base 2.1, 7.3).
    pub const MANAGEMENT_RECEIVE: u8 = 0x12;
    /// Copy (NVM 3.2.2).
    pub const COPY: u8 = 0x19;
    /// Zone Management Send (ZNS 3.4.3).
    pub const ZONE_SEND: u8 = 0x79;
    /// Zone Management Receive (ZNS 3.4.2).
    pub const ZONE_RECEIVE: u8 = 0x7a;
    /// Zone Append (ZNS 3.4.1).
    pub const ZONE_APPEND: u8 = 0x7d;
}
