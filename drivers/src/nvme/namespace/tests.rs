//! What controllers may say, sensible and absurd.

use proptest::prelude::*;
use zerocopy::{FromBytes, FromZeros};

use super::*;

fn says() -> Says<'static> {
    Says {
        address: "test",
        max_transfer: Some(512 << 10),
        min_page_shift: 12,
        commands: NvmCommands::WRITE_ZEROES | NvmCommands::DATASET_MANAGEMENT,
        sgl: true,
        identify: Box::leak(Box::new(IdentifyController::new_zeroed())),
        nvm: Some((0, 0, 0)),
    }
}

fn identify(data_shift: u8, blocks: u64) -> Box<IdentifyNamespace> {
    let mut identify = Box::new(IdentifyNamespace::new_zeroed());
    identify.nsze.set(blocks);
    identify.formats[0].data_shift = data_shift;
    identify
}

fn open(says: &Says<'_>, identify: &IdentifyNamespace) -> Result<Namespace, NvmeError> {
    says.namespace(Nsid(1), (identify, None), true)
}

#[test]
fn every_block_size_from_512_to_64_kib_is_served() {
    for shift in 9..=16 {
        let namespace = open(&says(), &identify(shift, 1000)).unwrap();
        assert_eq!(namespace.limits.request_alignment, 1 << shift);
        assert_eq!((namespace.blocks << namespace.block_shift), 1000 << shift);
        namespace.limits.validate().unwrap();
    }
}

#[test]
fn absurd_namespaces_are_refused_by_name() {
    let cases: [(&str, Box<IdentifyNamespace>); 6] = [
        ("LBADS is 8", identify(8, 1000)),
        ("LBADS is 17", identify(17, 1000)),
        ("LBADS is 0", identify(0, 1000)),
        ("NSZE is 0", identify(9, 0)),
        ("NSZE is 18446744073709551615", identify(9, u64::MAX)),
        ("FLBAS is 3", {
            let mut identify = identify(9, 1000);
            identify.flbas = 3;
            identify
        }),
    ];
    for (what, identify) in cases {
        let error = open(&says(), &identify).expect_err(what).to_string();
        assert!(error.contains(what), "{error} should name {what}");
    }
    let small = Says { max_transfer: Some(4096), ..says() };
    assert!(open(&small, &identify(13, 10)).expect_err("a block above MDTS").to_string().contains("MDTS"));
}

/// A format with blocks of 512 bytes and so much metadata, of which some may be protection information of a type.
fn with_metadata(bytes: u16, extended: bool, kind: u8) -> Box<IdentifyNamespace> {
    let mut identify = identify(9, 1 << 20);
    identify.formats[0].metadata_bytes.set(bytes);
    (identify.flbas, identify.dps) = (u8::from(extended) << 4, kind);
    identify
}

#[test]
fn metadata_is_transferred_unless_it_is_protection_information_alone() {
    let metadata = |bytes, extended, kind| {
        let namespace = open(&says(), &with_metadata(bytes, extended, kind)).unwrap();
        namespace.limits.validate().unwrap();
        let metadata = namespace.metadata;
        (metadata.protection.is_some(), metadata.beside(), metadata.behind(), namespace.limits.max_transfer)
    };
    let all = 512 << 10;
    assert_eq!(metadata(0, false, 0), (false, 0, 0, all));
    assert_eq!(metadata(8, false, 1), (true, 0, 0, all));
    assert_eq!(metadata(8, true, 3), (true, 0, 0, all));
    // MDTS does not count metadata in a buffer of its own, but that between the blocks.
    assert_eq!(metadata(8, false, 0), (false, 8, 0, all));
    assert_eq!(metadata(64, true, 0), (false, 0, 64, all / 576 * 512));
    assert_eq!(metadata(64, true, 2), (true, 0, 64, all / 576 * 512));
    // The buffer of its own has an end.
    assert_eq!(metadata(16 << 10, false, 0), (false, 16 << 10, 0, 32 * 512));
    assert_eq!(metadata(65_535, false, 0), (false, 65_535, 0, 8 * 512));
}

