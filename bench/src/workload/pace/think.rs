//! `thinktime`: pauses of a job that pretends to work on its data.

/// What counts the blocks (fio's `thinktime_blocks_type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkBy {
    /// Completed I/Os, fio's default.
    #[default]
    Complete,
    /// Issued I/Os.
    Issue,
}

/// Think time of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinkTimeConfig {
    /// How long a pause is, in ns; 0 turns it off.
    pub thinktime_ns: u64,
    /// How much of it, from its start, is spent busy (fio's `thinktime_spin`), in ns.
    pub spin_ns: u64,
    /// A pause follows each so many I/Os (fio's `thinktime_blocks`, default 1). 0 leaves it to `iotime_ns`, or is 1
    /// without that.
    pub blocks: u64,
    /// A pause follows so many ns of I/O (fio's `thinktime_iotime`); 0 turns that off.
    pub iotime_ns: u64,
    /// Which I/Os are counted.
    pub by: ThinkBy,
}

impl Default for ThinkTimeConfig {
    fn default() -> Self {
        Self { thinktime_ns: 0, spin_ns: 0, blocks: 1, iotime_ns: 0, by: ThinkBy::Complete }
    }
}

/// A pause: until `resume_ns` no I/O is issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Until then the job keeps its core busy; now or before when it need not.
    pub spin_until_ns: u64,
    /// Then it goes on.
    pub resume_ns: u64,
}

/// Counts I/Os up to the next pause.
#[derive(Clone, Debug)]
pub struct ThinkTime {
    config: ThinkTimeConfig,
    blocks: u64,
    since_ns: u64,
}

impl ThinkTime {
    /// For a job that starts at `start_ns`.
    pub fn new(config: ThinkTimeConfig, start_ns: u64) -> Self {
        Self { config, blocks: 0, since_ns: start_ns }
    }

    /// Whether there are pauses at all, counted by `by`; if not, there is no need to tell of I/Os.
    pub fn counts(&self, by: ThinkBy) -> bool {
        self.config.thinktime_ns > 0 && self.config.by == by
    }

    /// Notes an I/O issued or completed, whichever [`counts`](Self::counts); says whether a pause begins now.
    pub fn note(&mut self, now_ns: u64) -> Option<Pause> {
        let config = &self.config;
        if config.thinktime_ns == 0 {
            return None;
        }
        self.blocks += 1;
        let every = if config.blocks == 0 && config.iotime_ns == 0 { 1 } else { config.blocks };
        let by_blocks = every > 0 && self.blocks >= every;
        let by_time = config.iotime_ns > 0 && now_ns.saturating_sub(self.since_ns) >= config.iotime_ns;
        if !by_blocks && !by_time {
            return None;
        }
        let resume_ns = now_ns.saturating_add(config.thinktime_ns);
        let spin_until_ns = now_ns.saturating_add(config.spin_ns).min(resume_ns);
        (self.blocks, self.since_ns) = (0, resume_ns);
        Some(Pause { spin_until_ns, resume_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_follows_each_so_many_blocks() {
        let config = ThinkTimeConfig { thinktime_ns: 100, spin_ns: 30, blocks: 3, ..Default::default() };
        let mut think = ThinkTime::new(config, 0);
        let pauses: Vec<_> = (0..6).map(|now| think.note(now * 1000)).collect();
        let pause = |at: u64| Some(Pause { spin_until_ns: at + 30, resume_ns: at + 100 });
        assert_eq!(pauses, [None, None, pause(2000), None, None, pause(5000)]);
        assert!(think.counts(ThinkBy::Complete) && !think.counts(ThinkBy::Issue));
    }

    #[test]
    fn a_pause_follows_so_much_time_whichever_comes_first() {
        let config = ThinkTimeConfig {
            thinktime_ns: 500,
            blocks: 1000,
            iotime_ns: 2000,
            spin_ns: 9999,
            ..Default::default()
        };
        let mut think = ThinkTime::new(config, 0);
        assert_eq!(think.note(1999), None);
        assert_eq!(think.note(2000), Some(Pause { spin_until_ns: 2500, resume_ns: 2500 }));
        assert_eq!(think.note(4499), None);
        assert!(think.note(4500).is_some());
    }

    #[test]
    fn no_think_time_no_pause() {
        let mut think = ThinkTime::new(ThinkTimeConfig { iotime_ns: 1, ..Default::default() }, 0);
        assert_eq!(think.note(1000), None);
        assert!(!think.counts(ThinkBy::Complete));
        let mut each =
            ThinkTime::new(ThinkTimeConfig { thinktime_ns: 1, blocks: 0, ..Default::default() }, 0);
        assert!(each.note(0).is_some());
    }
}
