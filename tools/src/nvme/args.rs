//! The options of `corelane nvme`, with nvme-cli's names.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// The form of the output, with nvme-cli's names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Normal,
    /// For programs: nvme-cli's names and forms.
    Json,
}

/// A number in decimal, or in hexadecimal with 0x before it.
pub fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    let number = parsed.map_err(|_| format!("'{text}' is no number, in decimal or as 0x1f"))?;
    T::try_from(number).map_err(|_| format!("{text} is too large"))
}

/// Which controller, and how to print.
#[derive(Args)]
pub struct Device {
    /// 0000:01:00.0 (bound to vfio-pci), vfio-user:/path/of/socket, model:64m, /dev/nvme0 or /dev/nvme0n1. /N behind the first two
    /// names namespace N.
    #[arg(value_name = "DEVICE")]
    pub device: String,
    /// The form of the output.
    #[arg(long = "output-format", visible_alias = "output", short, value_enum, value_name = "FORM", default_value_t = Format::Normal)]
    pub output: Format,
    /// How long each command may take, in milliseconds.
    #[arg(long, short, value_name = "MS", default_value_t = 60_000)]
    pub timeout: u64,
    /// The namespace.
    #[arg(long, short, value_name = "NSID", value_parser = number::<u32>)]
    pub namespace_id: Option<u32>,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Nvme {
    /// List the namespaces of the kernel's controllers, or those of the controllers that are named.
    List {
        /// Controllers, as for the other commands.
        #[arg(value_name = "DEVICE")]
        devices: Vec<String>,
        /// The form of the output.
        #[arg(long = "output-format", visible_alias = "output", short, value_enum, value_name = "FORM", default_value_t = Format::Normal)]
        output: Format,
    },
    /// Show what the controller says of itself.
    IdCtrl(Device),
    /// Show what the controller says of a namespace.
    IdNs(Device),
    /// List the numbers of the active namespaces.
    ListNs(Device),
    /// Show the SMART / health log.
    SmartLog(Device),
    /// Show the error log.
    ErrorLog {
        #[command(flatten)]
        device: Device,
        /// How many entries, at most as many as the controller has.
        #[arg(long, short = 'e', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
        log_entries: u32,
    },
    /// Show the firmware slots.
    FwLog(Device),
    /// Show the value of a feature.
    GetFeature(GetFeature),
    /// Set a feature.
    SetFeature(SetFeature),
    /// Format a namespace. All its data is lost.
    Format(FormatNvm),
    /// Sanitize the controller. All data of all namespaces is lost.
    Sanitize(Sanitize),
    /// Let the controller's driver look which namespaces there are.
    NsRescan(Device),
    /// Reset the controller.
    Reset(Device),
    /// Commands of zoned namespaces.
    #[command(subcommand)]
    Zns(Zns),
    /// Flexible data placement.
    #[command(subcommand)]
    Fdp(Fdp),
    /// Execute any admin command.
    AdminPassthru(Passthru),
    /// Execute any I/O command.
    IoPassthru(Passthru),
    /// Show any log page, as bytes.
    GetLog {
        #[command(flatten)]
        device: Device,
        /// The log page.
        #[arg(long, short = 'i', value_name = "LID", value_parser = number::<u8>)]
        log_id: u8,
        /// How many bytes.
        #[arg(long, short = 'l', value_name = "BYTES", value_parser = number::<u32>)]
        log_len: u32,
        /// From which byte on; a multiple of 4.
        #[arg(long, short = 'L', value_name = "BYTES", default_value = "0", value_parser = number::<u64>)]
        lpo: u64,
        /// Print the bytes themselves.
        #[arg(long, short = 'b')]
        raw_binary: bool,
    },
}

/// `fdp`.
#[derive(Subcommand)]
pub enum Fdp {
    /// List the placement identifiers of a namespace, with the reclaim unit handles behind them.
    Status(Device),
}

/// `get-feature`.
#[derive(Args)]
pub struct GetFeature {
    #[command(flatten)]
    pub device: Device,
    /// The feature.
    #[arg(long, short = 'f', value_name = "FID", value_parser = number::<u8>)]
    pub feature_id: u8,
    /// Which value: 0 current, 1 default, 2 saved, 3 what is supported.
    #[arg(long, short = 's', value_name = "SEL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub sel: u8,
    /// Bytes of data that belong to the feature.
    #[arg(long, short = 'l', value_name = "BYTES", default_value = "0", value_parser = number::<u32>)]
    pub data_len: u32,
    /// Dword 11.
    #[arg(long, short = 'c', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw11: u32,
}

/// `set-feature`.
#[derive(Args)]
pub struct SetFeature {
    #[command(flatten)]
    pub device: Device,
    /// The feature.
    #[arg(long, short = 'f', value_name = "FID", value_parser = number::<u8>)]
    pub feature_id: u8,
    /// Its value: dword 11.
    #[arg(long, short = 'V', visible_short_alias = 'v', value_name = "DWORD", value_parser = number::<u32>)]
    pub value: u32,
    /// Dword 12.
    #[arg(long, short = 'c', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw12: u32,
    /// Keep it over power cycles and resets.
    #[arg(long, short = 's')]
    pub save: bool,
    /// A file with the data that belongs to the feature.
    #[arg(long, short = 'd', value_name = "FILE")]
    pub data: Option<PathBuf>,
}

/// `format`.
#[derive(Args)]
pub struct FormatNvm {
    #[command(flatten)]
    pub device: Device,
    /// The number of the LBA format, as id-ns lists them.
    #[arg(long, short = 'l', value_name = "N", value_parser = clap::value_parser!(u8).range(0..64))]
    pub lbaf: Option<u8>,
    /// The LBA format without metadata of this block size in bytes, instead of its number.
    #[arg(long, short = 'b', value_name = "BYTES", conflicts_with = "lbaf")]
    pub block_size: Option<u32>,
    /// 0 nothing, 1 erase user data, 2 erase by key.
    #[arg(long, short = 's', value_name = "SES", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub ses: u8,
    /// Protection information: 0 none, 1 to 3 of type 1 to 3.
    #[arg(long, short = 'i', value_name = "PI", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub pi: u8,
    /// Protection information in the first bytes of the metadata (1) or the last (0).
    #[arg(long, short = 'p', value_name = "PIL", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub pil: u8,
    /// Metadata behind each block's data (1) or in a buffer of its own (0).
    #[arg(long, short = 'm', value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub ms: u8,
    /// Do not ask, and do it even if the namespace is in use.
    #[arg(long, short = 'f')]
    pub force: bool,
}

/// `sanitize`.
#[derive(Args)]
pub struct Sanitize {
    #[command(flatten)]
    pub device: Device,
    /// 1 exit failure mode, 2 block erase, 3 overwrite, 4 crypto erase.
    #[arg(long, short = 'a', value_name = "ACT", value_parser = clap::value_parser!(u8).range(1..=4))]
    pub sanact: u8,
    /// Let the controller leave the failure mode without a success.
    #[arg(long, short = 'u')]
    pub ause: bool,
    /// How many times to overwrite; 0 is 16 times.
    #[arg(long, short = 'O', value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..16))]
    pub owpass: u8,
    /// Invert the pattern between passes.
    #[arg(long, short = 'i')]
    pub oipbp: bool,
    /// Do not deallocate afterwards.
    #[arg(long, short = 'd')]
    pub no_dealloc: bool,
    /// The pattern to overwrite with.
    #[arg(long, short = 'p', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub ovrpat: u32,
    /// Do not ask, and do it even if a namespace is in use.
    #[arg(long, short = 'f')]
    pub force: bool,
}

/// The subcommands of `zns`.
#[derive(Subcommand)]
pub enum Zns {
    /// Show what the controller says of zoned namespaces.
    IdCtrl(Device),
    /// Show what it says of a zoned namespace.
    IdNs(Device),
    /// List zones and their states.
    ReportZones {
        #[command(flatten)]
        device: Device,
        /// The first block of the zone to begin with.
        #[arg(long, short = 's', value_name = "LBA", default_value = "0", value_parser = number::<u64>)]
        start_lba: u64,
        /// How many descriptors at most; all unless this is given.
        #[arg(long, short = 'd', value_name = "N")]
        descs: Option<u32>,
        /// Only zones in this state: 0 all, 1 empty, 2 implicitly open, 3 explicitly open, 4 closed, 5 full, 6 read-only, 7 offline.
        #[arg(long, short = 'S', value_name = "STATE", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=7))]
        state: u8,
    },
    /// Open a zone.
    OpenZone(Zone),
    /// Close a zone.
    CloseZone(Zone),
    /// Fill a zone up.
    FinishZone(Zone),
    /// Reset a zone. Its data is lost.
    ResetZone(Zone),
    /// Take a zone that is read-only out of use. Its data is lost.
    OfflineZone(Zone),
    /// List the zones that changed.
    ChangedZoneList(Device),
    /// Append the data of a file to a zone.
    ZoneAppend {
        #[command(flatten)]
        device: Device,
        /// The first block of the zone.
        #[arg(long, short = 's', value_name = "LBA", value_parser = number::<u64>)]
        zslba: u64,
        /// The file; whole blocks.
        #[arg(long, short = 'd', value_name = "FILE")]
        data: PathBuf,
    },
}

/// Which zone.
#[derive(Args)]
pub struct Zone {
    #[command(flatten)]
    pub device: Device,
    /// The first block of the zone.
    #[arg(long, short = 's', value_name = "LBA", default_value = "0", value_parser = number::<u64>)]
    pub start_lba: u64,
    /// All zones for which it makes sense.
    #[arg(long, short = 'a')]
    pub select_all: bool,
    /// Do not ask before data is lost.
    #[arg(long, short = 'f')]
    pub force: bool,
}

/// `admin-passthru` and `io-passthru`.
#[derive(Args)]
pub struct Passthru {
    #[command(flatten)]
    pub device: Device,
    /// The opcode.
    #[arg(long, short = 'O', value_name = "BYTE", value_parser = number::<u8>)]
    pub opcode: u8,
    /// Dword 2.
    #[arg(long, value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw2: u32,
    /// Dword 3.
    #[arg(long, value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw3: u32,
    /// Dword 10.
    #[arg(long, short = '4', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw10: u32,
    /// Dword 11.
    #[arg(long, short = '5', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw11: u32,
    /// Dword 12.
    #[arg(long, short = '6', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw12: u32,
    /// Dword 13.
    #[arg(long, short = '7', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw13: u32,
    /// Dword 14.
    #[arg(long, short = '8', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw14: u32,
    /// Dword 15.
    #[arg(long, short = '9', value_name = "DWORD", default_value = "0", value_parser = number::<u32>)]
    pub cdw15: u32,
    /// Bytes of data.
    #[arg(long, short = 'l', value_name = "BYTES", default_value = "0", value_parser = number::<u32>)]
    pub data_len: u32,
    /// Bytes of metadata.
    #[arg(long, short = 'm', value_name = "BYTES", default_value = "0", value_parser = number::<u32>)]
    pub metadata_len: u32,
    /// Data comes from the controller.
    #[arg(long, short = 'r', conflicts_with = "write")]
    pub read: bool,
    /// Data goes to the controller.
    #[arg(long, short = 'w')]
    pub write: bool,
    /// The file with the data to send (the standard input unless this is given), or for what is received.
    #[arg(long, short = 'i', value_name = "FILE")]
    pub input_file: Option<PathBuf>,
    /// The file with the metadata to send, or for what is received.
    #[arg(long, short = 'M', value_name = "FILE")]
    pub metadata: Option<PathBuf>,
    /// Print received bytes themselves.
    #[arg(long, short = 'b')]
    pub raw_binary: bool,
    /// Print the command.
    #[arg(long, short = 's')]
    pub show_command: bool,
    /// Do not execute it.
    #[arg(long, short = 'd')]
    pub dry_run: bool,
    /// Do not ask before Format NVM, Sanitize and deleting a namespace.
    #[arg(long)]
    pub force: bool,
}
