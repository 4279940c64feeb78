//! Skewed choice of random blocks: Zipf, Pareto and Gaussian.
//!
//! Invariant: [`Skew::sample`] is below the number of slots it was built for.

use super::config::{Distribution, WorkloadError};
use super::rng::WorkRng;
use rand_distr::Distribution as _;

/// A skewed distribution over `0..slots`.
#[derive(Clone, Debug)]
pub(crate) struct Skew {
    shape: Shape,
    spread: Spread,
    slots: u64,
}

#[derive(Clone, Debug)]
enum Shape {
    Zipf(rand_distr::Zipf<f64>),
    /// `u^power` of the slots; the power makes a part `h` of the slots take `1 - h` of the draws.
    Pareto {
        power: f64,
    },
    Normal(rand_distr::Normal<f64>),
}

/// Where the ranks, hottest first, lie in the region.
#[derive(Clone, Copy, Debug)]
enum Spread {
    /// In order from a slot on, around the end.
    From(u64),
    /// Apart by a stride without common divisor with the number of slots: each rank its own slot, neighbours in heat
    /// far from each other.
    Stride { stride: u64, from: u64 },
}

fn check(
    distribution: &'static str,
    parameter: &'static str,
    value: f64,
    allowed: &'static str,
    right: bool,
) -> Result<(), WorkloadError> {
    if right {
        Ok(())
    } else {
        Err(WorkloadError::BadDistribution { distribution, parameter, value, allowed })
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl Spread {
    fn new(
        name: &'static str,
        center: Option<f64>,
        slots: u64,
        rng: &mut WorkRng,
    ) -> Result<Self, WorkloadError> {
        let Some(center) = center else {
            // The golden section puts successive ranks as far from all earlier ones as can be.
            let mut stride = ((slots as f64 * 0.618_033_988_749_895) as u64).clamp(1, slots);
            while greatest_common_divisor(stride, slots) != 1 {
                stride -= 1;
            }
            return Ok(Spread::Stride { stride, from: rng.below(slots) });
        };
        check(name, "center", center, "0 to 1", (0.0..=1.0).contains(&center))?;
        Ok(Spread::From(((slots as f64 * center) as u64).min(slots - 1)))
    }

    fn place(self, rank: u64, slots: u64) -> u64 {
        let (steps, from) = match self {
            Spread::From(from) => (u128::from(rank), from),
            Spread::Stride { stride, from } => (u128::from(rank) * u128::from(stride), from),
        };
        ((steps + u128::from(from)) % u128::from(slots)) as u64
    }
}

impl Skew {
    /// Of `slots` (1 at least); `None` for the uniform distribution.
    pub(crate) fn new(
        distribution: Distribution,
        slots: u64,
        rng: &mut WorkRng,
    ) -> Result<Option<Self>, WorkloadError> {
        let (shape, spread) = match distribution {
            Distribution::Uniform => return Ok(None),
            Distribution::Zipf { theta, center } => {
                let allowed = "a number above 0";
                check("zipf", "theta", theta, allowed, theta > 0.0 && theta.is_finite())?;
                let zipf = rand_distr::Zipf::new(slots as f64, theta).map_err(|_| {
                    WorkloadError::BadDistribution {
                        distribution: "zipf",
                        parameter: "theta",
                        value: theta,
                        allowed,
                    }
                })?;
                (Shape::Zipf(zipf), Spread::new("zipf", center, slots, rng)?)
            }
            Distribution::Pareto { h, center } => {
                check("pareto", "h", h, "between 0 and 1, both excluded", h > 0.0 && h < 1.0)?;
                let power = h.ln() / (1.0 - h).ln();
                (Shape::Pareto { power }, Spread::new("pareto", center, slots, rng)?)
            }
            Distribution::Normal { deviation_percent, center } => {
                let allowed = "0 to 100 (percent of the region)";
                let right = (0.0..=100.0).contains(&deviation_percent);
                check("normal", "deviation", deviation_percent, allowed, right)?;
                check("normal", "center", center, "0 to 1", (0.0..=1.0).contains(&center))?;
                let deviation = slots as f64 * deviation_percent / 100.0;
                let normal = rand_distr::Normal::new(slots as f64 * center, deviation).map_err(|_| {
                    WorkloadError::BadDistribution {
                        distribution: "normal",
                        parameter: "deviation",
                        value: deviation_percent,
                        allowed,
                    }
                })?;
                (Shape::Normal(normal), Spread::From(0))
            }
        };
        Ok(Some(Self { shape, spread, slots }))
    }

    /// The next slot.
    pub(crate) fn sample(&self, rng: &mut WorkRng) -> u64 {
        let slots = self.slots as f64;
        let rank = match &self.shape {
            Shape::Zipf(zipf) => zipf.sample(rng.inner()) - 1.0,
            Shape::Pareto { power } => slots * rng.unit().powf(*power),
            Shape::Normal(normal) => normal.sample(rng.inner()).floor().rem_euclid(slots),
        };
        // The cast saturates; rounding can reach the number of slots itself.
        self.spread.place((rank as u64).min(self.slots - 1), self.slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(distribution: Distribution, slots: u64, draws: u32) -> Vec<u64> {
        let mut rng = WorkRng::new(11);
        let skew = Skew::new(distribution, slots, &mut rng).unwrap().unwrap();
        let mut hits = vec![0u64; slots as usize];
        for _ in 0..draws {
            hits[skew.sample(&mut rng) as usize] += 1;
        }
        hits
    }

    #[test]
    fn zipf_frequencies_follow_the_power_law() {
        let hits = draw(Distribution::Zipf { theta: 1.2, center: Some(0.0) }, 1000, 400_000);
        let norm: f64 = (1..=1000).map(|k| f64::from(k).powf(-1.2)).sum();
        for rank in [1usize, 2, 3, 10, 30] {
            let expected = 400_000.0 * (rank as f64).powf(-1.2) / norm;
            let seen = hits[rank - 1] as f64;
            assert!((seen - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {seen}, not {expected}");
        }
    }

    #[test]
    fn scattering_only_moves_the_hot_blocks() {
        let mut scattered = draw(Distribution::Zipf { theta: 1.2, center: None }, 1000, 100_000);
        let in_order = draw(Distribution::Zipf { theta: 1.2, center: Some(0.0) }, 1000, 100_000);
        assert_ne!(scattered, in_order);
        let hottest = (0..1000).max_by_key(|&i| scattered[i]).unwrap();
        let neighbours = scattered[(hottest + 1) % 1000] + scattered[(hottest + 999) % 1000];
        assert!(neighbours < scattered[hottest] / 4, "hot blocks lie together");
        scattered.sort_unstable_by(|a, b| b.cmp(a));
        let (top, expected) = (scattered[0] as f64, in_order[0] as f64);
        assert!((top - expected).abs() < 6.0 * expected.sqrt(), "{top} against {expected}");
    }

    #[test]
    fn pareto_is_self_similar() {
        let hits = draw(Distribution::Pareto { h: 0.2, center: Some(0.0) }, 10_000, 200_000);
        let first_fifth: u64 = hits[..2000].iter().sum();
        let first_25th: u64 = hits[..400].iter().sum();
        assert!((first_fifth as f64 / 200_000.0 - 0.8).abs() < 0.01, "{first_fifth}");
        assert!((first_25th as f64 / 200_000.0 - 0.64).abs() < 0.01, "{first_25th}");
    }

    #[test]
    fn normal_has_its_mean_and_deviation() {
        let hits = draw(Distribution::Normal { deviation_percent: 10.0, center: 0.5 }, 10_000, 200_000);
        let moment = |f: &dyn Fn(f64) -> f64| {
            hits.iter().enumerate().map(|(at, &n)| n as f64 * f(at as f64)).sum::<f64>() / 200_000.0
        };
        let mean = moment(&|at| at);
        let deviation = moment(&|at| (at - mean).powi(2)).sqrt();
        assert!((mean - 5000.0).abs() < 10.0, "mean {mean}");
        assert!((deviation - 1000.0).abs() < 10.0, "deviation {deviation}");
    }

    #[test]
    fn edges_stay_in_range() {
        for slots in [1u64, 2, 3, 7] {
            for distribution in [
                Distribution::Zipf { theta: 1.0, center: None },
                Distribution::Zipf { theta: 4.0, center: Some(1.0) },
                Distribution::Pareto { h: 0.99, center: None },
                Distribution::Normal { deviation_percent: 100.0, center: 1.0 },
                Distribution::Normal { deviation_percent: 0.0, center: 1.0 },
            ] {
                assert_eq!(draw(distribution, slots, 1000).iter().sum::<u64>(), 1000);
            }
        }
    }

    #[test]
    fn wrong_parameters_are_named() {
        let mut rng = WorkRng::new(0);
        for (distribution, word) in [
            (Distribution::Zipf { theta: 0.0, center: None }, "theta=0"),
            (Distribution::Zipf { theta: f64::NAN, center: None }, "theta=NaN"),
            (Distribution::Zipf { theta: 1.2, center: Some(1.5) }, "center=1.5"),
            (Distribution::Pareto { h: 1.0, center: None }, "h=1"),
            (Distribution::Normal { deviation_percent: 101.0, center: 0.5 }, "deviation=101"),
        ] {
            let error = Skew::new(distribution, 10, &mut rng).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
