//! What slows a job down, put together: rates, think time, the search for a depth.
//!
//! Times are nanoseconds since the job's start. Whoever asks may issue, or is told when to ask again.

use std::time::{Duration, Instant};

use crate::options::{self, JobSpec};
use crate::run::session::Failure;
use crate::workload::{
    DepthVerdict, Direction, LatencyTarget, LatencyTargetConfig, Operations, Pacer, Pause, PerDirection,
    RateConfig, ThinkTime, ThinkTimeConfig,
};

/// What slows a job down.
pub struct Pacing {
    origin: Instant,
    pacer: Option<Pacer>,
    think: Option<ThinkTime>,
    pause: Option<Pause>,
    target: Option<LatencyTarget>,
    /// Requests in flight at most, as things stand.
    depth: u32,
    /// The search is over.
    ended: bool,
}

/// Which direction the next I/O may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice {
    /// Whatever the workload says.
    Any,
    /// This one; the other is ahead of its rate.
    Only(Direction),
    /// None before this time.
    Wait(u64),
}

impl Pacing {
    /// For a job that starts now.
    pub fn new(spec: &JobSpec) -> Pacing {
        let pace = &spec.pace;
        let rates = RateConfig {
            bytes_per_s: rates(&pace.rate_bytes_per_s),
            iops: rates(&pace.rate_iops),
            ..RateConfig::default()
        };
        let pacer = Pacer::new(&rates, 0);
        let think = pace.think_time.map(|think| {
            let config = ThinkTimeConfig {
                thinktime_ns: ns(think.pause),
                spin_ns: ns(think.spin),
                blocks: u64::from(think.blocks),
                ..ThinkTimeConfig::default()
            };
            ThinkTime::new(config, 0)
        });
        let max_depth = spec.depth.iodepth;
        // The options keep each value within its range, so there is a search whenever there is a target.
        let target = pace.latency_target.and_then(|target| {
            let config = LatencyTargetConfig {
                target_ns: ns(target.target),
                window_ns: ns(target.window),
                percentile: target.percentile,
                keep_running: false,
                max_depth,
            };
            LatencyTarget::new(config, 0).ok()
        });
        // No more may be in flight at a pause than it waits for.
        let depth = pace.think_time.map_or(max_depth, |think| max_depth.min(think.blocks));
        Pacing {
            origin: Instant::now(),
            pacer: pacer.is_limited().then_some(pacer),
            think,
            pause: None,
            depth: target.as_ref().map_or(depth, |target| depth.min(target.depth())),
            target,
            ended: false,
        }
    }

    /// Whether anything here needs the time.
    pub fn is_needed(&self) -> bool {
        self.pacer.is_some() || self.think.is_some() || self.target.is_some()
    }

    /// Nanoseconds since the start.
    pub fn now_ns(&self) -> u64 {
        ns(self.origin.elapsed())
    }

    /// The moment at which that many nanoseconds have passed.
    pub fn moment(&self, at_ns: u64) -> Option<Instant> {
        self.origin.checked_add(Duration::from_nanos(at_ns))
    }

    /// How many requests may be in flight.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether the search for a depth has ended the job.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Until when nothing is issued, and whether the core is to be kept busy until then.
    pub fn pause(&mut self, now_ns: u64) -> Option<(u64, bool)> {
        let pause = self.pause?;
        if pause.resume_ns <= now_ns {
            self.pause = None;
            return None;
        }
        let spins = pause.spin_until_ns > now_ns;
        Some((if spins { pause.spin_until_ns } else { pause.resume_ns }, spins))
    }

    /// Which of `operations` may be issued now.
    pub fn choose(&self, operations: Operations, now_ns: u64) -> Choice {
        let Some(pacer) = &self.pacer else { return Choice::Any };
        let ready = |direction| pacer.ready_at_ns(direction);
        let [first, second] = match operations {
            Operations::Read => [Direction::Read; 2],
            Operations::Write => [Direction::Write; 2],
            Operations::Trim => [Direction::Trim; 2],
            Operations::ReadWrite { .. } => [Direction::Read, Direction::Write],
            // The pair is one piece of work, started by its trim and paid for by its write as well.
            Operations::TrimWrite => {
                let at = ready(Direction::Trim).max(ready(Direction::Write));
                return if at <= now_ns { Choice::Any } else { Choice::Wait(at) };
            }
        };
        match (ready(first), ready(second)) {
            (one, other) if one <= now_ns && other <= now_ns => Choice::Any,
            (one, _) if one <= now_ns => Choice::Only(first),
            (_, other) if other <= now_ns => Choice::Only(second),
            (one, other) => Choice::Wait(one.min(other)),
        }
    }

    /// Charges an I/O to its rate.
    ///
    /// # Errors
    /// When it may start, if that is not now; nothing is charged then.
    pub fn start(&mut self, direction: Direction, bytes: u32, now_ns: u64) -> Result<(), u64> {
        match &mut self.pacer {
            Some(pacer) => pacer.try_start(direction, bytes, now_ns),
            None => Ok(()),
        }
    }

