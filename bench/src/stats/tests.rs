//! Tests of the accumulators.

use proptest::prelude::*;

use super::*;

/// Value at the rank that `percent` of the samples do not exceed, from the samples themselves.
fn exact_percentile(sorted: &[u64], percent: f64) -> u64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn recorded(values: &[u64]) -> Latency {
    let mut latency = Latency::new(true);
    values.iter().for_each(|&ns| latency.record(ns));
    latency
}

fn latencies() -> impl Strategy<Value = Vec<u64>> {
    let spread = (0u32..41, 0u64..u64::MAX).prop_map(|(bits, value)| value % (1 << bits));
    proptest::collection::vec(spread.prop_map(|ns| ns.min(MAX_LATENCY_NS)), 1..400)
}

proptest! {
    #[test]
    fn percentiles_are_those_of_the_sorted_samples(values in latencies(), percent in 0.0f64..=100.0) {
        let latency = recorded(&values);
        let mut sorted = values;
        sorted.sort_unstable();
        let exact = exact_percentile(&sorted, percent);
        let told = latency.percentile_ns(percent).unwrap();
        prop_assert!(told.abs_diff(exact) as f64 <= exact as f64 / 1000.0, "told {told}, exact {exact}");
        prop_assert_eq!(latency.percentile_ns(100.0), sorted.last().copied());
    }

    #[test]
    fn moments_match_the_two_pass_formula(values in latencies()) {
        let latency = recorded(&values);
        let moments = latency.moments();
        let count = values.len() as f64;
        let mean = values.iter().map(|&v| v as f64).sum::<f64>() / count;
        let squared = values.iter().map(|&v| (v as f64 - mean).powi(2)).sum::<f64>();
        let stddev = if values.len() < 2 { 0.0 } else { (squared / (count - 1.0)).sqrt() };
        prop_assert_eq!(moments.samples(), values.len() as u64);
        prop_assert_eq!(Some(moments.min()), values.iter().min().copied());
        prop_assert_eq!(Some(moments.max()), values.iter().max().copied());
        prop_assert!((moments.mean() - mean).abs() <= mean * 1e-9);
        prop_assert!((moments.stddev() - stddev).abs() <= stddev * 1e-6 + 1e-6);
    }

    #[test]
    fn merging_equals_recording_together(left in latencies(), right in latencies()) {
        let mut merged = recorded(&left);
        merged.merge(&recorded(&right));
        let together = recorded(&[left, right].concat());
        prop_assert_eq!(merged.moments(), together.moments());
        prop_assert_eq!(merged.bins().collect::<Vec<_>>(), together.bins().collect::<Vec<_>>());
    }

    #[test]
    fn bins_hold_every_sample_near_its_value(values in latencies()) {
        let bins: Vec<LatencyBin> = recorded(&values).bins().collect();
        prop_assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), values.len() as u64);
        prop_assert!(bins.is_sorted_by(|a, b| a.value_ns < b.value_ns));
        for &value in &values {
            let near = |bin: &LatencyBin| bin.value_ns.abs_diff(value) as f64 <= value as f64 / 1000.0;
            prop_assert!(bins.iter().any(near), "{value} is in no bin");
        }
    }

    #[test]
    fn a_batch_of_depths_counts_as_its_requests(before in 0u32..200, requests in 0u32..200) {
        let mut batch = Distribution::default();
        batch.record_depths(before, requests);
        let mut single = Distribution::default();
        (1..=requests).for_each(|step| single.record_depth(before + step));
        prop_assert_eq!(batch, single);
    }

    #[test]
    fn job_figures_merge_like_one_job(requests in proptest::collection::vec(request(), 0..300), at in 0usize..300) {
        let at = at.min(requests.len());
        let job = |part: &[(Direction, u64, u64, u64)]| {
            let mut stats = JobStats::new(StatsConfig { lat_percentiles: true, ..StatsConfig::default() });
            for &(direction, bytes, slat, clat) in part {
                stats.record_request(direction, bytes, slat, clat);
                stats.depths.record_depth(slat as u32 % 100);
            }
            stats
        };
        let mut merged = job(&requests[..at]);
        merged.merge(&job(&requests[at..]));
        let together = job(&requests);
        prop_assert_eq!(merged.total_ios(), requests.len() as u64);
        prop_assert_eq!(merged.total_bytes(), together.total_bytes());
        prop_assert_eq!(merged.latency_bands(), together.latency_bands());
        prop_assert_eq!(merged.depths, together.depths);
        for direction in Direction::ALL {
            let (one, other) = (&merged.directions[direction], &together.directions[direction]);
            prop_assert_eq!(one.slat.moments(), other.slat.moments());
            prop_assert_eq!(one.lat.percentile_ns(99.0), other.lat.percentile_ns(99.0));
        }
    }
}

