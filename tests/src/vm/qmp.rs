//! QEMU's control channel, the QEMU Machine Protocol: commands, their answers, and events between them.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long QEMU may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The channel.
pub struct Qmp {
    stream: UnixStream,
    lines: Receiver<Value>,
    /// Events that came while something else was waited for.
    events: VecDeque<Value>,
}

impl Qmp {
    /// Connects to the socket of a QEMU that runs.
    ///
    /// # Errors
    /// When that fails, or QEMU does not greet.
    pub fn connect(path: &Path) -> io::Result<Qmp> {
        let stream = UnixStream::connect(path)?;
        let reader = BufReader::new(stream.try_clone()?);
        let (sender, lines) = channel();
        // Ends with the connection, which QEMU's end closes.
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str(&line) else { break };
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let mut qmp = Qmp { stream, lines, events: VecDeque::new() };
        qmp.next_that(|value| value.get("QMP").is_some(), ANSWER_LIMIT)
            .ok_or_else(|| io::Error::other("QEMU does not greet"))?;
        qmp.execute("qmp_capabilities", &json!({})).map_err(io::Error::other)?;
        Ok(qmp)
    }

    /// Runs a command, and gives what it returns.
    ///
    /// # Errors
    /// What QEMU has against it, or that it does not answer.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, String> {
        let order = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream, "{order}").map_err(|err| format!("QEMU takes no commands: {err}"))?;
        let is_answer = |value: &Value| value.get("return").is_some() || value.get("error").is_some();
        let mut answer = self
            .next_that(is_answer, ANSWER_LIMIT)
            .ok_or_else(|| format!("QEMU does not answer to {order}"))?;
        match answer.get("error") {
            Some(error) => Err(format!("{order}: {error}")),
            None => Ok(answer["return"].take()),
        }
    }

    /// Waits for an event; one that came before counts, once.
    ///
    /// # Errors
    /// When it does not come for `limit`.
    pub fn event(&mut self, name: &str, limit: Duration) -> Result<Value, String> {
        let is_it = |value: &Value| value["event"] == name;
        if let Some(at) = self.events.iter().position(is_it) {
            return Ok(self.events.remove(at).expect("there is one at that position"));
        }
        self.next_that(is_it, limit).ok_or_else(|| format!("no event {name} for {limit:?}"))
    }

    /// The next message that `is_it`, keeping events that are others.
    fn next_that(&mut self, is_it: impl Fn(&Value) -> bool, limit: Duration) -> Option<Value> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(value) if is_it(&value) => return Some(value),
                Ok(value) if value.get("event").is_some() => self.events.push_back(value),
                // An answer that came too late.
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn answers_and_events_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let other_end = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut orders = BufReader::new(stream.try_clone().unwrap()).lines();
            let mut say = |value: Value| writeln!(stream, "{value}").unwrap();
            let mut heard = || -> Value { serde_json::from_str(&orders.next().unwrap().unwrap()).unwrap() };
            say(json!({ "QMP": {} }));
            assert_eq!(heard()["execute"], "qmp_capabilities");
            say(json!({ "return": {} }));
            assert_eq!(heard()["arguments"], json!({ "id": "a" }));
            say(json!({ "event": "EARLY" }));
            say(json!({ "return": 7 }));
            heard();
            say(json!({ "error": { "desc": "no such thing" } }));
            say(json!({ "event": "LATE" }));
        });
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.execute("device_del", &json!({ "id": "a" })), Ok(json!(7)));
        assert!(qmp.execute("device_del", &json!({})).unwrap_err().contains("no such thing"));
        qmp.event("LATE", ANSWER_LIMIT).unwrap();
        qmp.event("EARLY", ANSWER_LIMIT).unwrap();
        assert!(qmp.event("EARLY", Duration::from_millis(1)).unwrap_err().contains("EARLY"));
        other_end.join().unwrap();
    }
}
