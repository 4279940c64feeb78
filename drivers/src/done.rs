//! How completions go from a queue to the lane.

use corelane_engine::block::LeafCompletion;

/// Moves what is done in a queue of `tags` tags to `out`, as far as that has room, without growing either: by exchange
/// where both have room for every tag, else one by one.
#[inline]
pub fn hand_over(done: &mut Vec<LeafCompletion>, out: &mut Vec<LeafCompletion>, tags: usize) {
    if out.is_empty() && out.capacity() >= tags {
        std::mem::swap(out, done);
        return;
    }
    let room = out.capacity() - out.len();
    out.extend(done.drain(..room.min(done.len())));
}

#[cfg(test)]
mod tests {
    use corelane_dma::Payload;
    use corelane_engine::block::Tag;

    use super::*;

    fn numbered(tags: std::ops::Range<u32>, room: usize) -> Vec<LeafCompletion> {
        let mut list = Vec::with_capacity(room);
        list.extend(tags.map(|tag| LeafCompletion::new(Tag(tag), Ok(()), Payload::None)));
        list
    }

    fn tags(list: &[LeafCompletion]) -> Vec<u32> {
        list.iter().map(|completion| completion.tag.0).collect()
    }

    #[test]
    fn nothing_is_lost_and_nothing_grows() {
        for room in 1..12 {
            for waiting in 0..room {
                let mut done = numbered(100..108, 8);
                let mut out = numbered(0..waiting, room as usize);
                hand_over(&mut done, &mut out, 8);
                let moved = (room - waiting).min(8);
                assert_eq!(tags(&out), (0..waiting).chain(100..100 + moved).collect::<Vec<_>>());
                assert_eq!(tags(&done), (100 + moved..108).collect::<Vec<_>>());
                assert!(done.capacity() >= 8, "the queue keeps room for every tag");
            }
        }
    }
}
