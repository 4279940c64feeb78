//! `corelane`: looks at images and devices with the same code that the engine opens them with, and gives devices to it.

mod device;
mod info;
mod man;
mod map;
mod nvme;
mod output;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use corelane_drivers::file::{CacheMode, DiscardMode, FileDriver, FileOptions, Locking};
use corelane_engine::block::BlockError;

/// Looks at images and block devices the way Corelane's engine does.
#[derive(Parser)]
#[command(name = "corelane", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show an image's driver, sizes, limits and what io_uring grants on this machine.
    Info(Image),
    /// Show which parts of an image are data and which are holes, as `qemu-img map` does.
    Map(Image),
    /// List NVMe controllers, give them to Corelane and back, reserve huge pages, check the machine.
    #[command(subcommand)]
    Device(device::Device),
    /// Talk to NVMe controllers, as nvme-cli does: behind VFIO, of a vfio-user server, models, and the kernel's own.
    #[command(subcommand)]
    Nvme(nvme::Nvme),
    /// Write the manual pages of all commands.
    Man(man::Man),
}

/// An image to open for reading, and how to print what is found.
#[derive(Args)]
struct Image {
    /// The regular file or block device to look at.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How caches would be used: none, writeback, writethrough, directsync or unsafe. Limits depend on it.
    #[arg(long, value_name = "MODE", default_value = "writeback")]
    cache: CacheMode,
    /// Look even if another process holds the image exclusively; what is shown may then be out of date.
    #[arg(long, short = 'U')]
    force_share: bool,
    /// The form of the output.
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Form::Human)]
    output: Form,
}

/// The form of the output, with `qemu-img`'s names.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Human,
    /// For programs.
    Json,
}

impl Image {
    fn open(&self) -> Result<FileDriver, BlockError> {
        let locking = if self.force_share { Locking::Off } else { Locking::Auto };
        let options = FileOptions::new(&self.file).read_only(true).cache(self.cache).locking(locking);
        // Nothing is discarded, but so it shows whether it could be.
        FileDriver::open(&options.discard(DiscardMode::Unmap))
    }
}

/// How a subcommand fails.
#[derive(Debug, thiserror::Error)]
enum ToolError {
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error(transparent)]
    Device(#[from] device::DeviceError),
    #[error(transparent)]
    Nvme(#[from] nvme::NvmeToolError),
    #[error("cannot write manual pages to {}: {source}", path.display())]
    Man { path: PathBuf, source: std::io::Error },
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    #[error("cannot print: {0}")]
    Json(#[from] serde_json::Error),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Info(image) => info::run(image).map(|()| true),
        Command::Map(image) => map::run(image).map(|()| true),
        Command::Device(command) => device::run(command),
        Command::Nvme(command) => nvme::run(command).map(|()| true),
        Command::Man(man) => man::run(Cli::command(), man).map(|()| true),
    };
    match outcome {
        // Whoever reads the output has seen enough.
        Err(ToolError::Print(err)) if err.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(err) => {
            output::complain(&err);
            ExitCode::FAILURE
        }
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
    }
}