#[test]
fn limits_in_bytes_count_metadata_between_the_blocks() {
    let says = Says { nvm: Some((4, 0, 0)), ..says() };
    let zeroes = |bytes, extended, kind| {
        open(&says, &with_metadata(bytes, extended, kind)).unwrap().limits.max_pwrite_zeroes
    };
    assert_eq!(zeroes(8, false, 1), 64 << 10);
    assert_eq!(zeroes(8, true, 1), (64 << 10) / 520 * 512);
}

#[test]
fn absurd_metadata_is_refused_by_name() {
    for (what, bytes, kind) in [("DPS is 4", 8, 4), ("DPS is 7", 8, 7), ("MS is 7", 7, 1), ("MS is 0", 0, 2)]
    {
        let error = open(&says(), &with_metadata(bytes, false, kind)).expect_err(what).to_string();
        assert!(error.contains(what), "{error} should name {what}");
    }
    let small = Says { max_transfer: Some(512), ..says() };
    let error = open(&small, &with_metadata(8, true, 0)).expect_err("a block above MDTS").to_string();
    assert!(error.contains("MDTS"), "{error}");
}

#[test]
fn limits_come_from_the_device() {
    let mut identify = identify(12, 1 << 20);
    identify.nsfeat = 1 << 4;
    identify.nows.set(31);
    identify.npdg.set(15);
    let says = Says { nvm: Some((4, 1000, 0)), ..says() };
    let limits = open(&says, &identify).unwrap().limits;
    assert_eq!((limits.max_transfer, limits.opt_transfer), (512 << 10, 128 << 10));
    assert_eq!(limits.pdiscard_alignment, 64 << 10);
    assert_eq!(limits.max_pdiscard, (1000 << 12) / (64 << 10) * (64 << 10));
    assert_eq!(limits.max_pwrite_zeroes, 64 << 10);
    limits.validate().unwrap();
}

#[test]
fn without_limits_of_the_device_there_are_those_of_the_commands() {
    let says = Says { max_transfer: None, ..says() };
    let limits = open(&says, &identify(9, 1 << 30)).unwrap().limits;
    assert_eq!(u64::from(limits.max_transfer), MAX_TRANSFER_BYTES);
    assert_eq!(limits.max_pwrite_zeroes, 65_536 * 512);
    assert_eq!(limits.max_pdiscard, u64::from(u32::MAX) * 512);
    let silent = Says { nvm: None, max_transfer: Some(8192), ..self::says() };
    assert_eq!(open(&silent, &identify(9, 100)).unwrap().limits.max_pwrite_zeroes, 8192);
}

proptest! {
    #[test]
    fn whatever_a_device_says_the_limits_hold_together(
        bytes in prop::collection::vec(any::<u8>(), 384), shift in 0u8..20, nlbaf in 0u8..70, mdts in 0u32..24,
        wzsl: u8, dmrsl: u32, dmsl: u64, plain: bool,
    ) {
        let mut whole = vec![0; 4096];
        whole[..384].copy_from_slice(&bytes);
        let mut identify = IdentifyNamespace::read_from_bytes(&whole).unwrap();
        identify.nlbaf = nlbaf;
        let index = identify.format_index() % 64;
        identify.formats[index].data_shift = shift;
        if plain {
            identify.formats[index].metadata_bytes.set(0);
            identify.nsze.set(identify.nsze.get() >> 30);
        }
        let max_transfer = (mdts > 0).then(|| 4096 << mdts);
        let says = Says { max_transfer, nvm: Some((wzsl, dmrsl, dmsl)), ..says() };
        if let Ok(namespace) = open(&says, &identify) {
            prop_assert_eq!(namespace.limits.validate(), Ok(()));
            prop_assert!((namespace.blocks << namespace.block_shift) <= MAX_LENGTH_BYTES);
        }
    }
}
