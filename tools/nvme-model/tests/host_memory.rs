//! The host memory buffer as the model takes it, uses it, and notices what a host does with it.

mod initiator;

use corelane_nvme_model::{Device, HostMemoryWish, ModelConfig, NamespaceConfig, Rule};
use initiator::{Cmd, DATA, Initiator};

const LIST: u64 = DATA + 0x10_0000;
const BUFFER: u64 = DATA + 0x20_0000;
const ENABLE: u32 = 1;
const RETURN: u32 = 2;

fn started() -> Initiator {
    let wish = HostMemoryWish { preferred: 16, least: 4, least_piece: 2, most_pieces: 2 };
    let mut host = Initiator::new(ModelConfig {
        host_memory: Some(wish),
        ..ModelConfig::new(vec![NamespaceConfig::ram(1 << 20)])
    });
    let identify = host.identify(1, 0);
    assert_eq!((identify[272], identify[276], identify[332], identify[336]), (16, 4, 2, 2));
    host
}

/// Puts a list of pieces there: of so many pages, at so many pages from the buffer's start. The command that gives them.
fn give(host: &Initiator, flags: u32, pieces: &[(u64, u32)]) -> Cmd {
    let bytes: Vec<u8> = pieces
        .iter()
        .flat_map(|(at, pages)| {
            let address = (BUFFER + at * 4096).to_le_bytes();
            [address, u64::from(*pages).to_le_bytes()].concat()
        })
        .collect();
    host.put(LIST, &bytes);
    let pages = pieces.iter().map(|(_, pages)| pages).sum();
    let address = (LIST as u32, (LIST >> 32) as u32);
    let command = Cmd::new(9, 0).set(10, 0x0D).set(11, flags).set(12, pages);
    command.set(13, address.0).set(14, address.1).set(15, pieces.len() as u32)
}

fn status(host: &mut Initiator, flags: u32, pieces: &[(u64, u32)]) -> u16 {
    let command = give(host, flags, pieces);
    host.admin(command).status
}

fn take_back(host: &mut Initiator) {
    assert_eq!(host.admin(Cmd::new(9, 0).set(10, 0x0D)).status, 0);
}

#[test]
fn what_it_gets_is_told_by_get_features() {
    let mut host = started();
    assert_eq!(host.admin(Cmd::new(10, 0).prp(DATA, 0).set(10, 0x0D)).result, 0);
    assert_eq!(status(&mut host, ENABLE, &[(0, 4), (10, 2)]), 0);
    let got = host.admin(Cmd::new(10, 0).prp(DATA, 0).set(10, 0x0D));
    assert_eq!((got.status, got.result), (0, 1));
    assert_eq!(host.bytes(DATA, 16)[..4], [6, 0, 0, 0]);
    assert_eq!(host.bytes(DATA, 16)[12..], [2, 0, 0, 0]);
    assert_eq!(host.model.host_memory().0, 6 * 4096);
    take_back(&mut host);
    assert_eq!(host.model.host_memory().0, 0);
    host.assert_clean();
}

#[test]
fn a_buffer_that_is_not_what_it_asked_for_is_refused() {
    let mut host = started();
    for pieces in [&[(0, 3)][..], &[(0, 4), (8, 1)], &[(0, 2), (4, 2), (8, 2)], &[]] {
        assert_eq!(status(&mut host, ENABLE, pieces), 0x02, "{pieces:?}");
        assert_eq!(host.rules(), [Rule::InvalidField]);
    }
    // Where there is no memory.
    assert_eq!(status(&mut host, ENABLE, &[(1 << 30, 4)]), 0x04);
    assert_eq!(host.rules(), [Rule::DmaFault]);
    assert_eq!(status(&mut host, ENABLE | RETURN, &[(0, 4)]), 0x02, "it never had one");
    assert_eq!(host.rules(), [Rule::InvalidField]);
    assert_eq!(status(&mut host, ENABLE, &[(0, 4)]), 0);
    assert_eq!(status(&mut host, ENABLE, &[(8, 4)]), 0x0C, "there is one");
    assert_eq!(host.rules(), [Rule::Sequence]);
}

#[test]
fn a_host_that_writes_there_is_noticed_until_it_has_taken_it_back() {
    let mut host = started();
    assert_eq!(status(&mut host, ENABLE, &[(0, 4)]), 0);
    host.put(BUFFER, &[0xEE; 4 * 4096]);
    for _ in 0..4 {
        host.identify(1, 0);
    }
    assert_eq!(host.rules(), [Rule::HostMemory; 4], "each page is found to be changed once");
    take_back(&mut host);
    host.put(BUFFER, &[0xEE; 4 * 4096]);
    let (_, uses) = host.model.host_memory();
    host.identify(1, 0);
    assert_eq!(host.model.host_memory(), (0, uses), "it is not used any more");
    assert_eq!(host.bytes(BUFFER, 4 * 4096), vec![0xEE; 4 * 4096]);
    host.assert_clean();
}

#[test]
fn memory_is_returned_after_a_reset_as_it_was() {
    let mut host = started();
    assert_eq!(status(&mut host, ENABLE, &[(0, 4)]), 0);
    host.identify(1, 0);
    host.disable();
    assert_eq!(host.model.host_memory().0, 0);
    host.enable();
    assert_eq!(status(&mut host, ENABLE | RETURN, &[(0, 4)]), 0);
    host.assert_clean();
    host.disable();
    host.put(BUFFER + 4096, &[0; 4096]);
    host.enable();
    assert_eq!(status(&mut host, ENABLE | RETURN, &[(0, 4)]), 0);
    assert_eq!(host.rules(), [Rule::HostMemory], "it was changed meanwhile");
}

#[test]
fn it_has_to_be_taken_back_before_a_shutdown_and_before_it_is_unmapped() {
    let mut host = started();
    assert_eq!(status(&mut host, ENABLE, &[(0, 4)]), 0);
    host.write32(0x14, 0x0046_4001);
    host.wait_status(0xC, 0x8);
    assert_eq!(host.rules(), [Rule::HostMemory]);
    host.disable();
    host.enable();
    assert_eq!(status(&mut host, ENABLE, &[(0, 4)]), 0);
    host.model.dma_unmap_all();
    assert!(host.rules().contains(&Rule::HostMemory));
}
