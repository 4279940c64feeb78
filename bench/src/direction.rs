//! The three kinds of transfer that fio knows, and a table with one entry for each: what a workload issues, and what
//! statistics and reports count.

use std::ops::{Index, IndexMut};

/// What a request does to the device. The numbers are those of fio's logs (third column) and the order is that
/// of its reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// A read.
    Read = 0,
    /// A write.
    Write = 1,
    /// A discard.
    Trim = 2,
}

impl Direction {
    /// All three, in report order.
    pub const ALL: [Direction; 3] = [Direction::Read, Direction::Write, Direction::Trim];

    /// Position in report order, 0 to 2.
    #[inline]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Lower-case name, as reports and JSON keys have it.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::Read => "read",
            Direction::Write => "write",
            Direction::Trim => "trim",
        }
    }

    /// Upper-case name, as the group lines have it.
    pub const fn upper_name(self) -> &'static str {
        match self {
            Direction::Read => "READ",
            Direction::Write => "WRITE",
            Direction::Trim => "TRIM",
        }
    }

    /// First letter of the name, as the status line has it.
    pub const fn letter(self) -> char {
        match self {
            Direction::Read => 'r',
            Direction::Write => 'w',
            Direction::Trim => 't',
        }
    }
}

/// One `T` for each [`Direction`], as in fio's `bs=4k,8k,16k`: reads, writes, trims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerDirection<T>(pub [T; 3]);

impl<T: Clone> PerDirection<T> {
    /// The same value for all three.
    pub fn all(value: T) -> Self {
        Self([value.clone(), value.clone(), value])
    }
}

impl<T> PerDirection<T> {
    /// Builds the table by asking `make` for each direction.
    pub fn from_fn(mut make: impl FnMut(Direction) -> T) -> Self {
        PerDirection(Direction::ALL.map(&mut make))
    }

    /// The value of one direction.
    #[inline]
    pub fn get(&self, direction: Direction) -> &T {
        &self.0[direction.index()]
    }

    /// The value of one direction, to change it.
    #[inline]
    pub fn get_mut(&mut self, direction: Direction) -> &mut T {
        &mut self.0[direction.index()]
    }

    /// Entries with their directions, in report order.
    pub fn iter(&self) -> impl Iterator<Item = (Direction, &T)> {
        Direction::ALL.into_iter().zip(self.0.iter())
    }
}

impl<T> Index<Direction> for PerDirection<T> {
    type Output = T;

    #[inline]
    fn index(&self, direction: Direction) -> &T {
        &self.0[direction.index()]
    }
}

impl<T> IndexMut<Direction> for PerDirection<T> {
    #[inline]
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        &mut self.0[direction.index()]
    }
}
