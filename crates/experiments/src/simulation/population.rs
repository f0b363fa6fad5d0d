//! Random users for the simulation.

use rand::Rng;
use rand_distr::{Binomial, Distribution, Gamma, LogNormal};

use crate::{Kind, Sample};

/// Behaviour of users, independent of their variant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Population {
    /// A share of the users converts at once.
    Rate(f64),
    /// A share `rate` of the users converts, of whom a share `daily` of those still left does so each day.
    Late { rate: f64, daily: f64 },
    /// Every user has a value: a sum of two exponentially distributed values.
    Mild,
    /// A share `buying` of the users has a log-normal value: few are large, but they make up much of the sum.
    Skewed { buying: f64, sigma: f64 },
    /// Like `Mild`, where one of the two values is also the value before the exposure.
    Habit,
}

/// Users of a variant so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arm {
    users: u64,
    /// Sample of the users with a value.
    valued: Sample,
    /// Users who will convert but have not done so yet.
    late: u64,
}

impl Arm {
    pub fn sample(&self) -> Sample {
        self.valued.with_zeros(self.users - self.valued.users)
    }
}

impl Population {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Rate(_) | Self::Late { .. } => Kind::Conversion,
            Self::Mild | Self::Skewed { .. } | Self::Habit => Kind::Mean,
        }
    }

    /// Mean of a user's value without an effect.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Rate(rate) | Self::Late { rate, .. } => *rate,
            Self::Mild | Self::Habit => 2.0,
            Self::Skewed { buying, sigma } => buying * (sigma * sigma / 2.0).exp(),
        }
    }

    /// Adds users to `arm`, with each value or rate increased by the share `effect`. Late users come once a day.
    pub fn add(&self, arm: &mut Arm, users: u64, effect: f64, random: &mut impl Rng) {
        arm.users += users;
        match self {
            Self::Rate(rate) => convert(arm, binomial(users, rate * (1.0 + effect), random)),
            Self::Late { rate, daily } => {
                arm.late += binomial(users, rate * (1.0 + effect), random);
                let now = binomial(arm.late, *daily, random);
                arm.late -= now;
                convert(arm, now);
            }
            Self::Mild => (0..users).for_each(|_| {
                let value = gamma(2.0, random);
                arm.valued.push(value * (1.0 + effect), 0.0);
            }),
            Self::Habit => (0..users).for_each(|_| {
                let (habit, whim) = (gamma(1.0, random), gamma(1.0, random));
                arm.valued.push((habit + whim) * (1.0 + effect), habit);
            }),
            Self::Skewed { buying, sigma } => {
                let values = LogNormal::new(0.0, *sigma);
                for _ in 0..binomial(users, *buying, random) {
                    let value = values.map_or(0.0, |values| values.sample(random));
                    arm.valued.push(value * (1.0 + effect), 0.0);
                }
            }
        }
    }
}

fn convert(arm: &mut Arm, users: u64) {
    arm.valued = arm.valued.merged(&Sample::rate(users, users));
}

pub fn binomial(users: u64, rate: f64, random: &mut impl Rng) -> u64 {
    match users {
        0 => 0,
        1 => u64::from(random.random::<f64>() < rate),
        _ => Binomial::new(users, rate).map_or(0, |binomial| binomial.sample(random)),
    }
}

pub fn gamma(shape: f64, random: &mut impl Rng) -> f64 {
    Gamma::new(shape, 1.0).map_or(0.0, |gamma| gamma.sample(random))
}
