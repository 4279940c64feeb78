//! The driver on a controller that fails at random: every request ends exactly once, in bounded time, with data that is what
//! it may be, and nothing is left behind.
//!
//! 2,000 sequences or 60 seconds, whichever comes first. `CORELANE_FAULT_SECONDS=3600` searches for an hour, from
//! `CORELANE_SEED` on if that is set; `CORELANE_SEED=S CORELANE_SEQUENCES=1` runs one sequence again, and
//! `CORELANE_LOG=debug` shows the faults and what the driver does.

mod lane;
mod reference;
mod script;
mod sequence;
mod tally;

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use corelane_tests::Seed;
use tally::Tally;

/// A sequence is some seconds of waiting at most, on a machine that does nothing else; then it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sequences at once: they wait most of the time.
const AT_ONCE: usize = 4;

/// Runs one sequence in a thread of its own, so that one that hangs is noticed.
fn run(seed: Seed) -> Tally {
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::spawn(move || {
        // The other end may have given up.
        let _ = sender.send(sequence::run(seed));
    });
    match receiver.recv_timeout(PATIENCE) {
        Ok(tally) => {
            thread.join().expect("it has sent its tally");
            tally
        }
        Err(RecvTimeoutError::Timeout) => panic!("the sequence of CORELANE_SEED={seed} hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            panic!("the sequence of CORELANE_SEED={seed} failed; see above")
        }
    }
}

#[test]
#[allow(clippy::print_stdout)] // The sums are for whoever runs it.
fn random_requests_over_random_faults() {
    let log = std::env::var("CORELANE_LOG").unwrap_or_else(|_| "off".to_owned());
    let filter = tracing_subscriber::EnvFilter::new(log);
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    let asked = std::env::var("CORELANE_FAULT_SECONDS").ok().map(|text| {
        text.parse().unwrap_or_else(|_| panic!("CORELANE_FAULT_SECONDS is '{text}', but must be a number"))
    });
    let end = Instant::now() + Duration::from_secs(asked.unwrap_or(60));
    let most = if asked.is_some() { u64::MAX } else { 2000 };
    let seeds = Mutex::new(Seed::sequences(most).take_while(|_| Instant::now() < end));
    let sum = Mutex::new(Tally::default());
    let next = || seeds.lock().ok().and_then(|mut seeds| seeds.next());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    let tally = run(seed);
                    sum.lock().expect("no thread fails while it adds").add(&tally);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("all threads ended well");
    println!("{sum}");
    assert!(sum.requests > 0);
}
