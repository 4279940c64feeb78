//! Flexible data placement as the model has it.

mod initiator;

use corelane_nvme_model::{ModelConfig, NamespaceConfig, PlacementConfig, Rule};
use initiator::{Cmd, DATA, Initiator};

const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const RECEIVE: u8 = 0x12;
const PLACEMENT: u32 = 2 << 20;

fn started() -> Initiator {
    let placement = Some(PlacementConfig { handles: 2, groups: 2 });
    let placed = NamespaceConfig { placement, ..NamespaceConfig::ram(1 << 20) };
    let mut host = Initiator::new(ModelConfig::new(vec![placed, NamespaceConfig::ram(1 << 20)]));
    host.make_pair(1, 16);
    host
}

fn write(host: &mut Initiator, nsid: u32, directive: u32, id: u16) -> u16 {
    let write = Cmd::new(WRITE, nsid).prp(DATA, 0).blocks(0, 1);
    let dword12 = write.0[12] | directive;
    host.run(1, write.set(12, dword12).set(13, u32::from(id) << 16)).status
}

#[test]
fn it_says_that_it_has_it_and_lists_its_handles() {
    let mut host = started();
    let identify = host.identify(1, 0);
    assert_eq!((identify[96], identify[98], identify[340]), (0x10, 0x08, 1), "CTRATT, ENDGIDMAX");
    assert_eq!((host.identify(0, 1)[102], host.identify(0, 2)[102]), (1, 0), "ENDGID");
    assert_eq!(write(&mut host, 1, PLACEMENT, 0x8001), 0);
    let status = Cmd::new(RECEIVE, 1).prp(DATA, 0).set(10, 1).set(11, 256 / 4 - 1);
    assert_eq!(host.run(1, status).status, 0);
    let bytes = host.bytes(DATA, 256);
    assert_eq!(bytes[14..16], [4, 0]);
    let handles: Vec<[u8; 4]> =
        bytes[16..].chunks(32).take(4).map(|one| [one[0], one[1], one[2], one[3]]).collect();
    assert_eq!(handles, [[0, 0, 0, 0], [0, 0x80, 0, 0], [1, 0, 1, 0], [1, 0x80, 1, 0]]);
    assert_eq!(bytes[16 + 3 * 32 + 8..][..4], [0xFF, 0xFF, 0, 0], "a block less can be written there");
    assert_eq!(host.run(1, Cmd::new(RECEIVE, 2).prp(DATA, 0).set(10, 1)).status, 0x29);
    host.assert_clean();
    assert_eq!(host.run(1, Cmd::new(RECEIVE, 1).prp(DATA, 0).set(10, 2)).status, 0x02);
    assert_eq!(host.rules(), [Rule::InvalidField]);
}

#[test]
fn writes_say_where_they_go_and_nothing_else_does() {
    let mut host = started();
    for (id, count) in [(0, 2), (0x8001, 1)] {
        for _ in 0..count {
            assert_eq!(write(&mut host, 1, PLACEMENT, id), 0);
        }
    }
    assert_eq!(host.model.placements(1), [(0, 2), (0x8001, 1)]);
    assert_eq!(host.model.placements(2), []);
    host.assert_clean();
    // An identifier that there is not, a directive that there is not, a namespace without, a read.
    assert_eq!(write(&mut host, 1, PLACEMENT, 2), 0);
    assert_eq!(host.rules(), [Rule::InvalidField]);
    assert_eq!(write(&mut host, 1, 1 << 20, 0), 0x02);
    assert_eq!(host.rules(), [Rule::InvalidField]);
    assert_eq!(write(&mut host, 2, PLACEMENT, 0), 0x02);
    assert_eq!(host.rules(), [Rule::InvalidField]);
    let read = Cmd::new(READ, 1).prp(DATA, 0).blocks(0, 1);
    assert_eq!(host.run(1, read.set(12, PLACEMENT)).status, 0);
    assert_eq!(host.rules(), [Rule::ReservedField]);
    assert_eq!(host.model.placements(1), [(0, 2), (0x8001, 1)]);
}