fn request() -> impl Strategy<Value = (Direction, u64, u64, u64)> {
    (0usize..3, 512u64..65536, 0u64..100_000, 0u64..10_000_000)
        .prop_map(|(direction, bytes, slat, clat)| (Direction::ALL[direction], bytes, slat, clat))
}

#[test]
fn deviation_survives_a_small_spread_on_a_large_mean() {
    let mut moments = Moments::default();
    let base = 1u64 << 40;
    for offset in [0, 1, 2, 3, 4] {
        moments.record(base + offset);
    }
    assert!((moments.stddev() - 2.5f64.sqrt()).abs() < 1e-9, "{}", moments.stddev());
}

#[test]
fn latencies_out_of_range_saturate_without_a_panic() {
    let latency = recorded(&[u64::MAX / 2, 0]);
    assert_eq!(latency.moments().max(), u64::MAX / 2);
    assert_eq!(latency.percentile_ns(1.0), Some(0));
    let top = latency.percentile_ns(100.0).unwrap();
    assert!((MAX_LATENCY_NS..2 * MAX_LATENCY_NS).contains(&top), "{top}");
}

#[test]
fn empty_latency_has_no_percentiles() {
    let latency = Latency::new(true);
    assert_eq!(latency.percentile_ns(50.0), None);
    assert_eq!(latency.moments().min(), 0);
    assert_eq!(latency.moments().stddev(), 0.0);
    assert_eq!(Latency::new(false).percentile_ns(50.0), None);
}

#[test]
fn bands_have_exclusive_upper_edges() {
    let mut bands = LatencyBands::default();
    for (ns, count) in [(0, 1), (1, 1), (2, 5), (999, 7), (1000, 11), (1999, 11), (2000, 13), (999_999, 17)] {
        bands.add(ns, count);
    }
    bands.add(1_000_000, 19);
    bands.add(1_999_999_999, 23);
    bands.add(2_000_000_000, 29);
    assert_eq!(bands.ns(), [2, 5, 0, 0, 0, 0, 0, 0, 0, 7]);
    assert_eq!(bands.us(), [22, 13, 0, 0, 0, 0, 0, 0, 0, 17]);
    assert_eq!(bands.ms(), [19, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23, 29]);
    assert_eq!(LatencyBands::label(11), ">=2000");
}

#[test]
fn distributions_have_fios_edges() {
    let mut depths = Distribution::default();
    for depth in [1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 5000] {
        depths.record_depth(depth);
    }
    assert_eq!(depths.counts(), &[1, 2, 2, 2, 2, 2, 2]);
    let mut batches = Distribution::default();
    for batch in [0, 1, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65] {
        batches.record_batch(batch);
    }
    assert_eq!(batches.counts(), &[1, 2, 2, 2, 2, 2, 1]);
    assert_eq!(batches.total(), 12);
}

#[test]
fn rare_events_stay_visible_in_shares() {
    let mut depths = Distribution::default();
    depths.record_depths(0, 1);
    for _ in 0..100_000 {
        depths.record_depth(8);
    }
    let shares = depths.shares_percent(depths.total());
    assert_eq!(shares[0], 0.1);
    assert_eq!(shares[1], 0.0);
    assert!(shares[3] > 99.9);
    assert_eq!(depths.shares_percent(0), [0.0; 7]);
}

#[test]
fn a_sampler_takes_one_sample_per_window() {
    let totals = |ios| LiveTotals {
        ios: PerDirection([ios, 0, 0]),
        bytes: PerDirection([ios * 4096, 0, 0]),
        ..LiveTotals::default()
    };
    let mut sampler = RateSampler::new(500, 1000, totals(0));
    assert_eq!(sampler.sample(1499, &totals(100)), None);
    let window = sampler.sample(1500, &totals(100)).unwrap();
    assert_eq!(window[Direction::Read], RateWindow { bytes_per_s: 819_200, iops: 200 });
    // A late sample is scaled by the time that really passed.
    let window = sampler.sample(2500, &totals(500)).unwrap();
    assert_eq!(window[Direction::Read].iops, 400);
    assert_eq!(sampler.due_ms(), 3000);
    let iops = &sampler.iops()[Direction::Read];
    assert_eq!((iops.min(), iops.max(), iops.mean(), iops.samples()), (200, 400, 300.0, 2));
    assert_eq!(sampler.bandwidth_kib()[Direction::Read].min(), 800);
    assert_eq!(sampler.iops()[Direction::Write].samples(), 0);
    assert_eq!(sampler.series().points.iter().map(|point| point.time_ms).collect::<Vec<_>>(), [1500, 2500]);
}

