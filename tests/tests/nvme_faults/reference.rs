//! What each block may hold.
//!
//! A write fills its blocks with its number. A block that was written holds that number; one whose write failed holds that or
//! what it could hold before; one that was read holds what was read. 0 stands for zeroes, which is what all hold at first.

use std::ops::Range;

/// The blocks of a part of a disk.
#[derive(Clone, Debug)]
pub struct Reference {
    block_bytes: usize,
    /// What each block may hold; never empty.
    blocks: Vec<Vec<u64>>,
}

impl Reference {
    /// `count` blocks of zeroes.
    pub fn new(block_bytes: usize, count: usize) -> Reference {
        Reference { block_bytes, blocks: vec![vec![0]; count] }
    }

    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The data of a write with this number, `bytes` long.
    pub fn data(number: u64, bytes: usize) -> Vec<u8> {
        number.to_le_bytes().repeat(bytes / 8)
    }

    /// The blocks were overwritten with this number, if `succeeded`; otherwise each may have been.
    pub fn wrote(&mut self, blocks: Range<usize>, number: u64, succeeded: bool) {
        for block in &mut self.blocks[blocks] {
            if succeeded {
                block.clear();
            }
            if !block.contains(&number) {
                block.push(number);
            }
        }
    }

    /// The blocks may be zeroes from now on, each for itself.
    pub fn discarded(&mut self, blocks: Range<usize>) {
        self.wrote(blocks, 0, false);
    }

    /// The blocks were read, and hold `data`.
    ///
    /// # Errors
    /// What one of them cannot hold.
    pub fn read(&mut self, blocks: Range<usize>, data: &[u8]) -> Result<(), String> {
        for (index, bytes) in blocks.zip(data.chunks_exact(self.block_bytes)) {
            let (words, _) = bytes.as_chunks::<8>();
            let number = u64::from_le_bytes(words[0]);
            if let Some(at) = words.iter().position(|word| *word != words[0]) {
                return Err(format!(
                    "block {index} holds {number:#x} up to byte {}, then something else",
                    at * 8
                ));
            }
            let allowed = &mut self.blocks[index];
            if !allowed.contains(&number) {
                return Err(format!("block {index} holds {number:#x}, but may only hold {allowed:x?}"));
            }
            *allowed = vec![number];
        }
        Ok(())
    }
}

#[test]
fn a_failed_write_leaves_both_open_until_it_is_read() {
    let mut reference = Reference::new(16, 3);
    reference.wrote(0..2, 7, true);
    reference.wrote(1..3, 8, false);
    let data = |numbers: [u64; 3]| numbers.map(|number| Reference::data(number, 16)).concat();
    for numbers in [[7, 7, 0], [7, 8, 0], [7, 7, 8], [7, 8, 8]] {
        assert_eq!(reference.clone().read(0..3, &data(numbers)), Ok(()));
    }
    for numbers in [[8, 7, 0], [7, 0, 0], [7, 8, 7]] {
        reference.clone().read(0..3, &data(numbers)).unwrap_err();
    }
    reference.read(0..3, &data([7, 8, 0])).unwrap();
    reference.read(0..3, &data([7, 7, 0])).unwrap_err();
    reference.discarded(0..1);
    reference.read(0..3, &data([0, 8, 0])).unwrap();
    let torn = [Reference::data(7, 8), Reference::data(8, 8)].concat();
    reference.read(0..1, &torn).unwrap_err();
}
