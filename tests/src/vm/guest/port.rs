//! The guest's end of the virtio-serial port.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use super::wait_for;
use crate::vm::protocol::{FromGuest, PORT, ToGuest};

/// The port, opened.
pub struct Port {
    reader: BufReader<File>,
    writer: File,
}

impl Port {
    /// Opens it, once the kernel has found it.
    ///
    /// # Panics
    /// When there is none.
    pub fn open() -> Port {
        let device = wait_for("virtio-serial port", Duration::from_secs(30), || {
            let mut ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
            ports.find_map(|port| {
                let name = std::fs::read_to_string(port.path().join("name")).ok()?;
                (name.trim() == PORT).then(|| port.file_name())
            })
        });
        let path = std::path::Path::new("/dev").join(device);
        let writer = File::options().read(true).write(true).open(&path).expect("the port opens");
        Port { reader: BufReader::new(writer.try_clone().expect("a descriptor")), writer }
    }

    /// Tells the host.
    pub fn send(&mut self, event: &FromGuest) {
        let mut line = serde_json::to_string(event).expect("events are plain data");
        line.push('\n');
        self.writer.write_all(line.as_bytes()).expect("the host listens");
    }

    /// Waits for the host to say something.
    pub fn receive(&mut self) -> ToGuest {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the host speaks");
        serde_json::from_str(&line).unwrap_or_else(|err| panic!("{err} in {line:?}"))
    }
}