#[test]
fn rates_of_merged_jobs_add_up() {
    let mut left = RateStats::default();
    let mut right = RateStats::default();
    [100, 200, 300].into_iter().for_each(|rate| left.record(rate));
    [10, 20, 30].into_iter().for_each(|rate| right.record(rate));
    left.merge(&right);
    assert_eq!((left.min(), left.max(), left.mean(), left.samples()), (110, 330, 220.0, 6));
    let squared: f64 = 2.0 * 100.0 * 100.0 + 2.0 * 10.0 * 10.0;
    assert!((left.stddev() - (squared / 5.0).sqrt()).abs() < 1e-9);
}

#[test]
fn series_of_jobs_that_ran_together_are_summed() {
    let series = |points: &[(u64, u64)]| RateSeries {
        window_ms: 500,
        points: points
            .iter()
            .map(|&(time_ms, iops)| {
                let mut point = RatePoint { time_ms, ..RatePoint::default() };
                point.rates[Direction::Read].iops = iops;
                point
            })
            .collect(),
    };
    let mut left = series(&[(500, 1), (1000, 2), (1500, 3)]);
    left.merge(&series(&[(1010, 20), (1490, 30), (2000, 40)]));
    assert_eq!(left, series(&[(500, 1), (1000, 22), (1500, 33), (2000, 40)]));
    let mut empty = RateSeries::default();
    empty.merge(&left);
    assert_eq!(empty, left);
}

#[test]
fn live_counters_show_what_was_published() {
    let live = LiveCounters::default();
    let mut stats = JobStats::new(StatsConfig::reduced());
    stats.record_done(Direction::Write, 512);
    stats.record_done_batch(Direction::Write, 3, 1536);
    stats.record_sync(None);
    assert_eq!(live.totals(), LiveTotals::default());
    live.publish(&stats, 7);
    let totals = live.totals();
    assert_eq!(totals.ios.0, [0, 4, 0]);
    assert_eq!(totals.bytes.0, [0, 2048, 0]);
    assert_eq!((totals.syncs, totals.depth), (1, 7));
    assert!(std::mem::align_of::<LiveCounters>() >= 128);
}

#[test]
fn reduced_statistics_keep_no_histogram() {
    let stats = JobStats::new(StatsConfig::reduced());
    assert!(!StatsConfig::reduced().wants_clock());
    for direction in Direction::ALL {
        assert!(!stats.directions[direction].clat.has_histogram());
    }
    let default = JobStats::new(StatsConfig::default());
    assert!(default.directions[Direction::Read].clat.has_histogram());
    assert!(!default.directions[Direction::Read].slat.has_histogram());
}

#[test]
fn the_first_error_is_kept() {
    let mut left = JobStats::new(StatsConfig::reduced());
    let mut right = JobStats::new(StatsConfig::reduced());
    right.errors.record(5);
    right.errors.record(28);
    left.merge(&right);
    assert_eq!(left.errors, ErrorCount { total: 2, first_errno: 5 });
}

#[test]
fn cpu_time_of_a_busy_thread_is_seen() {
    let start = CpuUse::of_this_thread();
    let mut sum = 0u64;
    // Enough work for the kernel's accounting to move by at least a microsecond, whatever the machine.
    while CpuUse::of_this_thread().since(&start).user_us + CpuUse::of_this_thread().since(&start).system_us
        == 0
    {
        sum = std::hint::black_box(sum.wrapping_add(1));
    }
    let used = CpuUse::of_this_thread().since(&start);
    assert!(used.user_us + used.system_us > 0);
    assert_eq!(start.since(&start), CpuUse::default());
}

#[test]
fn clock_agrees_with_the_system_clock() {
    let clock = Clock::new();
    let (start, system) = (clock.raw(), std::time::Instant::now());
    while system.elapsed().as_millis() < 20 {
        std::hint::spin_loop();
    }
    let (end, elapsed) = (clock.raw(), system.elapsed());
    let ns = clock.ns_between(start, end) as f64;
    // Wide on purpose: the thread may be descheduled between the two readings.
    assert!(ns >= 19_000_000.0 && ns <= elapsed.as_nanos() as f64 * 1.5, "{ns} ns against {elapsed:?}");
    assert_eq!(clock.ns_between(end, start), 0);
    let ticks = clock.ticks(1_000_000);
    assert!(clock.ns(ticks).abs_diff(1_000_000) <= 2, "{}", clock.ns(ticks));
}