    /// Notes a completed I/O.
    pub fn completed(&mut self, latency_ns: Option<u64>, now_ns: u64) {
        if let Some(pause) = self.think.as_mut().and_then(|think| think.note(now_ns)) {
            self.pause = Some(pause);
        }
        if let (Some(target), Some(latency_ns)) = (&mut self.target, latency_ns) {
            target.record(latency_ns);
        }
    }

    /// Judges the depth.
    ///
    /// # Errors
    /// When no depth meets the target.
    pub fn tick(&mut self, now_ns: u64) -> Result<(), Failure> {
        let Some(target) = &mut self.target else { return Ok(()) };
        match target.tick(now_ns) {
            DepthVerdict::Running => {}
            DepthVerdict::Depth(depth) => self.depth = depth,
            DepthVerdict::Found(depth) => {
                self.depth = depth;
                self.ended = true;
            }
            DepthVerdict::Missed => {
                self.depth = 1;
                self.ended = true;
                let text = "latency_target: not even one request at a time is fast enough".to_owned();
                return Err(Failure { errno: libc::ETIMEDOUT, text });
            }
        }
        Ok(())
    }
}

fn rates(from: &options::PerDirection<Option<u64>>) -> PerDirection<Option<u64>> {
    PerDirection([from.read, from.write, from.trim])
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::options::{GlobalSpec, parse_job_text};

    fn pacing(options: &str) -> Pacing {
        let text = format!("[j]\nioengine=null\nsize=1m\n{}\n", options.replace(' ', "\n"));
        let plan = parse_job_text(Path::new("test"), &text, &GlobalSpec::default()).unwrap();
        Pacing::new(&plan.jobs[0])
    }

    const MIX: Operations = Operations::ReadWrite { read_percent: 50 };

    #[test]
    fn a_direction_that_is_ahead_of_its_rate_leaves_the_other_free() {
        let mut pacing = pacing("rw=randrw rate_iops=10,1000");
        assert!(pacing.is_needed());
        assert_eq!(pacing.choose(MIX, 0), Choice::Any);
        pacing.start(Direction::Read, 4096, 0).unwrap();
        // A read is due a tenth of a second later, writes are free until they have a rate of their own to wait for.
        assert_eq!(pacing.choose(MIX, 0), Choice::Only(Direction::Write));
        pacing.start(Direction::Write, 4096, 0).unwrap();
        assert_eq!(pacing.choose(MIX, 0), Choice::Wait(1_000_000));
        assert_eq!(pacing.choose(MIX, 1_000_000), Choice::Only(Direction::Write));
        assert_eq!(pacing.choose(MIX, 100_000_000), Choice::Any);
        assert_eq!(pacing.start(Direction::Read, 4096, 50_000_000), Err(100_000_000));
    }

    #[test]
    fn a_pair_of_trim_and_write_waits_for_both() {
        let mut pacing = pacing("rw=randtrimwrite rate_iops=10,20,10");
        pacing.start(Direction::Trim, 4096, 0).unwrap();
        pacing.start(Direction::Write, 4096, 0).unwrap();
        assert_eq!(pacing.choose(Operations::TrimWrite, 60_000_000), Choice::Wait(100_000_000));
    }

    #[test]
    fn pauses_come_after_so_many_completions_and_bound_the_depth() {
        let mut pacing = pacing("rw=randread iodepth=8 thinktime=1ms thinktime_spin=200 thinktime_blocks=2");
        assert_eq!(pacing.depth(), 2);
        pacing.completed(None, 0);
        assert_eq!(pacing.pause(0), None);
        pacing.completed(None, 1000);
        assert_eq!(pacing.pause(2000), Some((201_000, true)));
        assert_eq!(pacing.pause(201_000), Some((1_001_000, false)));
        assert_eq!(pacing.pause(1_001_000), None);
        assert_eq!(pacing.pause(0), None, "a pause that is over does not come back");
    }

    #[test]
    fn a_search_grows_and_ends() {
        let mut pacing =
            pacing("rw=randread iodepth=4 latency_target=1ms latency_window=1ms time_based=1 runtime=60");
        assert_eq!(pacing.depth(), 1);
        let mut now_ns = 0;
        for _ in 0..100 {
            for _ in 0..16 {
                // Three at once are too many.
                let latency_ns = if pacing.depth() > 2 { 2_000_000 } else { 500_000 };
                pacing.completed(Some(latency_ns), now_ns);
            }
            now_ns += 2_000_000;
            pacing.tick(now_ns).unwrap();
        }
        assert!(pacing.has_ended());
        assert_eq!(pacing.depth(), 2);
    }

    #[test]
    fn nothing_asked_is_nothing_done() {
        let pacing = pacing("rw=randread iodepth=4");
        assert!(!pacing.is_needed());
        assert_eq!((pacing.choose(MIX, 0), pacing.depth()), (Choice::Any, 4));
    }
}
